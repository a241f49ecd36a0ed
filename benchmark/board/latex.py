"""A board as a LaTeX table: booktabs, the best of each track in bold, and whatever is tied with it."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from benchmark.board import columns
from benchmark.board.rows import Board
from benchmark.board.tracks import TRACKS
from benchmark.common.escapes import terminal
from benchmark.records import metrics

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "'": r"\textquotesingle{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "–": "--", "−": "$-$", "·": r"$\cdot$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "°": r"$^\circ$",
    "Δ": r"$\Delta$", "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$",
}  # fmt: skip
_SPECIAL = re.compile("|".join(map(re.escape, _SIGNS)))


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it; it runs no command.

    >>> escaped("iso_c:scale=1.5 100% $x$")
    'iso\\_c:scale=1.5 100\\% \\$x\\$'
    """
    return _SPECIAL.sub(lambda match: _SIGNS[match[0]], terminal(text))


def latex(board: Board) -> str:
    """The table: method, score with the half of its 95 % interval, and each task, a block for each track."""
    score = ("mean", "low", "high") if board.averaged else ("normalised", "normalised_low", "normalised_high")
    lines = [
        f"% {terminal(board.suite)}, {terminal(board.backbone)}, checkpoints {terminal(board.family)}; "
        f"commit {terminal(', '.join(board.commits))}",
        "% Needs \\usepackage{booktabs, textcomp}. Bold: the best of a track and what is tied with it, paired at 95 %",
        "% on the same samples; of a task the best score of the track. Half widths of 95 % intervals beside.",
        r"\begin{tabular}{l r " + "r" * len(board.tasks) + "}",
        r"\toprule",
        " & ".join(["Method", "Mean" if board.averaged else "Normalised", *(_task(board, t) for t in board.tasks)]),
    ]
    lines[-1] += r" \\"
    for track in TRACKS:
        rows = board.rows[board.rows["track"] == track.name]
        if not len(rows):
            continue
        width = 2 + len(board.tasks)
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escaped(track.title)}}}}} \\"]
        best = {task: _best(board, rows, task) for task in board.tasks} if rows["rank"].notna().any() else {}
        for row in rows.to_dict("records"):
            cells = [escaped(row["method"]), _score(row, *score)]
            for task in board.tasks:
                text = columns.number(row[task], _digits(board, task))
                cells.append(_bold(escaped(text), text == best.get(task)))
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _score(row: Any, value: str, low: str, high: str) -> str:
    if pd.isna(row[value]):
        return "--"
    half = "" if pd.isna(row[low]) else rf" {{\scriptsize$\pm${(row[high] - row[low]) / 2:.1f}}}"
    return _bold(f"{row[value]:.1f}", row["best"] in ("best", "tied")) + half


def _bold(text: str, bold: bool) -> str:
    return rf"\textbf{{{text}}}" if bold else text


def _best(board: Board, rows: pd.DataFrame, task: str) -> str:
    """The best score of a track on a task, as it is printed, so that equal prints are all bold."""
    metric = metrics.METRICS.get(board.metrics.get(task, ""))
    higher = metric.higher_is_better if metric else True
    return columns.number(rows[task].max() if higher else rows[task].min(), _digits(board, task))


def _digits(board: Board, task: str) -> int:
    metric = metrics.METRICS.get(board.metrics.get(task, ""))
    return metric.digits if metric and columns.unlike(board) else 1


def _task(board: Board, task: str) -> str:
    metric = metrics.METRICS.get(board.metrics.get(task, ""))
    return escaped(f"{task} {metric.arrow}" if metric and columns.unlike(board) else task)
