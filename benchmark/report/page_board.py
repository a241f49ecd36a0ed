"""A board as data for the page: its columns, rows, pairs, and what its records say. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from benchmark import suites
from benchmark.board import columns, latex, leaderboard
from benchmark.board.beside import within
from benchmark.board.columns import MEANING
from benchmark.board.repeat import repeat
from benchmark.board.rows import Board
from benchmark.board.tracks import TRACKS
from benchmark.board.validity import line, warning
from benchmark.records import access as accesses
from benchmark.records import metrics
from benchmark.records.record import Record
from benchmark.records.spec import format_value
from benchmark.scores import published


def column(
    field: str, title: str, meaning: str, *, digits: int = 1, visible: bool = True, link: bool = False, **more: Any
) -> dict[str, Any]:
    """A column of numbers of the page's table."""
    shown = {"field": field, "title": title, "meaning": meaning, "digits": digits, "visible": visible, "link": link}
    return {**shown, "kind": "number", "align": "right", "descending": True, **more}


def words(
    field: str, title: str, meaning: str, *, visible: bool = True, kind: str = "text", **more: Any
) -> dict[str, Any]:
    """A column of text; `sort` names the number that sorts it."""
    return column(field, title, meaning, visible=visible, kind=kind, align="left", descending=False, **more)


def _interval(of: str, title: str, low: str, high: str, visible: bool) -> dict[str, Any]:
    about = f"95 % confidence interval of the {title}: over test samples for n = 1, over seeds and samples for n > 1"
    return column(f"{of}_interval", f"{title} 95 %", about, visible=visible, kind="interval", low=low, high=high)


def _columns(board: Board) -> list[dict[str, Any]]:
    """All columns of the board with those shown at first."""
    averaged, unlike = board.averaged, columns.unlike(board)
    printed = bool(board.rows["published"].notna().any())

    def has(name: str) -> bool:
        return bool(board.rows[name].notna().any())

    fields = [
        words("method", "method", MEANING["method"], kind="method"),
        column("rank", "rank", MEANING["rank"], digits=0, descending=False),
        column("overall", "overall", MEANING["overall"], digits=0, descending=False, visible=False),
    ]
    if averaged:
        fields += [
            column("mean", "mean", MEANING["mean"], link=True),
            _interval("mean", "mean", "low", "high", True),
        ]
    fields += [
        column("normalised", "normalised", MEANING["normalised"], link=True),
        _interval("normalised", "normalised", "normalised_low", "normalised_high", not averaged),
        column("delta", "Δm", MEANING["Δm"], visible=unlike),
        _interval("delta", "Δm", "delta_low", "delta_high", not averaged),
        words("above_text", "to the row above", MEANING["to the row above"], sort="above"),
        words("may_rank", "may rank", MEANING["may rank"], sort="rank_low"),
        column("mean_rank", "mean rank", MEANING["mean rank"], descending=False, visible=False),
        column("reference", "reference", MEANING["reference"], visible=has("reference")),
        column("reference_gap", "to reference", MEANING["to reference"], visible=has("reference"), signed=True),
        words("worst_text", "worst task", MEANING["worst task"], sort="worst"),
        column("published", "published", MEANING["published"], visible=printed),
        column("published_gap", "gap", MEANING["gap"], visible=printed, signed=True),
        words("within", "within", MEANING["within"], visible=printed),
        words("published_source", "source", "where the published number is printed", visible=printed),
        *(
            column(each.name, each.title, each.about or each.metric, digits=each.digits, descending=each.higher)
            for each in board.bystanders
        ),
        words("access", "access", MEANING["access"]),
        words("source", "measured", "here, or submitted, or submitted and verified by re-run", visible=False),
        words("task_id", "task id", MEANING["task id"], visible=False),
        column("storage_models", "storage", MEANING["storage"], digits=2, visible=False),
        column("n", "n", MEANING["n"], digits=0),
        words("chosen_text", "chosen", MEANING["chosen"], visible=bool((board.rows["chosen"] != "").any())),
        column("merge_seconds", "merge s", MEANING["merge, adapt, evaluate"], visible=False),
        column("adapt_seconds", "adapt s", MEANING["merge, adapt, evaluate"]),
        column("evaluate_seconds", "evaluate s", MEANING["merge, adapt, evaluate"], visible=False),
        column("peak_anonymous_mib", "peak memory MiB", MEANING["peak memory"], digits=0, visible=False),
        column("peak_cuda_mib", "peak CUDA MiB", MEANING["peak memory"], digits=0, visible=False),
        column("trainable_parameters", "trainable", MEANING["trainable"], digits=0, visible=False),
        column("images_seen", "images", MEANING["images"], digits=0, visible=False),
    ]
    for task in _tasks(board):
        meaning = f"{task['title']} on {task['name']}, {board.n_test.get(task['name'], 0):,} test samples"
        name = f"{task['name']} {task['label']}".strip() if unlike else task["name"]
        fields.append(column(task["name"], name, meaning, digits=task["digits"], visible=unlike, link=True))
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


