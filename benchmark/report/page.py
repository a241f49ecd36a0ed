"""`leaderboard.html`: one self-contained page from the same rows as the Markdown and the CSV. No torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark import suites
from benchmark.board import columns, leaderboard
from benchmark.board.beside import within
from benchmark.board.columns import MEANING
from benchmark.board.rows import Board
from benchmark.common.canonical import canonical_json
from benchmark.common.files import write_atomic
from benchmark.common.project import DEFAULT_SUITE
from benchmark.records import access as accesses
from benchmark.records import metrics
from benchmark.records.store import RECORD, safe_name
from benchmark.scores import published

TEMPLATES = Path(__file__).parent / "templates"
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
    shown = [_board(board, links) for board in listed]
    data = {
        "boards": [*shown, _published_board()],
        "costs": [dict(zip(("field", "title", "log", "digits"), cost, strict=True)) for cost in COSTS],
    }
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.j2").render(
        title=TITLE,
        lead="Mini suites, full suites and published numbers never share a table. Hover a column's name for its "
        "meaning; a method's name opens its tasks and records.",
        data=Markup(json.dumps(data, ensure_ascii=False, allow_nan=False, sort_keys=True).replace("<", "\\u003c")),
        library_css=_embedded(_text("vendor/tabulator_simple.min.css")),
        library_js=_embedded(_text("vendor/tabulator.min.js")),
        css=_embedded(_text("page.css")),
        js=_embedded(_text("page.js")),
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


def _column(
    field: str, title: str, meaning: str, *, digits: int = 1, visible: bool = True, link: bool = False, **more: Any
) -> dict[str, Any]:
    shown = {"field": field, "title": title, "meaning": meaning, "digits": digits, "visible": visible, "link": link}
    return {**shown, "kind": "number", "align": "right", "descending": True, **more}


def _words(field: str, title: str, meaning: str, *, visible: bool = True, kind: str = "text") -> dict[str, Any]:
    return _column(field, title, meaning, visible=visible, kind=kind, align="left", descending=False)


def _interval(of: str, title: str, low: str, high: str, visible: bool) -> dict[str, Any]:
    about = f"95 % confidence interval of the {title}: over test samples for n = 1, over seeds and samples for n > 1"
    return _column(f"{of}_interval", f"{title} 95 %", about, visible=visible, kind="interval", low=low, high=high)


def _columns(board: Board) -> list[dict[str, Any]]:
    """All columns of the board with those shown at first."""
    averaged, unlike = board.averaged, columns.unlike(board)
    printed = bool(board.rows["published"].notna().any())
    fields = [
        _words("method", "method", MEANING["method"], kind="method"),
        _column("rank", "rank", "by mean over tasks, or by expert-normalised mean where metrics differ", digits=0),
    ]
    fields[1]["descending"] = False
    if averaged:
        fields += [
            _column("mean", "mean", MEANING["mean"], link=True),
            _interval("mean", "mean", "low", "high", True),
        ]
    fields += [
        _column("normalised", "normalised", MEANING["normalised"], link=True),
        _interval("normalised", "normalised", "normalised_low", "normalised_high", not averaged),
        _column("delta", "Δm", MEANING["Δm"], visible=unlike),
        _interval("delta", "Δm", "delta_low", "delta_high", not averaged),
        _words("worst_task", "worst task", MEANING["worst task"]),
        _column("worst", "its score", MEANING["worst task"]),
        _column("mean_rank", "mean rank", MEANING["mean rank"], descending=False),
        _words("may_rank", "may rank", MEANING["may rank"]),
        _words("above_text", "to the row above", MEANING["to the row above"]),
        _column("published", "published", MEANING["published"], visible=printed),
        _column("published_gap", "gap", MEANING["gap"], visible=printed),
        _words("within", "within", MEANING["within"], visible=printed),
        _words("published_source", "source", "where the published number is printed", visible=printed),
        _words("access", "access", MEANING["access"]),
        _words("source", "measured", "here, or submitted, or submitted and verified by re-run", visible=False),
        _words("task_id", "task id", MEANING["task id"], visible=False),
        _column("storage_models", "storage", MEANING["storage"], digits=2),
        _column("n", "n", MEANING["n"], digits=0),
        _column("reference", "reference", MEANING["reference"], visible=False),
        _column("merge_seconds", "merge s", MEANING["merge, adapt, evaluate"], visible=False),
        _column("adapt_seconds", "adapt s", MEANING["merge, adapt, evaluate"]),
        _column("evaluate_seconds", "evaluate s", MEANING["merge, adapt, evaluate"], visible=False),
        _column("peak_anonymous_mib", "peak memory MiB", MEANING["peak memory"], digits=0, visible=False),
        _column("peak_cuda_mib", "peak CUDA MiB", MEANING["peak memory"], digits=0, visible=False),
        _column("trainable_parameters", "trainable", MEANING["trainable"], digits=0, visible=False),
        _column("images_seen", "images", MEANING["images"], digits=0, visible=False),
    ]
    for task in _tasks(board):
        meaning = f"{task['title']} on {task['name']}, {board.n_test.get(task['name'], 0):,} test samples"
        name = f"{task['name']} {task['label']}".strip() if unlike else task["name"]
        fields.append(_column(task["name"], name, meaning, digits=task["digits"], visible=unlike, link=True))
        fields[-1]["descending"] = task["higher"]
    return fields


def _tasks(board: Board) -> list[dict[str, Any]]:
    entries = []
    for task in board.tasks:
        metric = metrics.METRICS.get(board.metrics.get(task, ""))
        entries.append(
            {
                "name": task,
                "title": metric.title if metric else board.metrics.get(task, "score"),
                "label": f"({metric.name} {metric.arrow})" if metric and columns.unlike(board) else "",
                "digits": metric.digits if metric else 1,
                "higher": metric.higher_is_better if metric else True,
            }
        )
    return entries


def _board(board: Board, links: Mapping[str, str]) -> dict[str, Any]:
    suite = suites.load(board.suite) if board.suite in suites.names() else None
    score = "mean" if board.averaged else "normalised"
    low, high = ("low", "high") if board.averaged else ("normalised_low", "normalised_high")
    note = " ".join(leaderboard.standing(board)).replace("**", "").replace("`", "")
    facts = [f"Command: {command}" for command in board.commands]
    facts += [f"Commit: {', '.join(board.commits)}"] if board.commits else []
    facts += [f"Protocol: {suite.notes}"] if suite and suite.notes else []
    facts += board.notes
    if board.friedman:
        test = board.friedman
        facts.append(
            f"Friedman over {len(board.tasks)} tasks: chi-squared {test.statistic:.1f}, p = {test.p:.1g}; "
            f"Nemenyi's critical difference of mean ranks {test.critical_difference:.1f}"
        )
    return {
        "name": board.name,
        "tab": board.suite if board.scale != "full" else f"{board.suite} {board.backbone} {board.family}",
        "title": f"{board.suite} · {board.backbone} · {board.family}",
        "domain": suite.domain if suite else board.scale if board.scale == "own" else "other",
        "note": note,
        "ranked": True,
        "score": {"field": score, "title": score, "low": low, "high": high},
        "tasks": _tasks(board),
        "columns": _columns(board),
        "rows": [_row(board, row, links) for row in board.rows.to_dict("records")],
        "incomplete": [_incomplete(row) for row in board.incomplete.to_dict("records")],
        "facts": facts,
    }


def _incomplete(row: Mapping[Any, Any]) -> str:
    seed = f" seed {row['seed']}" if row["seed"] else ""
    return f"{row['method']}{seed}: {row['status']}, {row['tasks_done']} tasks. {row['reason']}".strip()


def _row(board: Board, row: Mapping[Any, Any], links: Mapping[str, str]) -> dict[str, Any]:
    cells = {str(key): _plain(value) for key, value in row.items()}
    merge, adapt = cells["merge_seconds"], cells["adapt_seconds"]
    seeds = row["seeds"].split() or [""] * row["n"]
    printed = published.per_task(board.suite, board.backbone, board.family, row["method"])
    cells |= {
        "adapt_and_merge_seconds": None if merge is None and adapt is None else (merge or 0) + (adapt or 0),
        "level": _level(row["access"]),
        "may_rank": columns.may_rank(row),
        "above_text": columns.above(row),
        "within": within(row["low"], row["high"], row["published"]) or None,
        "outside": _outside(board, row["method"]),
        "links": [
            {"run": run, "seed": seed, "href": links.get(run, "")}
            for run, seed in zip(row["runs"].split(), seeds, strict=True)
        ],
        "printed": {
            task: values[board.metrics[task]]
            for task, values in printed.items()
            if task in board.metrics and board.metrics[task] in values
        },
    }
    cells["text"] = " ".join(str(row[key]) for key in ("method", "title", "paper", "access", "row")).lower()
    return cells


def _outside(board: Board, method: str) -> list[str]:
    """The tasks on which what is printed lies outside of the row's interval, by their names."""
    lines = board.beside[(board.beside["method"] == method) & (board.beside["within"] == "no")]
    return [task for task in lines["task"] if task in board.tasks]


def _level(access: str) -> str:
    """The strongest data a method is handed, none, unlabelled or labelled, without what every row of its suite gets."""
    return accesses.read(access).level or accesses.NONE


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


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
        "note": "Means as papers and repositories print them, not measured here; * a secondary summary, ‡ not printed "
        "but the mean of the tasks that are. Only rows of "
        "one suite, backbone and family can be compared; the traps are in published.md.",
        "ranked": False,
        "score": {"field": "value", "title": "value", "low": "", "high": ""},
        "tasks": [],
        "columns": [
            _words("method", "method", "as printed", kind="method"),
            _words("ours", "ours", "its name here, where it is in the registry"),
            _words("suite", "suite", "the suite of this project that has the same tasks, or the printed name"),
            _words("backbone", "backbone", "of the experts"),
            _words("family", "family", "who trained the experts, where the source says so"),
            _column("value", "mean", "over all tasks, in percent, as printed", digits=2),
            _words("published_source", "source", MEANING["published"]),
        ],
        "rows": rows,
        "incomplete": [],
        "facts": [],
    }
