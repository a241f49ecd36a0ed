"""The command ``compare``: two methods on the same samples. No torch."""

from __future__ import annotations

import argparse

from benchmark import suites
from benchmark.cli.options import SEVERAL_METHODS
from benchmark.common.escapes import terminal
from benchmark.common.paths import resolved
from benchmark.common.project import DEFAULT_SUITE, LOCAL, REFERENCE
from benchmark.suites import own as owned


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("first", metavar=SEVERAL_METHODS)
    parser.add_argument("second", metavar=SEVERAL_METHODS)
    parser.add_argument("--suite", default=DEFAULT_SUITE, metavar="NAME", help="or FILE.yaml, a suite of your own")
    parser.add_argument("--backbone", help="needed where the suite has records on several")
    parser.add_argument("--family", help="of the checkpoints; default: the suite's first, where several have records")
    parser.add_argument("--results", type=resolved, metavar="DIR", help="default: results/local, and results/reference")


def command(arguments: argparse.Namespace) -> None:
    """``compare``: difference, interval and wins by task. Raises UserError for what has no record."""
    from benchmark.board.comparison import compare
    from benchmark.records.store import Store

    suite = suites.load(arguments.suite) if owned.is_file(arguments.suite) else None
    name = suite.name if suite else arguments.suite
    folders = [arguments.results] if arguments.results else [f for f in (REFERENCE, LOCAL) if f.is_dir()]
    records = [r for f in folders for r in Store(f, read_only=True).all(name)]
    family = arguments.family or _usual(suite, name, {r.spec.family for r in records})
    place = (name, arguments.backbone, family)
    typed = suite.typed if suite else name
    print(terminal(compare(records, arguments.first, arguments.second, *place, typed=typed), lines=True))


def _usual(suite: suites.Suite | None, name: str, found: set[str]) -> str | None:
    """The first family of the suite, where several have records and it is among them."""
    if len(found) < 2 or (suite is None and name not in suites.names()):
        return None
    first = (suite or suites.load(name)).families[0]
    return first if first in found else None
