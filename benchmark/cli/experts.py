"""``symerge-bench assets experts SUITE``: what makes a suite's experts has a parser of its own, by the suite."""

from __future__ import annotations

import argparse
from functools import partial

from benchmark import suites
from benchmark.cli.options import Handed, later


def maker(suite: suites.Suite) -> str:
    """The module whose ``main`` shows the experts of a suite, or makes them again."""
    if suite.domain == "text":
        return "benchmark.assets.text.small.command" if suite.scale == "small" else "benchmark.assets.text.command"
    if suite.domain == "dense":
        return "benchmark.assets.dense.family"
    return "benchmark.assets.vision.small.command" if suite.scale == "small" else "benchmark.assets.vision.command"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the suites, each of which hands on the words after it."""
    parser.description = "Shows the scores of a suite's base and experts; with --retrain, trains them again."
    parser.epilog = "See what it takes for a suite: symerge-bench assets experts SUITE --help"
    names = parser.add_subparsers(dest="suite", metavar="SUITE", required=True, parser_class=Handed)
    for name in suites.names():
        suite = suites.load(name)
        names.add_parser(name, main=partial(_hand, maker(suite), name), help=suite.title)


def _hand(module: str, name: str, words: list[str]) -> int | None:
    status: int | None = later(module)([name, *words])
    return status
