"""How the committed base and experts were chosen: ``python -m benchmark.assets.vision.choice TRIAL ... --out DIR``.

A trial is a base and the experts fine-tuned from it, scored on validation images by three numbers only: pretrained,
individual, and the weight average's distance from individual. No other merge and no test image is looked at.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmark.assets.vision.family import FOLDER, Settings, make_family
from benchmark.checkpoints.families import save_json
from benchmark.common.paths import resolved

RULE = {"pretrained": "35 to 65", "individual": "at least 85", "individual - average": "at least 15"}

BASE, EXPERT = Settings().base, Settings().expert
TRIALS: dict[str, Settings] = {
    "chosen": Settings(),
}


def scores_of(manifest: dict[str, Any], suite: str) -> dict[str, Any]:
    """Mean validation scores in per cent of a made family, and whether they keep the rule."""
    rows = manifest["scores"]["validation"]
    average = rows["average"][suite]
    scores = {
        "pretrained": mean(rows["pretrained"][t] for t in average),
        "average": mean(average.values()),
        "individual": mean(rows["individual"][t] for t in average),
    }
    gap = scores["individual"] - scores["average"]
    keeps = 35 <= scores["pretrained"] <= 65 and scores["individual"] >= 85 and gap >= 15
    return {**{k: round(v, 1) for k, v in scores.items()}, "gap": round(gap, 1), "keeps_the_rule": keeps}


def run_trial(name: str, suites: list[str], folder: Path, threads: int, sources: Path | None) -> dict[str, Any]:
    """One trial's settings and its scores per suite; what an earlier trial has already trained is taken over."""
    from benchmark.domains.vision import embedded as vision

    settings, out = TRIALS[name], folder / name
    for other in TRIALS:
        source = folder / other
        same = (TRIALS[other].base, TRIALS[other].pool, TRIALS[other].base_seed) == (
            settings.base,
            settings.pool,
            settings.base_seed,
        )
        if same and (source / "base.safetensors").exists() and not out.exists():
            shutil.copytree(source / "heads", out / "heads")
            for file in ("text.safetensors", "base.safetensors"):
                shutil.copyfile(source / file, out / file)
    validation = {}
    for suite in suites:
        family = make_family(
            suite,
            vision.tasks(suite),
            out,
            settings=settings,
            base=True,
            threads=threads,
            sources=sources,
            splits=("validation",),
        )
        validation[suite] = scores_of(family, suite)
    return {"trial": name, **settings.describe(), "validation": validation}


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials, print their scores, and keep them in ``choice.json`` beside the committed family."""
    p = argparse.ArgumentParser(prog="python -m benchmark.assets.vision.choice", description=__doc__.splitlines()[0])
    p.add_argument("trials", nargs="+", choices=list(TRIALS))
    p.add_argument("--suites", nargs="+", default=["vision-mini-8"])
    p.add_argument("--out", type=resolved, required=True, metavar="DIR", help="a folder for the trials' files")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--sources", type=resolved, metavar="DIR", help="the unpacked packages of the data build")
    args = p.parse_args(argv)
    path = FOLDER / "choice.json"
    log: dict[str, Any] = {"rule": RULE, "judged_on": "validation images", "sentence": "", "trials": []}
    if path.exists():
        log = json.loads(path.read_text(encoding="utf-8"))
    for name in args.trials:
        entry = run_trial(name, args.suites, args.out, args.threads, args.sources)
        log["trials"] = [e for e in log["trials"] if e["trial"] != name] + [entry]
        save_json(path, log)
        print(json.dumps({name: entry["validation"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
