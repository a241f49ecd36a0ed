"""The command ``assets``: data, checkpoints and experts, each with verbs of its own."""

from __future__ import annotations

import argparse

from benchmark.cli.options import verbs


def options(parser: argparse.ArgumentParser) -> None:
    """Add what there are assets of."""
    modules = {
        "data": ("benchmark.cli.data", "check, fetch or rebuild the data that suites read"),
        "checkpoints": ("benchmark.cli.checkpoints", "public checkpoints into families that suites read"),
        "experts": ("benchmark.cli.experts", "scores of the project's own experts, or train them again"),
    }
    verbs(parser, modules, dest="kind")
