"""The command ``schedule``: what a whole board takes on N GPUs."""

from __future__ import annotations

import argparse

from benchmark.cli.options import SEVERAL_METHODS, Seeds
from benchmark.common.project import REFERENCE


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add("--gpus", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="default 1 8 64")
    add("--suite", nargs="+", default=["vision-8", "vision-14", "vision-20"], metavar="NAME")
    add("--backbone", nargs="+", metavar="NAME", help="default: all of the first suite's")
    add("--methods", nargs="+", metavar=SEVERAL_METHODS, help="default: the whole registry")
    add("--without", nargs="+", default=[], metavar="NAME", help="methods left out")
    add("--seeds", nargs="+", action=Seeds, default=[0, 1, 2, 3, 4], metavar="N", help="default 0 to 4")
    add("--tflops", type=float, default=20.0, metavar="N", help="of a GPU, sustained; default 20")
    add("--bandwidth", type=float, default=1.0, metavar="TB/S", help="of its memory; default 1")
    add("--memory", type=float, default=80.0, metavar="GIB", help="of a GPU; default 80")
    add("--longest", type=int, default=5, metavar="N", help="how many of the longest runs to name")


def command(arguments: argparse.Namespace) -> int:
    """``schedule``: print the page. Raises UserError for suites and numbers that give no schedule."""
    from benchmark.budget import schedule

    question = schedule.Question(
        gpus=arguments.gpus,
        suites=arguments.suite,
        backbones=arguments.backbone or (),
        methods=arguments.methods,
        without=arguments.without,
        seeds=arguments.seeds,
        tflops=arguments.tflops,
        bandwidth=arguments.bandwidth,
        memory=arguments.memory,
        longest=arguments.longest,
    )
    return schedule.main(question, REFERENCE)
