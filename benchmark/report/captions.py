"""What a figure shows, in one sentence, from the board that it is drawn of. No torch."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.board.rows import Board
from benchmark.board.tracks import TRACKS


def caption(kind: str, board: Board | None = None) -> str:
    """One sentence for a figure of this kind (of :data:`benchmark.report.figures.KINDS`), of this board if it has one.

    >>> caption("transfer")
    'What layers adapted on one merge give to another, left over its own layer, right beyond adapting that one.'
    """
    if kind in OF_BOARD:
        return OF_BOARD[kind](board) if board is not None else ""
    return OF_STUDIES[kind]


def _best(board: Board) -> str:
    """The best of each track with its score."""
    value = "mean" if board.averaged else "normalised"
    first = board.rows[board.rows["rank"] == 1].set_index("track")
    titles = {track.name: track.title for track in TRACKS}
    said = [f"{titles[str(name)].lower()} {row['method']} {row[value]:.1f}" for name, row in first.iterrows()]
    return ", ".join(said)


def _scores(board: Board) -> str:
    what = "mean score" if board.averaged else "mean score in percent of the experts'"
    return f"{len(board.rows)} rows of {board.called} by {what}, track by track; the best are {_best(board)}."


def _ranks(board: Board) -> str:
    return (
        f"Which methods differ in their mean rank over the {len(board.tasks)} tasks of {board.called}: those that a "
        "bar joins may not."
    )


def _by_task(board: Board) -> str:
    low = board.rows[board.rows["rank"] == 1]["worst_task"].mode()
    worst = f"; most of the tracks' best lose most on {low.iloc[0]}" if len(low) and low.iloc[0] else ""
    return f"How much of each expert's own score is kept on each task of {board.called}{worst}."


def _cost(board: Board) -> str:
    return f"What a higher score on {board.called} takes in seconds: the named methods are beaten by none in both."


def _storage(board: Board) -> str:
    more = int((board.rows["track"] == "more").sum())
    return f"What a higher score on {board.called} takes in storage: {more} rows keep more than one model."


def _coefficients(board: Board) -> str:
    return f"Which tensors of which task the named row of {board.called} weighs high or low after adapting."


def _adaptation(board: Board) -> str:
    return f"Whether methods that adapt on {board.called} were still improving when their budget ended."


OF_BOARD: dict[str, Callable[[Board], str]] = {
    "scores": _scores, "ranks": _ranks, "by-task": _by_task, "cost": _cost, "storage": _storage,
    "coefficients": _coefficients, "adaptation": _adaptation,
}  # fmt: skip
OF_STUDIES = {
    "by-tasks": "How the score falls as more tasks are merged, one line a method.",
    "transfer": "What layers adapted on one merge give to another, left over its own layer, right beyond adapting that "
    "one.",
    "cross-task": "How well the head of one task reads the encoder of another task's expert.",
    "correlation": "Whether sets of tasks whose experts read each other well also merge well.",
    "ablation": "What changes when one part of a method or of its setting is changed, with 95 % intervals.",
}
