"""Boards as Markdown, CSV and text for the terminal. What they hold is decided in `rows`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from benchmark.record import Record
from benchmark.rows import INCOMPLETE, Board
from benchmark.rows import boards as boards
from benchmark.store import Store, write_atomic

NONE = "–"
OVERVIEW = [
    "suite", "scale", "suite_version", "backbone", "family", "rank", "method", "row", "mean", "low", "high",
    "normalised", "n", "access",
]  # fmt: skip

_MEANING = {
    "method": "name, and its parameters that are not the suite's defaults; an oracle saw test labels and is not ranked",
    "mean": "mean over all tasks of the score, in percent; seeds averaged",
    "95 %": "confidence interval of the mean: over test samples for n = 1, over seeds and samples for n > 1",
    "normalised": "mean over tasks of the score in percent of that task's own expert (individual)",
    "worst task": "the task with the lowest score",
    "mean rank": "rank among the ranked methods, averaged over tasks; 1 is best",
    "access": 'data the method was handed besides the experts; "unlabelled test" means it adapts on the test inputs',
    "task id": "whether inference must be told the task beyond choosing its head",
    "n": "number of seeds; a deterministic method runs once",
    "reference": "mean of this project's own committed runs with the same parameters and seeds",
    "storage": "what must be kept, in models (1 is a single merged model, heads of the tasks left out)",
    "merge, adapt, evaluate": "wall seconds, mean over seeds, on the machine that ran them",
    "peak memory": "largest anonymous memory beyond that at the start of the run; CUDA: largest allocation there",
    "trainable": "parameters the method trains",
    "images": "samples it drew from its data, repeats counted",
}


def load(results: str | Path, reference: str | Path | None = None) -> list[Board]:
    """The boards of a results folder, with the reference records of another beside them."""
    known = Store(reference, read_only=True).all() if reference is not None else []
    return boards(Store(results).all(), known)


def publish(records: Iterable[Record], reference: Iterable[Record], root: str | Path) -> list[Board]:
    """Make the boards and write them below `root`; returns them."""
    made = boards(records, reference)
    write(made, root)
    return made


def write(found: Sequence[Board], root: str | Path) -> list[Path]:
    """Write `leaderboard.{md,csv}` and `boards/<suite>--<backbone>--<family>.{md,csv}` below `root`; their paths.

    Each file is replaced whole. CSV holds full precision. Raises UserError where they cannot be written.
    """
    root = Path(root)
    paths = []
    for board in found:
        for suffix, text in ((".md", markdown(board)), (".csv", board_csv(board))):
            paths.append(root / "boards" / (board.name.replace("/", "_") + suffix))
            write_atomic(paths[-1], text)
    for suffix, text in ((".md", overview_markdown(found)), (".csv", overview(found).to_csv(index=False))):
        paths.append(root / f"leaderboard{suffix}")
        write_atomic(paths[-1], text)
    return paths


def board_csv(board: Board) -> str:
    """All columns of the board at full precision, the suite's name first in each line."""
    frame = board.rows.copy()
    for place, name in enumerate(("suite", "suite_version", "backbone", "family")):
        frame.insert(place, name, getattr(board, name))
    return frame.to_csv(index=False)


def overview(found: Sequence[Board]) -> pd.DataFrame:
    """One row per board and method, with the columns OVERVIEW; `scale` keeps mini and full suites apart."""
    parts = [
        board.rows.assign(
            suite=board.suite,
            scale="mini" if board.mini else "full",
            suite_version=board.suite_version,
            backbone=board.backbone,
            family=board.family,
        )[OVERVIEW]
        for board in found
        if len(board.rows)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=OVERVIEW)


