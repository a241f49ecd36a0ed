"""How the experts of `llm-small` were chosen: ``python -m benchmark.assets.text.small.choice TRIAL ... --out DIR``.

Five numbers of a trial are looked at, means over the six tasks on validation questions. Public tables of merged LoRA
experts of a language model are those of Flan-T5 on GLUE (rank 16, base and large), so the values of experts and of
their average are theirs; Flan-T5 was trained on GLUE's tasks before, so that of the base is CLIP's, which was not. No
table gives the norm of such experts. No other merge's score is looked at before the choice is committed; every trial
stays in ``choice.json``. These rows of a board therefore say nothing of how well it predicts another.
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
from benchmark.assets.text.small.make import Base, Settings, make_family, states_of
from benchmark.domains.text.adapters import FOLDER
from benchmark.domains.text.embedded import restore
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

RECIPE = Settings().recipe
TRIALS: dict[str, Settings] = {
    "90 steps of 5e-4": Settings(),
    "90 steps of 2e-4": Settings(recipe=replace(RECIPE, lr=2e-4)),
    "90 steps of 1e-3": Settings(recipe=replace(RECIPE, lr=1e-3)),
    "60 steps of 5e-4": Settings(recipe=replace(RECIPE, steps=60)),
}


def share(means: Mapping[str, float]) -> dict[str, float]:
    """How far the average is on the way from base to experts, per cent, from each row's mean."""
    way = max(means["individual"] - means["pretrained"], 1e-9)
    return {"average_share": 100 * (means["average"] - means["pretrained"]) / way}


def numbers_of(base: Base, out: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """The five numbers of a made family on validation questions, and the scores behind them by task."""
    states = states_of(base, out, tasks)
    total = {k: torch.zeros_like(v) for k, v in base.weights.items()}
    norms: dict[str, float] = {}
    for task, state in states.items():
        vector = {k: state[k] - base.weights[k] for k in total}
        norms[task] = 100 * norm(vector) / norm(base.weights)
        total = {k: total[k] + vector[k] for k in total}
    scores: dict[str, dict[str, float]] = dict(read_manifest(out, restore(out))["validation"])
    for row, scale in {"average": 1 / len(tasks), "arithmetic": SCALE}.items():
        merged = added(base.weights, total, scale)
        scores[row] = {task: round(base.accuracy(task, merged), 2) for task in tasks}
    return five_numbers(scores, norms, share)


def run_trial(name: str, folder: Path) -> dict[str, Any]:
    """Make one trial's family in ``folder/NAME`` and measure it: its entry of ``choice.json``."""
    settings, tasks, base = TRIALS[name], suites.load("llm-small").tasks, Base()
    make_family(tasks, folder / name, settings=settings, base=base)
    return CHOICE.judged({"trial": name, "settings": settings.describe(), **numbers_of(base, folder / name, tasks)})


def adopt(log: Mapping[str, Any], folder: Path, out: Path = FOLDER) -> str:
    """Copy the chosen trial's family from ``folder/NAME`` to ``out``, the manifest last; returns its name.

    Raises:
        UserError: no trial keeps the rule, or the family there was made with other settings.
    """
    trial = chosen_trial(
        log, lambda name: read_manifest(folder / name, restore(folder / name)), f"{PROGRAM} {{!r}} --out {folder}"
    )
    name = str(trial["trial"])
    manifest = read_manifest(folder / name, restore(folder / name))
    logs = [f"logs/{task}.json" for task in manifest["validation"]["individual"]]
    copy_files([*logs, *manifest["configs"], *manifest["files"], "manifest.json"], folder / name, out)
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials, print their numbers, and keep them in ``choice.json``."""
    p = parser(PROGRAM, __doc__, TRIALS, FOLDER / "choice.json")
    args = p.parse_args(argv)
    check_trials(p, args.trials, TRIALS)
    adopted = (lambda log: adopt(log, args.out)) if args.adopt else None
    return run(args.trials, args.log, CHOICE, lambda name: run_trial(name, args.out), adopted)


if __name__ == "__main__":
    sys.exit(main())
