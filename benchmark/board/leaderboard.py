"""Boards as Markdown, CSV and text for the terminal. What they hold is decided in `rows`."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd

from benchmark import suites
from benchmark.board import beside, columns, validity, versus
from benchmark.board.columns import MEANING, Column
from benchmark.board.rows import Board
from benchmark.board.rows import boards as boards
from benchmark.board.tracks import TRACKS, Track, titled
from benchmark.common.escapes import code, csv, inline, terminal
from benchmark.common.files import write_atomic
from benchmark.common.tables import padded
from benchmark.records import metrics
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.scores.published import AVERAGE

#: Ends the name of the file with what papers print of a board's rows.
PAPERS = "--published.csv"
OVERVIEW = [
    "suite", "scale", "suite_version", "backbone", "family", "track", "rank", "overall", "method", "row", "mean", "low",
    "high", "normalised", "delta", "n", "access",
]  # fmt: skip


def load(results: str | Path, reference: str | Path | None = None) -> list[Board]:
    """The boards of a results folder, with the reference records of another beside them."""
    references = Store(reference, read_only=True).all() if reference is not None else None
    return boards(Store(results).all(), references)


def publish(records: Iterable[Record], reference: Iterable[Record] | None, root: str | Path) -> list[Board]:
    """Make the boards and write them below `root`; returns them."""
    every = boards(records, reference)
    write(every, root)
    return every


def write(found: Sequence[Board], root: str | Path) -> list[Path]:
    """Write `leaderboard.{md,csv}` and `boards/<suite>--<backbone>--<family>.{md,csv}` below `root`; their paths.

    What papers print of a board's rows lies beside it, in `...--published.csv`.

    Each file is replaced whole. CSV holds full precision. Raises UserError where they cannot be written.
    """
    root = Path(root)
    paths = []
    for board in found:
        files = [(".md", markdown(board)), (".csv", board_csv(board))]
        for suffix, text in [*files, *([(PAPERS, csv(board.beside))] if len(board.beside) else [])]:
            paths.append(root / "boards" / (board.name + suffix))
            write_atomic(paths[-1], text)
    for suffix, text in ((".md", overview_markdown(found)), (".csv", csv(overview(found)))):
        paths.append(root / f"leaderboard{suffix}")
        write_atomic(paths[-1], text)
    return paths


def board_csv(board: Board) -> str:
    """All columns of the board at full precision, the suite's name first in each line."""
    frame = board.rows.copy()
    for place, name in enumerate(("suite", "suite_version", "backbone", "family")):
        frame.insert(place, name, getattr(board, name))
    return csv(frame)


