"""The command ``list``: suites, methods, and one method with its keywords. Read from the source, without torch."""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import methods
from benchmark import suites
from benchmark.common.errors import UserError
from benchmark.common.escapes import terminal
from benchmark.records.spec import format_value, variant_label
from benchmark.suites import own as owned

_WIDTH = 100


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
    """Print suites, methods, both (None), what one method declares, or what a suite in a file comes to.

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
        print("suites")
        width = max(map(len, suites.names()))
        for name in suites.names():
            suite = suites.load(name)
            print(f"  {name:<{width}} {len(suite.tasks):>2} tasks  {', '.join(suite.backbones):<12} {suite.title}")
    if what != "suites":
        print("methods" + " " * 15 + "access" + " " * 19 + "paper")
        for name in methods.names():
            print("\n".join(_line(methods.describe(name))))
        if faults := methods.broken():
            print("broken files, left out with what they declare")
            for fault in faults:
                print(f"  {fault}")


def _line(about: methods.Method) -> Iterator[str]:
    yield f"  {about.name:<18}  {about.access.describe():<23}  {about.paper:<20} {about.title}"
    if about.parameters:
        yield f"{'':22}{', '.join(f'{key}={value!r}' for key, value in about.parameters.items())}"
    if about.needs:
        yield f"{'':22}only where the experts have: {', '.join(about.needs)}"


def method(name: str) -> Iterator[str]:
    """One method: title, paper, what it needs, and each keyword with default, allowed values and meaning."""
    about = methods.describe(name)
    meanings = _meanings(about)
    yield f"{name}: {about.title}, {about.paper}"
    yield from textwrap.wrap(about.summary, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield f"  file    methods/{about.path.name}"
    if about.variant_of:
        usual = methods.describe(about.variant_of).parameters
        changed = {key: value for key, value in about.parameters.items() if value != usual[key]}
        yield f"  variant of {variant_label(about.variant_of, changed)}"
    yield f"  access  {about.access.describe()}"
    for (key, value), more in about.access_if.items():
        yield f"          {key}={format_value(value)}: {(about.access | more).describe()}"
    if about.needs:
        yield f"  needs   experts with {', '.join(about.needs)}"
    if about.parameters:
        yield "  keywords, with the paper's defaults (a suite may have its own)"
    for key, value in about.parameters.items():
        allowed = about.allowed_text(key)
        yield f"    {key}={format_value(value)}" + (f"  ({allowed})" if allowed else "")
        meaning = meanings.get(key, "")
        yield from textwrap.wrap(meaning, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)


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


def _meanings(about: methods.Method) -> dict[str, str]:
    """What the docstring says of each keyword under ``Args:``."""
    tree = ast.parse(about.path.read_text(encoding="utf-8"))
    function = about.variant_of or about.name
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    text = (ast.get_docstring(functions[0]) if functions else None) or ""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)+)", text, re.MULTILINE)
    meanings: dict[str, str] = {}
    for names, meaning in re.findall(
        r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8,}.*)*)", section[1] if section else "", re.MULTILINE
    ):
        for key in names.split(", "):
            meanings[key] = " ".join(meaning.replace("``", "").split())
    return meanings
