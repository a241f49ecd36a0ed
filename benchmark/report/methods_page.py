"""Pages made from the registry and the committed records, so that they cannot disagree with either. No torch."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import methods
from benchmark.board import rows
from benchmark.common.escapes import Markup
from benchmark.common.project import ROOT
from benchmark.common.tables import markdown
from benchmark.records.record import Record

PARITY = ROOT / "tests" / "golden" / "parity.json"
UNPROVED = PARITY.with_name("unproved.json")
SUITE = "vision-small-8"


def header(path: Path) -> str:
    """The docstring of a method's file."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def equation(about: methods.Method) -> str:
    """The merge rule in a method file's header: its indented line under the method's title, else the first one.

    A file of several methods labels their lines, ``Title:  equation`` (or with the beginning of the title).
    """
    lines = [line.strip() for line in header(about.path).splitlines()[1:] if line.startswith("    ") and line.strip()]
    labels = {label: rule.strip() for label, colon, rule in (line.partition(":  ") for line in lines) if colon}
    if about.title in labels:
        return labels[about.title]
    return next((rule for label, rule in labels.items() if about.title.startswith(label)), next(iter(lines), ""))


def parity() -> dict[str, dict[str, Any]]:
    """How far each method is from the authors' own code, as the golden tests last measured it.

    ``difference`` is the largest, ``tolerance`` what the tests allow, ``sources`` the repositories at their commits.
    """
    return json.loads(PARITY.read_text(encoding="utf-8")) if PARITY.is_file() else {}


def unproved() -> dict[str, str]:
    """Why each other method has no golden vectors."""
    return json.loads(UNPROVED.read_text(encoding="utf-8")) if UNPROVED.is_file() else {}


def _scores(records: Iterable[Record]) -> Mapping[str, Mapping[str, Any]]:
    """The row of each method with the suite's default parameters on the default suite."""
    boards = [b for b in rows.boards(r for r in records if r.spec.suite == SUITE)]
    return {row["method"]: row for board in boards for row in board.rows.to_dict("records")}


def methods_page(records: Iterable[Record]) -> str:
    """``methods/README.md``: one row a method."""
    scored, differences = _scores(records), parity()
    lines = [
        "# Methods",
        "",
        "Made by `symerge-bench board --reference`; do not edit. Equation: the merge rule, the rest is in the file. "
        "Storage: models to keep. Seconds: merging and adaptation, and score: mean over tasks, on "
        f"`{SUITE}` with default keywords (the number of seeds is on the board; the machine was shared: seconds are "
        "orders of magnitude). Parity: largest difference from the authors' own code on the golden vectors in "
        "`tests/golden`; the tolerance of the tests and the code's commit are below, and for the methods without, why.",
        "",
    ]
    rows = []
    for name in methods.names():
        about, row = methods.describe(name), scored.get(name)
        seconds = storage = score = "–"
        if row is not None:
            spent = [row["merge_seconds"], row["adapt_seconds"]]
            seconds = f"{sum(each for each in spent if pd.notna(each)):.1f}"
            storage, score = f"{row['storage_models']:.2f}", f"{row['mean']:.1f}"
        gap = differences.get(name)
        escaped = equation(about).replace("|", "\\|")
        link, formula = Markup(f"[`{name}`]({about.path.name})"), Markup(f"`{escaped}`")
        words = [link, about.title, about.paper, formula, about.access.describe()]
        rows.append([*words, storage, seconds, "–" if gap is None else f"{gap['difference']:.0e}", score])
    heading = ["name", "method", "paper", "equation", "access", "storage", "seconds", "parity", "score"]
    table = markdown(heading, rows, "<<<<<>>>>")
    return "\n".join([*lines, *table, "", *_proofs(differences), "", *_reasons()]) + "\n"


def _proofs(differences: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The golden tests' differences, tolerances and sources, one row a method."""
    known = [(name, differences[name]) for name in methods.names() if name in differences]
    proofs = [
        [Markup(f"`{name}`"), f"{note['difference']:.0e}", f"{note['tolerance']:.0e}", ", ".join(note["sources"])]
        for name, note in known
    ]
    return [
        f"## What {len(proofs)} methods are held against",
        "",
        *markdown(["name", "largest difference", "tolerance", "code that was run, at its commit"], proofs, "<>><"),
    ]


def _reasons() -> list[str]:
    """Why the other methods have no parity, one line each."""
    reasons = unproved()
    lines = [f"- `{name}`: {reasons[name]}" for name in methods.names() if name in reasons]
    return [f"## Why {len(lines)} have no parity", "", *lines]