def overview(found: Sequence[Board]) -> pd.DataFrame:
    """One row per board and method, with the columns OVERVIEW; `scale` keeps mini, small and full suites apart."""
    parts = [
        board.rows.assign(
            suite=board.suite,
            scale=board.scale,
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
        lines += [f"## [{inline(_title(board))}](boards/{board.name}.md)", "", *_scale_note(board)]
        lines += _by_track(board.rows, columns.summary(board))
        if len(board.incomplete):
            lines += [f"Incomplete runs, listed on the board: {len(board.incomplete)}.", ""]
        if len(board.trials):
            lines += [f"Trials on a few samples, which are no results, listed on the board: {len(board.trials)}.", ""]
    return "\n".join([*lines, *_footer({column.name for board in found for column in columns.summary(board)})]) + "\n"


def markdown(board: Board) -> str:
    """The board: scores, each task, cost, incomplete runs, and below them command, commit and what columns mean."""
    first, each = columns.scores(board), columns.tasks(board)
    lines = [f"# {inline(_title(board))}", "", *_scale_note(board)]
    lines += [*_by_track(board.rows, first), *_remarks(board)]
    lines += ["## Each task", "", *_table(board.rows, each)]
    if columns.unlike(board):
        lines += ["", *_metrics(board)]
    if board.n_test:
        lines += [
            "",
            "Test samples: " + ", ".join(f"{inline(task)} {count:,}" for task, count in board.n_test.items()) + ".",
        ]
    lines += ["", *_differences(board), *_searches(board), *_seeds(board), *_published(board)]
    cost = [each for each in columns.COST if each.name != "peak CUDA MiB" or board.rows["peak_cuda_mib"].notna().any()]
    lines += ["## Cost", "", *_table(board.rows, cost), ""]
    if len(board.incomplete):
        lines += ["## Incomplete", ""]
        lines += ["These runs are in no mean above: they lack tasks, or were made on other data or samples.", ""]
        lines += [*_table(board.incomplete, columns.MISSING), ""]
    if len(board.trials):
        lines += ["## Trials", ""]
        lines += ["Runs with `--limit`, on a few samples of each task: no results, in no row and no mean above.", ""]
        lines += [*_table(board.trials, columns.TRIALS), ""]
    absent = {"Δm", "mean", "reference", "to reference"} - {each.name for each in first}
    absent |= set() if (board.rows["chosen"] != "").any() else {"chosen", "of", "at the edge"}
    absent |= set() if (board.rows["seed_scores"] != "").any() else {"each seed"}
    absent |= set() if board.rows["published"].notna().any() else {"published", "gap", "within"}
    lines += ["## Where the numbers come from", ""]
    lines += [f"- Command: {code(command)}" for command in board.commands]
    lines += [f"- Commit: {inline(', '.join(board.commits))}"] if board.commits else []
    if board.suite in suites.names() and (protocol := suites.load(board.suite).notes):
        lines += [f"- Protocol: {protocol.strip()}"]
    lines += [f"- {inline(note)}" for note in board.notes]
    lines += ["- Records, with versions, hashes and seeds, lie in the folders of their ids (column `runs` of the CSV)."]
    lines += ["", *_footer(set(MEANING) - absent), *columns.of_bystanders(board)]
    return "\n".join(lines) + "\n"


def remarks(board: Board) -> list[str]:
    """What is remarked of rows, a line each: "† ram: ..."."""
    rows = board.rows[board.rows["remark"] != ""]
    return [f"{columns.REMARK} {row['method']}: {row['remark']}." for row in rows.to_dict("records")]


def _remarks(board: Board) -> list[str]:
    return [line for remark in remarks(board) for line in (inline(remark), "")]


def _differences(board: Board) -> list[str]:
    """Which ranks and differences the samples and seeds bear out, and the test of ranks over tasks."""
    ranked = board.rows[board.rows["row"] == "method"]
    if not ranked["rank_low"].notna().any():
        return []
    what = "mean" if board.averaged else "expert-normalised mean"
    lines = ["## Which differences hold", "", f"Paired, on the {what}, in points, within a track.", ""]
    for track, rows in _tracks(ranked):
        lines += [f"### {track.title}", "", *_table(rows, columns.VERSUS), ""]
        if (test := board.friedman.get(track.name)) is not None:
            lines += [
                f"Friedman's test over the {len(board.tasks)} tasks: chi-squared {test.statistic:.1f}, "
                f"p = {test.p:.1g}. Nemenyi's critical difference of mean ranks at 5 %: {test.critical_difference:.1f} "
                f"({len(rows)} methods; it knows ranks by task only and sees large differences only).",
                "",
            ]
    return [*lines, *_wins(board)]


def _wins(board: Board) -> list[str]:
    """A square table a track: which row is surely better than which."""
    if board.versus is None:
        return []
    lines = [
        "### Wins", "",
        f"The row against the column, which has the row's number: {versus.BETTER} surely better, {versus.WORSE} surely "
        f"worse at 95 %, {versus.TIED} tied. Each pair by itself: of twenty pairs of equal methods one is called "
        "different. The ranks that a row may have ask for more: all its comparisons together. With numbers, and over "
        "all tracks: the page.", "",
    ]  # fmt: skip
    for track, rows in _tracks(board.rows[board.rows["rank"].notna()]):
        if len(rows) > 1:
            cells = versus.wins(board.rows, board.versus, list(rows.index))
            numbered = [[f"{place} {cell[0]}", *cell[1:]] for place, cell in enumerate(cells, 1)]
            heading = [track.title, *(str(place) for place in range(1, len(rows) + 1))]
            lines += [*padded(heading, numbered, "<" + "<" * len(rows)), ""]
    return lines


def _searches(board: Board) -> list[str]:
    """What was chosen on validation samples, among which values."""
    rows = board.rows[board.rows["chosen"] != ""]
    if not len(rows):
        return []
    about = (
        "Chosen on labelled validation samples. At the lowest or highest value that was tried a better one may lie "
        "outside of the grid. Intervals do not hold the chance in this choice."
    )
    return ["## Chosen values", "", about, "", *_table(rows, columns.SEARCHES), ""]


def _seeds(board: Board) -> list[str]:
    """The score of each seed of rows that have several."""
    rows = board.rows[board.rows["seed_scores"] != ""]
    return ["## Each seed", "", *_table(rows, columns.seeds(board)), ""] if len(rows) else []


def _published(board: Board) -> list[str]:
    """What papers print for the same methods, where they do."""
    if not len(board.beside):
        return []
    lines = [
        "## Published beside measured",
        "",
        f"Only numbers on the same suite, backbone and checkpoint family ({code(board.family)}). All of them, with the "
        "traps in comparing them, are in `results/published.md`.",
        "",
    ]
    papers = board.rows[board.rows["published"].notna()]
    if len(papers):
        lines += [*_table(papers, columns.PUBLISHED), "", _far(board), ""]
    heading, cells = beside.by_task(board.beside, board.tasks)
    if cells:
        lines += ["A star: what is printed lies outside of the run's 95 % interval.", ""]
        lines += [*padded(heading, cells, "<<" + ">" * (len(heading) - 2)), ""]
    return lines


def _far(board: Board) -> str:
    """Which rows are more than half a point from what is printed, and where it says what to look at."""
    rows = beside.far(board.beside).to_dict("records")
    if not rows:
        return "No row is more than half a point from what is published."
    named = ", ".join(f"{inline(row['method'])} ({row['gap']:+.1f})" for row in rows)
    return f"More than half a point from what is published: {named}. What to look at: `docs/full-scale.md`."


def _metrics(board: Board) -> list[str]:
    """A line for each metric of the board."""
    entries = [metrics.METRICS[name] for name in dict.fromkeys(board.metrics.values()) if name in metrics.METRICS]
    units = {"%": "percent", "": "in the unit of the target", "°": "in degrees"}
    return [
        f"- `{metric.name}`: {metric.title}, {units[metric.unit]}, "
        f"{'higher' if metric.higher_is_better else 'lower'} is better{metric.degenerate and '; '}{metric.degenerate}."
        for metric in entries
    ]


def as_json(boards: Sequence[Board]) -> str:
    """Boards for a program: suite, backbone, family, and rows, runs without scores and trials as lists of objects."""
    tables = [
        {
            "suite": board.suite,
            "backbone": board.backbone,
            "family": board.family,
            "tasks": board.tasks,
            "metrics": board.metrics,
            "rows": json.loads(board.rows.to_json(orient="records")),
            "incomplete": json.loads(board.incomplete.to_json(orient="records")),
            "trials": json.loads(board.trials.to_json(orient="records")),
        }
        for board in boards
    ]
    return json.dumps({"boards": tables}, indent=1, ensure_ascii=False)


def print_board(board: Board, file: TextIO | None = None, width: int | None = None) -> None:
    """The board for a terminal: its name, the table, and a line for each incomplete run."""
    out = file or sys.stdout
    print(terminal(_title(board)), file=out)
    for text in told_of_validity(board):
        plain = terminal(text.replace("**", "").replace("`", ""))
        print(textwrap.fill(plain, width or shutil.get_terminal_size((100, 24)).columns), file=out)
    print_table(board.rows, out, width, board)
    for remark in remarks(board):
        print(terminal(remark), file=out)
    for _, row in board.incomplete.iterrows():
        seed = f" seed {row['seed']}" if row["seed"] else ""
        line = f"incomplete: {row['method']}{seed}: {row['status']}, {row['tasks_done']} tasks. {row['reason']}"
        print(terminal(line).rstrip(), file=out)
    for _, row in board.trials.iterrows():
        seed = f" seed {row['seed']}" if row["seed"] else ""
        line = f"trial on {row['limit']} samples a task, no result: {row['method']}{seed}: {row['status']}"
        print(terminal(f"{line}, {row['tasks_done']} tasks. {row['reason']}").rstrip(), file=out)
    for row in board.beside[board.beside["task"] == AVERAGE].to_dict("records"):
        where = {"yes": "within its 95 % interval", "no": "outside of its 95 % interval"}.get(row["within"], "")
        line = f"published: {row['method']} {row['published']:.1f}, measured {row['measured']:.1f} ({row['gap']:+.1f})"
        print(terminal(f"{line}, {where}".rstrip(", ")), file=out)


def print_table(
    frame: pd.DataFrame, file: TextIO | None = None, width: int | None = None, board: Board | None = None
) -> None:
    """A board's rows as aligned text within `width` (default: the terminal's), track by track.

    `board` decides the columns.

    Where they do not fit, columns are left out from the right, but never rank, method and mean; then the names are cut.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    shown = columns.terminal(board)
    cells = [[terminal(cell(row)) for _, _, cell in shown] for _, row in frame.iterrows()]
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, (name, _, _) in enumerate(shown)]
    least = min(widths[1], 24)
    while len(shown) > 3 and sum(widths) - widths[1] + least + 2 * (len(shown) - 1) > width:
        shown.pop()
        widths.pop()
    widths[1] = max(8, min(widths[1], width - (sum(widths) - widths[1]) - 2 * (len(shown) - 1)))
    lines: list[list[str] | str] = [[name for name, _, _ in shown], ["─" * size for size in widths]]
    before = None
    for track, cell in zip(frame["track"], cells, strict=True):
        if track != before:
            lines.append(_cut(f"{titled(track).title}: {titled(track).about}", width))
            before = track
        lines.append(cell)
    for line in lines:
        if isinstance(line, list):
            parts = [
                f"{_cut(text, size):{align}{size}}"
                for text, size, (_, align, _) in zip(line[: len(shown)], widths, shown, strict=True)
            ]
            line = "  ".join(parts).rstrip()
        print(line, file=file or sys.stdout)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def _table(frame: pd.DataFrame, shown: Sequence[Column]) -> list[str]:
    """Lines of a Markdown table, padded so that it reads well as text too."""
    rows = [[cell(row) for _, _, cell in shown] for _, row in frame.iterrows()]
    return padded([name for name, _, _ in shown], rows, "".join(align for _, align, _ in shown))


def markdown_table(frame: pd.DataFrame) -> list[str]:
    """Lines of a Markdown table of the frame's own columns, numbers to the right, padded so that it reads as text."""
    alignment = "".join(">" if pd.api.types.is_numeric_dtype(frame[name]) else "<" for name in frame.columns)
    rows = [[str(row[name]) for name in frame.columns] for _, row in frame.iterrows()]
    return padded(list(frame.columns), rows, alignment)


def _tracks(frame: pd.DataFrame) -> Iterator[tuple[Track, pd.DataFrame]]:
    """The tracks that have rows, in their order, with these."""
    for track in TRACKS:
        rows = frame[frame["track"] == track.name]
        if len(rows):
            yield track, rows


def _by_track(frame: pd.DataFrame, shown: Sequence[Column]) -> list[str]:
    """A Markdown table for each track, below its title and what its rows have in common."""
    lines = []
    for track, rows in _tracks(frame):
        lines += [f"**{track.title}** ({track.about})", "", *_table(rows, shown), ""]
    return lines


def _title(board: Board) -> str:
    return f"{board.suite} · {board.backbone} · {board.family}"


def standing(board: Board) -> list[str]:
    """What a reader must know before the numbers: scale, and how well the ranking predicts the published one."""
    size = f"{len(board.tasks)} tasks, version {board.suite_version} of the suite."
    if board.scale == "own":
        size += " A suite of a user's own: its numbers hold for its own images and experts, and for nothing published."
    elif board.scale != "full":
        size += f" A {board.scale} suite: compare its numbers with nothing full-scale or published."
        size += " It is there to try code on, not to draw conclusions from." if board.mini else ""
    return [size, *told_of_validity(board)]


def told_of_validity(board: Board) -> list[str]:
    """How well the ranking predicts the published one, where the suite says which, and what not to conclude."""
    told = [validity.line(board.validity), validity.warning(board.validity)] if board.validity is not None else []
    return [text for text in told if text]


def _scale_note(board: Board) -> list[str]:
    return [line for text in standing(board) for line in (inline(text), "")]


def _footer(names: set[str]) -> list[str]:
    return ["## Columns", "", *(f"- **{name}**: {text}." for name, text in MEANING.items() if name in names)]
