"""`leaderboard.html`: one self-contained page from the same rows as the Markdown and the CSV. No torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark import suites
from benchmark.board.columns import MEANING
from benchmark.board.rows import Board
from benchmark.common.canonical import canonical_json
from benchmark.common.files import write_atomic
from benchmark.common.project import DEFAULT_SUITE
from benchmark.records.store import RECORD, safe_name
from benchmark.report.page_board import board_data, column, words
from benchmark.scores import published

TEMPLATES = Path(__file__).parent / "templates"
#: What the page runs, in this order.
SCRIPTS = ("page_core.js", "page_plot.js", "page_details.js", "page.js")
TITLE = "Model merging leaderboard"

#: What the plot may have on its horizontal axis: column of the rows, title, logarithmic, digits.
COSTS = [
    ("adapt_and_merge_seconds", "seconds to merge and adapt", True, 1),
    ("storage_models", "models to keep", False, 2),
    ("evaluate_seconds", "seconds to evaluate", True, 1),
    ("peak_anonymous_mib", "peak memory, MiB", True, 0),
    ("trainable_parameters", "parameters trained", True, 0),
    ("images_seen", "samples drawn", True, 0),
]


def html(boards: Sequence[Board], links: Mapping[str, str]) -> str:
    """The page, which opens on the default suite.

    `links` gives each run's record as a path relative to the page; a run without one is not linked.
    """
    order = [DEFAULT_SUITE, *(name for name in suites.names() if name != DEFAULT_SUITE)]
    listed = sorted((board for board in boards if len(board.rows)), key=lambda board: _place(board.suite, order))
    shown = [board_data(board, links) for board in listed]
    data = {
        "boards": [*shown, _published_board()],
        "costs": [dict(zip(("field", "title", "log", "digits"), cost, strict=True)) for cost in COSTS],
    }
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.j2").render(
        title=TITLE,
        lead="Methods are ranked among those that play the same game. A method's name or score opens what was run, "
        "when, on what, and how to repeat it.",
        data=Markup(json.dumps(data, ensure_ascii=False, allow_nan=False, sort_keys=True).replace("<", "\\u003c")),
        library_css=_embedded(_text("vendor/tabulator_simple.min.css")),
        library_js=_embedded(_text("vendor/tabulator.min.js")),
        css=_embedded(_text("page.css")),
        js=_embedded("\n".join(map(_text, SCRIPTS))),
    )


def write(boards: Sequence[Board], root: Path, stores: Sequence[Path]) -> Path:
    """Write `leaderboard.html` below `root`, with each number linked to its record where one of the stores holds it."""
    path = root / "leaderboard.html"
    write_atomic(path, html(boards, record_links(boards, root, stores)))
    return path


def record_links(boards: Sequence[Board], root: Path, stores: Sequence[Path]) -> dict[str, str]:
    """`{run id: path of its record relative to root}` for the runs of the boards that the stores hold."""
    links = {}
    for board in boards:
        for run in " ".join(board.rows["runs"]).split():
            for store in stores:
                path = store / safe_name(board.suite) / safe_name(board.backbone) / run / RECORD
                if path.is_file():
                    links[run] = Path(os.path.relpath(path, root)).as_posix()
                    break
    return links


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _embedded(text: str) -> Markup:
    """Text for a script or style element, which nothing but `</` and `<!--` can end or open; without a source map."""
    text = re.sub(r"(//|/\*)# sourceMappingURL=\S+( \*/)?", "", text)
    return Markup(text.replace("</", "<\\/").replace("<!--", "<\\!--"))


def _place(name: str, order: Sequence[str]) -> int:
    """Where a name stands in a list; unknown ones after all others."""
    return order.index(name) if name in order else len(order)


def _published_board() -> dict[str, Any]:
    """The tab of printed means: every suite, backbone and family in one list, as printed."""
    table = published.load()
    table = table[(table["task"] == published.AVERAGE) & (table["metric"] != "normalised")]
    ours = list(published.names().suites.values())
    rows = []
    for line in sorted(table.to_dict("records"), key=lambda each: _place(each["suite"], ours)):
        source = published.short_source(line)
        row = {
            "method": line["printed_method"],
            "ours": line["method"],
            "suite": line["suite"],
            "backbone": line["backbone"],
            "family": line["family"],
            "value": line["value"],
            "track": "",
            "published_source": source,
            "row": "method",
            "title": line["source"],
            "published_others": line["note"],
            "links": [],
        }
        row["text"] = canonical_json([value for value in row.values() if isinstance(value, str)]).lower()
        rows.append(row)
    return {
        "name": "published",
        "tab": "published",
        "title": "Published numbers",
        "domain": "published",
        "predicts": "",
        "warning": "",
        "leaders": [],
        "tracks": [],
        "filters": ["suite", "backbone", "family", "published_source"],
        "environments": [],
        "versus": None,
        "latex": "",
        "csv": ["method", "ours", "suite", "backbone", "family", "value", "published_source"],
        "note": "Means as papers and repositories print them, not measured here; * a secondary summary, ‡ not printed "
        "but the mean of the tasks that are. Only rows of "
        "one suite, backbone and family can be compared; the traps are in published.md.",
        "ranked": False,
        "score": {"field": "value", "title": "value", "low": "", "high": ""},
        "tasks": [],
        "columns": [
            words("method", "method", "as printed", kind="method"),
            words("ours", "ours", "its name here, where it is in the registry"),
            words("suite", "suite", "the suite of this project that has the same tasks, or the printed name"),
            words("backbone", "backbone", "of the experts"),
            words("family", "family", "who trained the experts, where the source says so"),
            column("value", "mean", "over all tasks, in percent, as printed", digits=2),
            words("published_source", "source", MEANING["published"]),
        ],
        "rows": rows,
        "incomplete": [],
        "commands": [],
        "facts": [],
    }
