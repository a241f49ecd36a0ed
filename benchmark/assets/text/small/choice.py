"""How the experts of `llm-small` were chosen: ``python -m benchmark.assets.text.small.choice TRIAL ... --out DIR``.

Each family (``--family``) has its trials and its log, ``choice.json`` or ``choice-FAMILY.json``, and one rule holds for
all.

Five numbers of a trial are looked at, means over the six tasks on validation questions. Public tables of merged LoRA
experts of a language model are those of Flan-T5 on GLUE (rank 16, base and large), so the values of experts and of
their average are theirs; Flan-T5 was trained on GLUE's tasks before, so that of the base is CLIP's, which was not. No
table gives the norm of such experts. No other merge's score is looked at before the choice is committed; every trial
stays in the log. These rows of a board therefore say nothing of how well it predicts another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmark import suites
from benchmark.assets.choice import (
    Rule,
    Wanted,
    added,
    check_trials,
    chosen_trial,
    copy_files,
    five_numbers,
    norm,
    parser,
    run,
)
from benchmark.assets.text.small import SUITE
from benchmark.assets.text.small.make import FAMILIES, RECIPE, Base, Settings, make_family, states_of
from benchmark.domains.text.chat_family import COMMITTED, FOLDER, folder_of, mend_of, option_of
from benchmark.domains.text.family import read_manifest

PROGRAM = "python -m benchmark.assets.text.small.choice"
SCALE = 0.3

RULE: dict[str, Wanted] = {
    "pretrained": Wanted(48.0, 12.0, "accuracy of the base, per cent; CLIP ViT-B/32's on eight tasks"),
    "individual": Wanted(84.6, 8.0, "accuracy of the experts, per cent; Flan-T5-base's"),
    "average_share": Wanted(
        43.0, 20.0, "how far the mean of the experts' weights is on the way from base to experts, per cent; "
        "Flan-T5-base 28, Flan-T5-large 59"
    ),
    "gain": Wanted(0.0, 3.0, "task arithmetic at 0.3 above the weight average, points; Flan-T5-base -0.8, -large 0.8"),
    "relative_norm": Wanted(2.0, 1.9, "norm of the experts' task vectors, per cent of the merged base's; not public"),
}  # fmt: skip
CHOICE = Rule(
    wanted=RULE,
    tie_break="of the trials that keep all five tolerances the fewest optimiser steps, then the least distance",
    judged_on="validation questions, experts as they are stored",
    rank=lambda settings: (settings["recipe"]["steps"],),
)

TRIALS: dict[str, dict[str, Settings]] = {
    COMMITTED: {
        "90 steps of 5e-4": Settings(),
        "90 steps of 2e-4": Settings(recipe=replace(RECIPE, lr=2e-4)),
        "90 steps of 1e-3": Settings(recipe=replace(RECIPE, lr=1e-3)),
        "60 steps of 5e-4": Settings(recipe=replace(RECIPE, steps=60)),
    },
    "rank16": {
        f"90 steps of {rate}": replace(FAMILIES["rank16"], recipe=replace(FAMILIES["rank16"].recipe, lr=float(rate)))
        for rate in ("5e-4", "2e-4")
    },
    "full": {
        f"90 steps of {rate}": replace(FAMILIES["full"], recipe=replace(RECIPE, lr=float(rate)))
        for rate in ("2e-5", "5e-5")
    },
}


def log_of(family: str) -> Path:
    """Where a family's trials are kept."""
    return FOLDER / ("choice.json" if family == COMMITTED else f"choice-{family}.json")


def share(means: Mapping[str, float]) -> dict[str, float]:
    """How far the average is on the way from base to experts, per cent, from each row's mean."""
    way = max(means["individual"] - means["pretrained"], 1e-9)
    return {"average_share": 100 * (means["average"] - means["pretrained"]) / way}


def numbers_of(base: Base, out: Path, tasks: Sequence[str], settings: Settings, family: str) -> dict[str, Any]:
    """The five numbers of a made family on validation questions, and the scores behind them by task."""
    states = states_of(base, out, tasks, settings)
    total = {k: torch.zeros_like(v) for k, v in base.weights.items()}
    norms: dict[str, float] = {}
    for task, state in states.items():
        vector = {k: state[k] - base.weights[k] for k in total}
        norms[task] = 100 * norm(vector) / norm(base.weights)
        total = {k: total[k] + vector[k] for k in total}
    scores: dict[str, dict[str, float]] = dict(read_manifest(out, mend_of(family, out))["validation"])
    for row, scale in {"average": 1 / len(tasks), "arithmetic": SCALE}.items():
        merged = added(base.weights, total, scale)
        scores[row] = {task: round(base.accuracy(task, merged), 2) for task in tasks}
    return five_numbers(scores, norms, share)


def run_trial(name: str, folder: Path, family: str = COMMITTED) -> dict[str, Any]:
    """Make one trial's family in ``folder/NAME`` and measure it: its entry of the log."""
    settings, tasks, base = TRIALS[family][name], suites.load(SUITE).tasks, Base()
    make_family(tasks, folder / name, settings=settings, base=base, name=family)
    numbers = numbers_of(base, folder / name, tasks, settings, family)
    return CHOICE.judged({"trial": name, "settings": settings.describe(), **numbers})


def adopt(log: Mapping[str, Any], folder: Path, out: Path | None = None, family: str = COMMITTED) -> str:
    """Copy the chosen trial's family from ``folder/NAME`` to where the suite reads it, or ``out``, the manifest last.

    Returns its name.

    Raises:
        UserError: no trial keeps the rule, or the family there was made with other settings.
    """

    def manifest_of(name: str) -> dict[str, Any]:
        return read_manifest(folder / name, mend_of(family, folder / name))

    trial = chosen_trial(log, manifest_of, f"{PROGRAM} {{!r}}{option_of(family)} --out {folder}")
    name = str(trial["trial"])
    manifest = manifest_of(name)
    logs = [f"logs/{task}.json" for task in manifest["validation"]["individual"]]
    files = [*logs, *manifest["configs"], *manifest["files"], "manifest.json"]
    copy_files(files, folder / name, out or folder_of(family))
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials, print their numbers, and keep them in the log."""
    known = list(dict.fromkeys(name for trials in TRIALS.values() for name in trials))
    p = parser(PROGRAM, __doc__, known, log_of(COMMITTED))
    p.add_argument("--family", choices=TRIALS, default=COMMITTED, help=f"default {COMMITTED}")
    p.set_defaults(log=None)
    args = p.parse_args(argv)
    trials, log = TRIALS[args.family], args.log or log_of(args.family)
    check_trials(p, args.trials, trials)
    adopted = (lambda log: adopt(log, args.out, family=args.family)) if args.adopt else None
    return run(args.trials, log, CHOICE, lambda name: run_trial(name, args.out, args.family), adopted)


if __name__ == "__main__":
    sys.exit(main())
