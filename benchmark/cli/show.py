"""The command ``show``: one method in full, what it does, sees and takes, and what was measured of it. No torch."""

from __future__ import annotations

import argparse
import ast
import csv
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import methods
from benchmark import suites
from benchmark.common.project import DEFAULT_SUITE, RESULTS
from benchmark.records.spec import format_value, variant_label

WIDTH = 80


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("name", metavar="METHOD", help="a name of ./run_all.sh list")
    parser.add_argument(
        "--suite", default=DEFAULT_SUITE, metavar="NAME", help=f"whose defaults and scores are shown; {DEFAULT_SUITE}"
    )


def command(arguments: argparse.Namespace) -> None:
    """``show``: print one method. Raises MergingError for an unknown method, UserError for an unknown suite."""
    print("\n".join(method(arguments.name, arguments.suite)))


def method(name: str, suite: str = DEFAULT_SUITE) -> Iterator[str]:
    """One method: title, paper, maths, needs, scores, and each keyword with default, allowed values and meaning."""
    about, loaded = methods.describe(name), suites.load(suite)
    yield f"{name}: {about.title}, {about.paper}"
    yield from _wrapped(about.summary, 2)
    for line in _maths(about):
        yield from _wrapped(line, 4, 8)
    yield f"  file       methods/{about.path.name}"
    if about.variant_of:
        usual = methods.describe(about.variant_of).parameters
        changed = {key: value for key, value in about.parameters.items() if value != usual[key]}
        yield f"  variant    of {variant_label(about.variant_of, changed)}"
    yield f"  access     {about.access.describe()}"
    for (key, value), more in about.access_if.items():
        yield f"             {key}={format_value(value)}: {(about.access | more).describe()}"
    if about.needs:
        yield f"  needs      experts with {', '.join(about.needs)}"
    yield from _entries("measured", _measured(name, loaded.name))
    yield from _entries("published", _published(name))
    yield from _keywords(about, loaded.defaults(name, about.parameters), loaded.name)


def _keywords(about: methods.Method, own: dict[str, Any], suite: str) -> Iterator[str]:
    if about.parameters:
        yield f"  keywords, with the paper's defaults, and {suite}'s where it has its own"
    meanings = _meanings(about)
    for key, value in about.parameters.items():
        allowed = about.allowed_text(key)
        here = f"  [{suite}: {format_value(own[key])}]" if key in own and own[key] != value else ""
        yield from _wrapped(f"{key}={format_value(value)}{here}" + (f"  ({allowed})" if allowed else ""), 4, 6)
        yield from _wrapped(meanings.get(key, ""), 8)


def _wrapped(text: str, first: int, then: int | None = None) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=" " * first, subsequent_indent=" " * (first if then is None else then),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _entries(heading: str, entries: list[str]) -> Iterator[str]:
    for place, entry in enumerate(entries):
        lines = _wrapped(entry, 13, 15)
        yield from [f"  {heading:<9}{lines[0][11:]}" if not place else lines[0], *lines[1:]]


def _measured(name: str, suite: str) -> list[str]:
    """Rows of the method on the project's own boards of a suite."""
    found = []
    for file in sorted((RESULTS / "boards").glob(f"{suite}--*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if row["suite"] == suite and row["method"].partition(":")[0] == name:
                    found.append(_row(row))
    return found


def _row(row: dict[str, str]) -> str:
    score = "mean " + row["mean"] if row["mean"] else "of the experts " + row["normalised"]
    words, _, number = score.rpartition(" ")
    seeds = f", {row['n']} seeds" if int(row["n"] or 1) > 1 else ""
    rank = f", rank {row['rank']}" if row["rank"] else ""
    spent = float(row["merge_seconds"] or 0) + float(row["adapt_seconds"] or 0)
    return (
        f"{row['method']} on {row['suite']}, {row['backbone']}: {words} {float(number):.1f} %{rank}{seeds}; "
        f"merge and adaptation {spent:,.0f} s there"
    )


def _published(name: str) -> list[str]:
    """What papers print as the method's mean on the suites of this project."""
    from benchmark.scores import published

    found = []
    for suite in suites.names():
        loaded = suites.load(suite)
        if loaded.scale != "full":
            continue
        for backbone in loaded.backbones:
            cells = {
                f"{row[name]['published']:.1f} ({family}, {row[name]['published_source']})": None
                for family in loaded.families
                if name in (row := published.beside(suite, backbone, family, [name]))
            }
            if cells:
                found.append(f"{suite}, {backbone}: {'; '.join(cells)}")
    return found


def _maths(about: methods.Method) -> list[str]:
    """The indented lines of the file's docstring: the paper's formulas."""
    text = ast.get_docstring(ast.parse(about.path.read_text(encoding="utf-8"))) or ""
    blocks = [block for block in text.split("\n\n") if all(line.startswith("    ") for line in block.splitlines())]
    return textwrap.dedent(blocks[0]).splitlines() if blocks and blocks[0].strip() else []


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
