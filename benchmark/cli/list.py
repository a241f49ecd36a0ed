"""The command ``list``: suites, methods by what they see, a suite of the user's own. Read without torch."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import Any

import methods
from benchmark import suites
from benchmark.cli.show import WIDTH, method
from benchmark.common.errors import UserError
from benchmark.common.escapes import terminal
from benchmark.suites import own as owned


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "what",
        nargs="?",
        metavar="suites|methods|NAME|FILE.yaml",
        help="NAME: a method; FILE.yaml: a suite of your own, opened and checked; default: all suites and methods",
    )


def command(arguments: argparse.Namespace) -> None:
    """``list``: print what there is."""
    show(arguments.what)


def show(what: str | None) -> None:
    """Print suites, methods, both (None), one method as ``show`` does, or what a suite in a file comes to.

    Broken files of methods are named with their line.

    Raises MergingError for an unknown or broken method, UserError for a suite whose files are not as they should be.
    """
    if what is not None and owned.is_file(what):
        print(terminal("\n".join(own_suite(what)), lines=True))
        return
    if what not in (None, "suites", "methods"):
        print("\n".join(method(what)))
        return
    if what != "methods":
        print("\n".join(_suites()))
    if what != "suites":
        print("\n".join(_methods()))


def _suites() -> Iterator[str]:
    yield "suites"
    for name in suites.names():
        suite = suites.load(name)
        yield f"  {name:<30} {len(suite.tasks):>2} tasks  {', '.join(suite.backbones)}"
        yield from textwrap.wrap(suite.title, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _methods() -> Iterator[str]:
    """By what each sees, from nothing to labels; broken files at the end."""
    every = [methods.describe(name) for name in methods.names()]
    yield f"{len(every)} methods, by the data they see (keywords and scores: ./run_all.sh show NAME)"
    accesses = {about.access.describe(): None for about in every}
    for access in sorted(accesses, key=lambda said: (said != "none", said.startswith("labelled"), said)):
        yield f"  {'no data' if access == 'none' else access}"
        for about in every:
            if about.access.describe() == access:
                yield f"    {about.name:<18} {about.title:<28} {about.paper}"
    if faults := methods.broken():
        yield "broken files, left out with what they declare"
        yield from (f"  {fault}" for fault in faults)


def own_suite(file: str) -> Iterator[str]:
    """A suite of the user's own: encoder, images, and each task's classes and splits.

    Raises UserError for whatever of its files is not as it should be, every picture that cannot be read among it.
    """
    suite = suites.load(file)
    bench: Any = suites.open_bench(suite)
    yield f"{suite.name}: {suite.title}"
    yield f"  file     {suite.typed}"
    yield f"  encoder  {bench.encoder.name}; images: {bench.pixels.line()}"
    yield f"  methods  {', '.join(suite.methods)}"
    width = max(len("task"), *map(len, suite.tasks))
    yield f"  {'task':<{width}}  {'classes':>7}{'train':>8}{'val':>8}{'test':>8}"
    _look(bench)
    for task, images in bench.images.items():
        counts = "".join(f"{images.count(split) or '-':>8}" for split in ("train", "val", "test"))
        yield f"  {task:<{width}}  {len(images.classes.names):>7}{counts}"
    yield from (f"  {note}" for note in bench.notes)


def _look(bench: Any) -> None:
    """Every picture, which is then kept for the runs to come. Raises UserError that names all that cannot be read."""
    damage: list[UserError] = []
    for task, images in bench.images.items():
        for split in filter(images.count, ("train", "val", "test")):
            try:
                bench.source(task, split)
            except UserError as error:
                damage.append(error)
    if damage:
        raise UserError("\n  ".join(error.message for error in damage), damage[0].hint)