def overview_markdown(found: Sequence[Board]) -> str:
    """The overview, a table for each board."""
    lines = ["# Leaderboard", ""]
    if not found:
        lines += ["No finished runs yet. `./run_all.sh --methods symerge ties` makes some.", ""]
    for board in found:
        lines += [f"## [{_title(board)}](boards/{board.name}.md)", "", *_scale_note(board)]
        lines += [*_table(board.rows, _SUMMARY), ""]
        if len(board.incomplete):
            lines += [f"Incomplete runs, listed on the board: {len(board.incomplete)}.", ""]
    names = [name for name in _MEANING if name in ("method", "mean", "95 %", "normalised", "access", "n")]
    return "\n".join([*lines, *_footer(names)]) + "\n"


def markdown(board: Board) -> str:
    """The board: scores, each task, cost, incomplete runs, and below them command, commit and what columns mean."""
    lines = [f"# {_title(board)}", "", *_scale_note(board)]
    lines += [*_table(board.rows, _SCORES), ""]
    lines += ["## Each task", "", *_table(board.rows, [_METHOD, _MEAN, *map(_score, board.tasks)])]
    if board.n_test:
        lines += ["", "Test samples: " + ", ".join(f"{task} {count:,}" for task, count in board.n_test.items()) + "."]
    cost = [column for column in _COST if column[0] != "peak CUDA MiB" or board.rows["peak_cuda_mib"].notna().any()]
    lines += ["", "## Cost", "", *_table(board.rows, cost), ""]
    if len(board.incomplete):
        lines += ["## Incomplete", "", "These runs lack tasks and are in no mean above.", ""]
        lines += [*_table(board.incomplete, _MISSING), ""]
    lines += ["## Where the numbers come from", ""]
    lines += [f"- Command: `{command}`" for command in board.commands[:4]]
    lines += [f"- Commit: {', '.join(board.commits[:4])}"] if board.commits else []
    lines += [f"- {note}" for note in board.notes]
    lines += ["- Records, with versions, hashes and seeds, lie in the folders of their ids (column `runs` of the CSV)."]
    return "\n".join([*lines, "", *_footer(_MEANING)]) + "\n"


def print_board(board: Board, file: TextIO | None = None, width: int | None = None) -> None:
    """The board for a terminal: its name, the table, and a line for each incomplete run."""
    out = file or sys.stdout
    print(_title(board), file=out)
    print_table(board.rows, out, width)
    for _, row in board.incomplete.iterrows():
        seed = f" seed {row['seed']}" if row["seed"] else ""
        line = f"incomplete: {row['method']}{seed}: {row['status']}, {row['tasks_done']} tasks. {row['reason']}"
        print(line.rstrip(), file=out)


