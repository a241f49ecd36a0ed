"""The command ``validity``: how well a small suite's ranking predicts the published one. No torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark import suites
from benchmark.board import leaderboard, validity
from benchmark.common.errors import UserError, shown
from benchmark.common.escapes import terminal
from benchmark.common.paths import resolved
from benchmark.common.project import DEFAULT_SUITE, LOCAL, REFERENCE
from benchmark.records.record import distrust
from benchmark.records.store import Store
from benchmark.scores.agreement import GAP

_WORST, _BLAMED = 8, 4


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("suite", metavar="SUITE", nargs="?", default=DEFAULT_SUITE, help=f"default: {DEFAULT_SUITE}")
    parser.add_argument("--backbone", help="default: the suite's first")
    parser.add_argument("--family", help="of the checkpoints; default: the suite's first")
    parser.add_argument("--results", type=resolved, metavar="DIR", help="default: results/reference, and results/local")


def command(arguments: argparse.Namespace) -> int:
    """``validity``: see :func:`show`."""
    return show(arguments.suite, arguments.results, arguments.backbone, arguments.family)


def show(suite: str, results: Path | None, backbone: str | None, family: str | None) -> int:
    """Print the agreement of each class of methods, its ceiling, where it errs, and each task's signal-to-noise.

    Args:
        results: records; by default the project's own, and the user's.

    Raises:
        UserError: an unknown suite, one that predicts nothing, or one of which nothing was run.
    """
    chosen = suites.load(suite)
    if chosen.predicts is None:
        known = [name for name in suites.names() if suites.load(name).predicts is not None]
        raise UserError(
            f"{suite} is held against no published ranking (no `predicts` in its YAML)",
            f"Suites that are: {', '.join(known)}",
        )
    folders = [results] if results else [folder for folder in (REFERENCE, LOCAL) if folder.is_dir()]
    backbone, family = backbone or chosen.backbones[0], family or chosen.families[0]
    every = [
        record
        for folder in folders
        for record in Store(folder, read_only=True).all(suite)
        if (record.spec.backbone, record.spec.family) == (backbone, family)
    ]
    # Of one run the last folder's record, unless another is more trusted.
    records = {record.run_id: record for record in sorted(every, key=lambda each: -distrust(each.provenance.source))}
    result = validity.validity(records.values())
    if result is None:
        raise UserError(
            f"no finished run of {suite} on {backbone}, family {family}, under {', '.join(map(shown, folders))}",
            f"Run some: ./run_all.sh --suite {suite}",
        )
    print(terminal("\n".join(report(result)), lines=True))
    return 0


def report(result: validity.Validity) -> list[str]:
    """The lines that are printed: Markdown that reads as text."""
    over_all = result.agreements[validity.ALL]
    lines = [
        f"{result.suite} against {result.target}, as published",
        "",
        *leaderboard.markdown_table(validity.table(result)),
        "",
        f"pairs: of methods at least {GAP:g} points apart in one published table; in brackets 95 % intervals over "
        "methods and seeds.",
        "ceiling: decision accuracy, tau-b and Spearman of another published table (another backbone) for the same "
        "methods.",
        f"left out: {', '.join(result.excluded)} (references, and rows the suite was chosen by).",
    ]
    if over_all.errors:
        lines += ["", f"Where it errs, the widest published gaps first ({len(over_all.errors)} pairs in all):"]
        lines += [_error(*pair) for pair in over_all.errors[:_WORST]]
        lines += ["", "With whom: methods taken out one after another, the one with the most errors left each time:"]
        lines += [
            f"  {each.method}: {each.wrong} of its {each.of} pairs; "
            f"decision accuracy of the {each.pairs} pairs left {each.decision:.2f}"
            for each in over_all.blame[:_BLAMED]
            if each.pairs
        ]
    ratios = {task: ratio for task, ratio in result.signal_to_noise.items() if ratio == ratio}
    if ratios:
        lines += ["", "Signal to noise of each task (spread over methods by that over seeds):"]
        lines += [f"  {task} {ratio:.1f}" for task, ratio in ratios.items()]
    if said := validity.warning(result):
        lines += ["", said.replace("**", "")]
    return lines


def _error(first: str, second: str, predicted: float, measured: float) -> str:
    better, worse, gap, here = (
        (first, second, predicted, measured) if predicted > 0 else (second, first, -predicted, -measured)
    )
    return f"  {better} is published {gap:.1f} points above {worse}, measured {-here:.1f} below"
