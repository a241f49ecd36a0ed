"""How base, heads and experts were chosen: ``python -m benchmark.assets.vision.small.choice TRIAL ... --out DIR``.

A trial is a family made with some settings. Five numbers of it are looked at, means over the eight tasks on validation
images, each beside the public value at full scale (CLIP ViT-B/32, eight tasks) and a tolerance. No other merge's score
is looked at before the choice is committed; every trial stays in ``choice.json``. These rows of a board therefore say
nothing of how well it predicts another. ``--adopt`` puts the chosen trial's files where the suites read them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

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
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision.small.make import BACKBONE, FOLDER, Settings, load_expert, load_head, make_family
from benchmark.checkpoints.families import read_manifest
from benchmark.common.errors import UserError
from benchmark.common.paths import resolved
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.backbones import get_backbone

PROGRAM = "python -m benchmark.assets.vision.small.choice"
TASKS = "vision-mini-8"
SCALE = 0.3


RULE: dict[str, Wanted] = {
    "pretrained": Wanted(48.0, 8.0, "accuracy of the base under the heads, per cent"),
    "individual": Wanted(90.5, 3.0, "accuracy of the experts, per cent"),
    "average": Wanted(65.8, 6.0, "accuracy of the mean of the experts' weights, per cent"),
    "gain": Wanted(3.3, 2.0, "task arithmetic at 0.3 above the weight average, points"),
    "relative_norm": Wanted(0.4, 0.2, "norm of the experts' task vectors, per cent of the base's"),
}
TIE_BREAK = (
    "of the trials that keep all five tolerances the smallest image, then the fewest optimiser steps (what "
    "costs least to evaluate and to make), then the least distance"
)

EXPERT = Settings().expert
TRIALS: dict[str, Settings] = {
    "28 pixels": Settings(),
    "28 pixels, lr 2.5e-5": Settings(expert=replace(EXPERT, lr=2.5e-5)),
    "28 pixels, 100 steps": Settings(expert=replace(EXPERT, steps=100, warmup=10)),
    "28 pixels, 300 steps of lr 2e-5": Settings(expert=replace(EXPERT, steps=300, warmup=30, lr=2e-5)),
    "28 pixels, scale 20": Settings(head_scale=20.0),
    "28 pixels, 64 shots": Settings(shots=64),
    "42 pixels": Settings(image_size=42),
    "42 pixels, lr 2.5e-5": Settings(image_size=42, expert=replace(EXPERT, lr=2.5e-5)),
}


CHOICE = Rule(
    wanted=RULE,
    tie_break=TIE_BREAK,
    judged_on="validation images, experts as they are stored",
    rank=lambda settings: (settings["image_size"], settings["expert"]["steps"]),
)
distance, broken, decide, logged = CHOICE.distance, CHOICE.broken, CHOICE.decide, CHOICE.logged


def numbers_of(out: Path, tasks: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The five numbers of a made family on validation images, and the scores behind them by task."""
    base = {k: v.float() for k, v in load_file(out / "base.safetensors").items()}
    states = {t: load_expert(out, t) for t in tasks}
    total = {k: sum((s[k] - base[k] for s in states.values()), torch.zeros_like(base[k])) for k in base}
    merged = {"average": added(base, total, 1 / len(tasks)), "arithmetic": added(base, total, SCALE)}
    scores: dict[str, dict[str, float]] = dict(read_manifest(out)["validation"])
    rows = {row: finetune.load_encoder(state, settings.backbone()) for row, state in merged.items()}
    for task in tasks:
        data, head = vision.load_split(task, "validation"), load_head(out / f"heads/{task}.safetensors")
        for row, encoder in rows.items():
            scores.setdefault(row, {})[task] = round(finetune.accuracy(encoder, head, data.images, data.labels), 2)
    norms = {t: 100 * norm({k: s[k] - base[k] for k in base}) / norm(base) for t, s in states.items()}
    return five_numbers(scores, norms, lambda means: {"average": means["average"]})


def run_trial(name: str, folder: Path, sources: Path | None) -> dict[str, Any]:
    """Make one trial's family in ``folder/NAME`` and measure it: its entry of ``choice.json``."""
    settings, tasks = TRIALS[name], vision.tasks(TASKS)
    make_family(tasks, folder / name, settings=settings, sources=sources, whole=True)
    return CHOICE.judged({"trial": name, "settings": settings.describe(), **numbers_of(folder / name, tasks, settings)})


def adopt(log: Mapping[str, Any], folder: Path, out: Path = FOLDER) -> str:
    """Copy the chosen trial's family from ``folder/NAME`` to ``out``, the manifest last; returns its name.

    Raises:
        UserError: no trial keeps the rule; the family there was made with other settings; or the backbone is one for
            images of another size.
    """
    trial = chosen_trial(log, lambda name: read_manifest(folder / name), f"{PROGRAM} {{!r}} --out {folder}")
    name = str(trial["trial"])
    size, expected = get_backbone(BACKBONE).image_size, trial["settings"]["image_size"]
    if size != expected:
        raise UserError(
            f"{BACKBONE} is for images of {size} pixels, the chosen trial {name!r} for {expected}",
            f"Write image_size {expected} at {BACKBONE} in benchmark/domains/vision/backbones.py",
        )
    copy_files([*read_manifest(folder / name)["files"], "manifest.json"], folder / name, out)
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials, print their numbers, and keep them in ``choice.json``."""
    p = parser(PROGRAM, __doc__, TRIALS, FOLDER / "choice.json")
    p.add_argument("--sources", type=resolved, metavar="DIR", help="where the pinned package is kept")
    args = p.parse_args(argv)
    check_trials(p, args.trials, TRIALS)
    adopted = (lambda log: adopt(log, args.out)) if args.adopt else None
    return run(args.trials, args.log, CHOICE, lambda name: run_trial(name, args.out, args.sources), adopted)


if __name__ == "__main__":
    sys.exit(main())
