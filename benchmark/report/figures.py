"""Which figures are drawn of a results folder, and under which names. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmark.board.rows import Board
from benchmark.common.errors import unknown
from benchmark.records import access as accesses
from benchmark.records.record import Record
from benchmark.report import critical_difference as critical
from benchmark.report import plots, study_figures
from benchmark.studies.places import Places


def write(
    boards: Sequence[Board], records: Iterable[Record], folder: Path, studies: Places | None = None
) -> list[Path]:
    """Draw every figure of the boards, of their runs' traces and of the studies into ``folder``; the PNGs' paths."""
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures(boards, records, studies=studies)]


def figures(
    boards: Sequence[Board],
    records: Iterable[Record],
    kinds: Collection[str] | None = None,
    studies: Places | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Each figure with its name, which ends in its kind; ``kinds`` are some of KINDS, by default all.

    Kinds for which the boards, runs or studies hold too little have no figure.
    """
    wanted = KINDS if kinds is None else kinds
    if absent := [kind for kind in wanted if kind not in KINDS]:
        raise unknown("kind of figure", absent[0], KINDS)
    records = list(records)
    if "by-tasks" in wanted:
        yield from _by_tasks(boards)
    for board in boards:
        for kind, draw in OF_BOARD.items():
            figure = draw(board, records) if kind in wanted else None
            if figure is not None:
                yield f"{board.name}--{kind}", figure
    if studies is not None:
        yield from study_figures.figures(studies, wanted)


def _by_tasks(boards: Sequence[Board]) -> Iterator[tuple[str, Figure]]:
    """A figure for each kind of suite that there is in several sizes."""
    kinds: dict[tuple[str, str, str], list[Board]] = defaultdict(list)
    for board in boards:
        kinds[board.suite.rpartition("-")[0], board.backbone, board.family].append(board)
    for names, group in kinds.items():
        if len({len(board.tasks) for board in group}) > 1:
            shared = set.intersection(*(set(board.rows["method"]) for board in group))
            largest = max(group, key=lambda board: len(board.tasks)).rows
            best = largest.sort_values(["mean" if group[0].averaged else "normalised"], ascending=False, kind="stable")
            order = [name for name in best["method"] if name in shared]
            yield f"{'--'.join(names)}--by-tasks", plots.by_number_of_tasks(group, order)


def _ranks(board: Board, records: Sequence[Record]) -> Figure | None:
    return critical.diagram(board, critical.chosen(board))


def _scores(board: Board, records: Sequence[Record]) -> Figure | None:
    return plots.bars(board, first=critical.chosen(board)) if _named(board) else None


def _by_task(board: Board, records: Sequence[Record]) -> Figure | None:
    chosen = _named(board)
    least = len({*_best(board), *board.own})  # a user's own are never left out
    return plots.by_task(board, [*chosen[: max(least, 8)], *_present(board, "pretrained")]) if chosen else None


def _cost(board: Board, records: Sequence[Record]) -> Figure | None:
    costs = board.rows.assign(seconds=board.rows["merge_seconds"].fillna(0) + board.rows["adapt_seconds"].fillna(0))
    timed = Board(**{**vars(board), "rows": costs})
    where = "seconds to merge and adapt, where the runs were made"
    return plots.against(timed, "seconds", where, _named(board)) if _named(board) else None


def _storage(board: Board, records: Sequence[Record]) -> Figure | None:
    where = "storage, in models (1 is one merged model)"
    return plots.against(board, "storage_models", where, _named(board)) if _named(board) else None


def _best(board: Board) -> list[str]:
    """The best method of each track."""
    return board.rows[board.rows["rank"] == 1]["method"].tolist()


def _named(board: Board) -> list[str]:
    """The ranked methods that a figure with room for few shows: each track's best, the user's, the suite's list."""
    return list(dict.fromkeys([*_best(board), *board.own, *critical.chosen(board)]))


def _present(board: Board, name: str) -> list[str]:
    return [name] if name in set(board.rows["method"]) else []


def _coefficients(board: Board, records: Sequence[Record]) -> Figure | None:
    """Of the best method that learned some per tensor."""
    groups = _runs(board, records)
    learned = [name for name in board.rows["method"] if groups[name] and _layerwise(groups[name][0])]
    return plots.coefficients(groups[learned[0]], learned[1:]) if learned else None


def _adaptation(board: Board, records: Sequence[Record]) -> Figure | None:
    groups = _runs(board, records)
    # Training on labels is the upper bound of a merge, no adaptation of one: shown where there is room.
    trained = board.rows["access"].map(lambda cell: accesses.read(cell).labelled("train")).astype(bool)
    ordered = [*board.rows["method"][~trained], *board.rows["method"][trained]]
    curves = {n: groups[n] for n in ordered if groups[n] and len(_losses(groups[n][0])) > 20}
    first = [name for name in curves if name in board.own]
    shown = [*first, *(name for name in curves if name not in first)][: max(8, len(first))]
    others = [name for name in curves if name not in shown]
    return plots.adaptation({n: curves[n] for n in curves if n in shown}, others=others) if curves else None


def _runs(board: Board, records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs that the board shows, by row; of two rows of one name, which two sources tell of, those of the first."""
    by_id = {record.run_id: record for record in records}
    groups: dict[str, list[Record]] = defaultdict(list)
    for name, runs in zip(board.rows["method"], board.rows["runs"], strict=True):
        if name not in groups:
            groups[name] = [by_id[run] for run in runs.split() if run in by_id]
    return groups


def _losses(record: Record) -> list[float]:
    losses = record.trace_summary.get("losses")
    return losses if isinstance(losses, list) else []


def _layerwise(record: Record) -> bool:
    names = record.trace_summary.get("coefficient_rows")
    values = record.trace_summary.get("coefficients", [])
    return isinstance(names, list) and len(names) > 1 and len(names) == len(values)


#: How the figures of a board and its runs are drawn, by kind; None where there is too little.
OF_BOARD: dict[str, Callable[[Board, Sequence[Record]], Figure | None]] = {
    "ranks": _ranks,
    "scores": _scores,
    "by-task": _by_task,
    "cost": _cost,
    "storage": _storage,
    "coefficients": _coefficients,
    "adaptation": _adaptation,
}
KINDS = ("by-tasks", *OF_BOARD, *study_figures.FIGURES)
