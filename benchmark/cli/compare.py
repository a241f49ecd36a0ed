"""The command ``compare``: two methods on the same samples. No torch."""

from __future__ import annotations

import argparse

from benchmark.cli.options import DEFAULT_SUITE, SEVERAL_METHODS
from benchmark.common.escapes import terminal
from benchmark.common.paths import resolved
from benchmark.common.project import LOCAL, REFERENCE


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("first", metavar=SEVERAL_METHODS)
    parser.add_argument("second", metavar=SEVERAL_METHODS)
    parser.add_argument("--suite", default=DEFAULT_SUITE)
    parser.add_argument("--backbone", help="needed where the suite has records on several")
    parser.add_argument("--family", help="of the checkpoints; needed where there are several")
    parser.add_argument("--results", type=resolved, metavar="DIR", help="default: results/local, and results/reference")


def command(arguments: argparse.Namespace) -> None:
    """``compare``: difference, interval and wins by task. Raises UserError for what has no record."""
    from benchmark.board.comparison import compare
    from benchmark.records.store import Store

    folders = [arguments.results] if arguments.results else [f for f in (REFERENCE, LOCAL) if f.is_dir()]
    records = [r for f in folders for r in Store(f, read_only=True).all(arguments.suite)]
    place = (arguments.suite, arguments.backbone, arguments.family)
    print(terminal(compare(records, arguments.first, arguments.second, *place), lines=True))