def print_table(frame: pd.DataFrame, file: TextIO | None = None, width: int | None = None) -> None:
    """A board's rows as aligned text within `width` (default: the terminal's).

    Where they do not fit, columns are left out from the right, but never rank, method and mean; then the names are cut.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    columns = list(_TERMINAL)
    cells = [[cell(row) for _, _, cell in columns] for _, row in frame.iterrows()]
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, (name, _, _) in enumerate(columns)]
    least = min(widths[1], 24)
    while len(columns) > 3 and sum(widths) - widths[1] + least + 2 * (len(columns) - 1) > width:
        columns.pop()
        widths.pop()
    widths[1] = max(8, min(widths[1], width - (sum(widths) - widths[1]) - 2 * (len(columns) - 1)))
    lines = [[name for name, _, _ in columns], ["─" * size for size in widths], *cells]
    for line in lines:
        parts = [
            f"{_cut(text, size):{align}{size}}"
            for text, size, (_, align, _) in zip(line[: len(columns)], widths, columns, strict=True)
        ]
        print("  ".join(parts).rstrip(), file=file or sys.stdout)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


_Column = tuple[str, str, Callable[[Any], str]]


def _number(value: Any, digits: int = 1) -> str:
    return NONE if value is None or pd.isna(value) else f"{value:,.{digits}f}"


def _interval(row: Any) -> str:
    return NONE if pd.isna(row["low"]) else f"{row['low']:.1f} to {row['high']:.1f}"


def _spread(row: Any) -> str:
    half = "" if pd.isna(row["low"]) else f" ±{(row['high'] - row['low']) / 2:.1f}"
    return _number(row["mean"]) + half


def _name(row: Any) -> str:
    mark = {"reference": " (not ranked)", "oracle": " (oracle)"}
    return row["method"] + mark.get(row["row"], "")


def _score(task: str) -> _Column:
    return task, ">", lambda row: _number(row[task])


def _text(name: str) -> _Column:
    return name.replace("_", " "), "<", lambda row: row[name] or NONE


def _worst(row: Any) -> str:
    return f"{row['worst_task']} {row['worst']:.1f}" if row["worst_task"] else NONE


_RANK: _Column = ("rank", ">", lambda row: _number(row["rank"], 0))
_METHOD: _Column = ("method", "<", _name)
_MEAN: _Column = ("mean", ">", lambda row: _number(row["mean"]))
_NORMALISED: _Column = ("normalised", ">", lambda row: _number(row["normalised"]))
_ACCESS: _Column = ("access", "<", lambda row: row["access"])
_N: _Column = ("n", ">", lambda row: str(row["n"]))
_SUMMARY: list[_Column] = [
    _RANK, _METHOD, _MEAN, ("95 %", ">", _interval), _NORMALISED, _ACCESS, _N,
]  # fmt: skip
_SCORES: list[_Column] = [
    *_SUMMARY[:5],
    ("worst task", ">", _worst),
    ("mean rank", ">", lambda row: _number(row["mean_rank"])),
    _ACCESS,
    ("task id", "<", lambda row: row["task_id"]),
    _N,
    ("reference", ">", lambda row: _number(row["reference"])),
]
_COST: list[_Column] = [
    _METHOD,
    ("storage", ">", lambda row: _number(row["storage_models"], 2)),
    ("merge s", ">", lambda row: _number(row["merge_seconds"])),
    ("adapt s", ">", lambda row: _number(row["adapt_seconds"])),
    ("evaluate s", ">", lambda row: _number(row["evaluate_seconds"])),
    ("peak memory MiB", ">", lambda row: _number(row["peak_anonymous_mib"], 0)),
    ("peak CUDA MiB", ">", lambda row: _number(row["peak_cuda_mib"], 0)),
    ("trainable", ">", lambda row: _number(row["trainable_parameters"], 0)),
    ("images", ">", lambda row: _number(row["images_seen"], 0)),
]
_MISSING = [_text(name) for name in INCOMPLETE]
_TERMINAL: list[_Column] = [
    _RANK,
    _METHOD,
    ("mean", ">", _spread),
    ("norm", ">", lambda row: _number(row["normalised"])),
    ("worst task", ">", _worst),
    ("access", "<", lambda row: row["access"]),
    ("adapt s", ">", lambda row: _number(row["adapt_seconds"])),
]


def _table(frame: pd.DataFrame, columns: Sequence[_Column]) -> list[str]:
    """Lines of a Markdown table, padded so that it reads well as text too."""
    header = [name for name, _, _ in columns]
    cells = [[cell(row).replace("|", "\\|") for _, _, cell in columns] for _, row in frame.iterrows()]
    widths = [max([3, len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(header)]
    aligned = [(size, align) for size, (_, align, _) in zip(widths, columns, strict=True)]
    rule = ["-" * (size - 1) + (":" if align == ">" else "-") for size, align in aligned]
    return [
        f"| {' | '.join(f'{text:{align}{size}}' for text, (size, align) in zip(line, aligned, strict=True))} |"
        for line in [header, rule, *cells]
    ]


def _title(board: Board) -> str:
    return f"{board.suite} · {board.backbone} · {board.family}"


def _scale_note(board: Board) -> list[str]:
    size = f"{len(board.tasks)} tasks, version {board.suite_version} of the suite."
    return [f"{size} A mini suite: compare with nothing full-scale or published." if board.mini else size, ""]


def _footer(names: Iterable[str]) -> list[str]:
    return ["## Columns", "", *(f"- **{name}**: {_MEANING[name]}." for name in names)]