def _tab(board: Board) -> str:
    """What it is called among the others; of a full suite's boards with backbone and family."""
    if board.scale == "full":
        return f"{board.suite} {board.backbone} {board.family}"
    return board.called


def board_data(board: Board, links: Mapping[str, str]) -> dict[str, Any]:
    suite = suites.load(board.suite) if board.suite in suites.names() else None
    score = "mean" if board.averaged else "normalised"
    low, high = ("low", "high") if board.averaged else ("normalised_low", "normalised_high")
    facts = [f"Commit: {', '.join(board.commits)}"] if board.commits else []
    facts += [f"Protocol: {suite.notes}"] if suite and suite.notes else []
    facts += board.notes
    for track in TRACKS:
        if (test := board.friedman.get(track.name)) is not None:
            facts.append(
                f"{track.title}: Friedman over {len(board.tasks)} tasks: chi-squared {test.statistic:.1f}, "
                f"p = {test.p:.1g}; Nemenyi's critical difference of mean ranks {test.critical_difference:.1f}"
            )
    environments: dict[str, int] = {}
    return {
        "name": board.name,
        "tab": _tab(board),
        "title": f"{board.suite} · {board.backbone} · {board.family}",
        "domain": suite.domain if suite else board.scale if board.scale == "own" else "other",
        "note": leaderboard.standing(board)[0],
        "predicts": _plain_text(line(board.validity)) if board.validity else "",
        "warning": _plain_text(warning(board.validity)) if board.validity else "",
        "leaders": _leaders(board),
        "ranked": True,
        "tracks": [track._asdict() for track in TRACKS if (board.rows["track"] == track.name).any()],
        "filters": [],
        "score": {"field": score, "title": score, "low": low, "high": high},
        "tasks": _tasks(board),
        "columns": _columns(board),
        "rows": [_row(board, row, links, environments) for row in board.rows.to_dict("records")],
        "environments": list(environments),
        "versus": _versus(board),
        "csv": list(board.rows.columns),
        "latex": latex.latex(board),
        "incomplete": [_incomplete(row) for row in board.incomplete.to_dict("records")],
        "commands": board.commands,
        "facts": facts,
    }


def _incomplete(row: Mapping[Any, Any]) -> str:
    seed = f" seed {row['seed']}" if row["seed"] else ""
    return f"{row['method']}{seed}: {row['status']}, {row['tasks_done']} tasks. {row['reason']}".strip()


def _plain_text(text: str) -> str:
    return text.replace("**", "").replace("`", "")


