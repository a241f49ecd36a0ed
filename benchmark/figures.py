"""Which figures are drawn of a results folder, and under which names. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmark import critical, plots, rows
from benchmark.record import Record
from benchmark.rows import Board


def write(boards: Sequence[Board], records: Iterable[Record], folder: Path) -> list[Path]:
    """Draw every figure of the boards and of their runs' traces into ``folder``; the paths of the PNGs."""
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures(boards, records)]


def figures(boards: Sequence[Board], records: Iterable[Record]) -> Iterator[tuple[str, Figure]]:
    """Each figure with its name."""
    kinds: dict[tuple[str, str, str], list[Board]] = defaultdict(list)
    for board in boards:
        kinds[board.suite.rpartition("-")[0], board.backbone, board.family].append(board)
    for names, group in kinds.items():
        if len({len(board.tasks) for board in group}) > 1:
            shared = set.intersection(*(set(board.rows["method"]) for board in group))
            largest = max(group, key=lambda board: len(board.tasks)).rows
            order = [name for name in largest["method"] if name in shared]
            yield f"{'--'.join(names)}--by-tasks", plots.by_number_of_tasks(group, order)
    records = list(records)
    for board in boards:
        ranks = critical.diagram(board, critical.chosen(board))
        if ranks is not None:
            yield f"{board.name}--ranks", ranks
        yield from _of_board(board)
        yield from _of_runs(board, records)


def _of_board(board: Board) -> Iterator[tuple[str, Figure]]:
    ranked = board.rows[board.rows["row"] == "method"]
    if not len(ranked):
        return
    yield f"{board.name}--scores", plots.bars(board)
    chosen = [*ranked["method"].head(5), *(n for n in critical.chosen(board) if n not in set(ranked["method"].head(5)))]
    yield f"{board.name}--by-task", plots.by_task(board, [*chosen[:8], *_present(board, "pretrained")])
    costs = board.rows.assign(seconds=board.rows["merge_seconds"].fillna(0) + board.rows["adapt_seconds"].fillna(0))
    timed = Board(**{**vars(board), "rows": costs})
    where = "seconds to merge and adapt, where the runs were made"
    yield f"{board.name}--cost", plots.against(timed, "seconds", where, chosen)
    storage = "storage, in models (1 is one merged model)"
    yield f"{board.name}--storage", plots.against(board, "storage_models", storage, chosen)


def _present(board: Board, name: str) -> list[str]:
    return [name] if name in set(board.rows["method"]) else []


def _of_runs(board: Board, records: Sequence[Record]) -> Iterator[tuple[str, Figure]]:
    """Coefficients and losses of the runs that the board shows."""
    shown = {run for runs in board.rows["runs"] for run in runs.split()}
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.run_id in shown:
            groups[rows.label(record)].append(record)
    learned = [name for name in board.rows["method"] if len(groups[name]) and _layerwise(groups[name][0])]
    for name in learned[:1]:
        yield f"{board.name}--coefficients", plots.coefficients(groups[name])
    curves = {n: groups[n] for n in board.rows["method"] if groups[n] and len(_losses(groups[n][0])) > 20}
    if curves:
        yield f"{board.name}--adaptation", plots.adaptation(dict(list(curves.items())[:8]))


def _losses(record: Record) -> list[float]:
    found = record.trace_summary.get("losses")
    return found if isinstance(found, list) else []


def _layerwise(record: Record) -> bool:
    names = record.trace_summary.get("coefficient_rows")
    values = record.trace_summary.get("coefficients", [])
    return isinstance(names, list) and len(names) > 1 and len(names) == len(values)