def _leaders(board: Board) -> list[dict[str, str]]:
    """Of each track the best row, and by how much it is ahead of the next."""
    leaders = []
    value, low, high = ("mean", "low", "high") if board.averaged else (
        "normalised", "normalised_low", "normalised_high",
    )  # fmt: skip
    for track in TRACKS:
        rows = board.rows[(board.rows["track"] == track.name) & board.rows["rank"].notna()].to_dict("records")
        if not rows:
            continue
        best, *others = rows
        sure = "" if pd.isna(best[low]) else f" ({best[low]:.1f} to {best[high]:.1f})"
        said = f"{best[value]:.1f}{sure}"
        if others:
            gap = others[0]["above"]
            if pd.isna(gap):
                said += f", then {others[0]['method']} {others[0][value]:.1f}"
            else:
                word = "tied with" if others[0]["above_tied"] == "tied" else "ahead of"
                ahead = (-gap, -others[0]["above_high"], -others[0]["above_low"])
                said += f", {word} {others[0]['method']}: {ahead[0]:+.1f} ({ahead[1]:+.1f} to {ahead[2]:+.1f})"
            tied = [row["method"] for row in others[1:] if row["best"] == "tied"]
            said += f"; also tied: {', '.join(tied)}" if tied else ""
        leaders.append({"track": track.name, "title": track.title, "method": best["method"], "text": said})
    return leaders


def _versus(board: Board) -> dict[str, Any] | None:
    """All pairs of rows: differences and half widths above the diagonal, row by row, and tasks won of all."""
    if board.versus is None:
        return None
    above = np.triu_indices(len(board.rows), 1)
    value, half = (
        [None if np.isnan(each) else round(float(each), 2) for each in table[above]]
        for table in (board.versus.value, board.versus.half)
    )
    return {"value": value, "half": half, "won": board.versus.won.tolist()}


def _run(record: Record, seed: str, score: float | None, links: Mapping[str, str], environments: dict[str, int]) -> Any:
    """What a reader is told of one run: what, when, on what."""
    told, cost = record.provenance, record.cost
    place = [told.processor, f"GPU {told.gpu}" if told.gpu else "", told.platform, f"{told.threads} threads"]
    place += [f"batches of {told.batch_size}" if told.batch_size else ""]
    where = ", ".join(text for text in place if text and not text.startswith("None"))
    versions = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    environment = environments.setdefault(f"{told.device}: {where}\n{versions}", len(environments))
    return {
        "run": record.run_id,
        "seed": seed,
        "href": links.get(record.run_id, ""),
        "score": score,
        "started": (record.started or "")[:19].replace("T", " "),
        "finished": (record.finished or "")[:19].replace("T", " "),
        "seconds": [_plain(each) for each in (cost.merge_seconds, cost.adapt_seconds, cost.evaluate_seconds)],
        "commit": f"{told.commit or ''}{' with local changes' if told.dirty else ''}",
        "source": told.source,
        "environment": environment,
    }


def _row(
    board: Board, row: Mapping[Any, Any], links: Mapping[str, str], environments: dict[str, int]
) -> dict[str, Any]:
    cells = {str(key): _plain(value) for key, value in row.items()}
    merge, adapt = cells["merge_seconds"], cells["adapt_seconds"]
    seeds = row["seeds"].split() or [""] * row["n"]
    score = row["mean"] if board.averaged else row["normalised"]
    scores = [float(text) for text in row["seed_scores"].split()] or [_plain(score)] * row["n"]
    first = board.records[row["runs"].split()[0]]
    printed = published.per_task(board.suite, board.backbone, board.family, row["method"])
    cells |= {
        "adapt_and_merge_seconds": None if merge is None and adapt is None else (merge or 0) + (adapt or 0),
        "level": _level(row["access"]),
        "worst_text": columns.worst(row) if row["worst_task"] else "",
        "may_rank": columns.may_rank(row),
        "above_text": columns.above(row),
        "within": within(row["low"], row["high"], row["published"]) or None,
        "outside": _outside(board, row["method"]),
        "chosen_text": columns.chosen(row) if row["chosen"] else "",
        "links": [
            _run(board.records[run], seed, score, links, environments)
            for run, seed, score in zip(row["runs"].split(), seeds, scores, strict=True)
        ],
        "parameters": ", ".join(f"{name}={format_value(value)}" for name, value in first.spec.parameters.items()),
        "repeat": repeat([board.records[run] for run in row["runs"].split()]),
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
