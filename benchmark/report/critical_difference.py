"""Critical-difference diagrams: mean ranks over tasks, methods that Nemenyi's test cannot tell apart joined."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmark import suites  # noqa: E402
from benchmark.board.rows import Board  # noqa: E402
from benchmark.records import metrics
from benchmark.records.record import commits_text  # noqa: E402
from benchmark.report.plots import COLOURS, left_out  # noqa: E402
from benchmark.scores import statistics as stats

#: Fewest methods and tasks for which ranks over tasks say anything.
METHODS, TASKS = 3, 8


def chosen(board: Board) -> list[str]:
    """The ranked methods to draw: those of the suite's list and a user's own, or all of a suite without any of them.

    The critical difference grows with the number of methods, so that a hundred would hide every difference.
    """
    ranked = board.rows[board.rows["row"] == "method"]["method"].tolist()
    listed = set(suites.load(board.suite).methods) if board.suite in suites.names() else set()
    return [name for name in ranked if name in listed or name in board.own] or ranked


def diagram(board: Board, methods: Sequence[str]) -> Figure | None:
    """The diagram of these methods, or None for fewer than 3 methods or 8 tasks."""
    if len(methods) < METHODS or len(board.tasks) < TASKS:
        return None
    import scikit_posthocs

    rows = board.rows[board.rows["method"].isin(methods)].to_dict("records")
    higher = {task: _higher(board, task) for task in board.tasks}
    values = [{task: float(row[task]) for task in board.tasks} for row in rows]
    exact = [task for task in board.tasks if board.metrics.get(task) == stats.EXACT]
    test = stats.friedman(values, higher, exact)
    assert test is not None
    names = [row["method"] for row in rows]
    # Methods go by number until they are drawn: the order of the bars is that of a set, which names change every time.
    ranks = pd.Series(stats.mean_ranks(values, higher, exact))
    table = pd.DataFrame(stats.levels(values, higher, exact).T)
    apart = scikit_posthocs.posthoc_nemenyi_friedman(table)
    figure, axes = plt.subplots(figsize=(7.2, 1.6 + 0.17 * len(names)), layout="constrained")
    scikit_posthocs.critical_difference_diagram(
        ranks, apart, ax=axes, label_fmt_left="{label} ({rank:.1f})", label_fmt_right="({rank:.1f}) {label}",
        label_props={"fontsize": 8}, crossbar_props={"linewidth": 2},
        color_palette={i: COLOURS[i % len(COLOURS)] for i in range(len(names))},
    )  # fmt: skip
    for text in axes.texts:
        text.set_text(" ".join(names[int(part)] if part.isdigit() else part for part in text.get_text().split()))
    commits = commits_text(commit.split()[0] for commit in board.commits)
    ranked = board.rows[board.rows["row"] == "method"]["method"]
    absent = left_out(ranked, methods, longest=110)
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.2g}"
    axes.set_title(
        f"{board.called}, {board.backbone}: mean rank over {len(board.tasks)} tasks, commit {commits}\n"
        f"Friedman {p}. Bars join methods that Nemenyi's test does not tell apart at 5 % "
        f"(critical difference {test.critical_difference:.1f})" + (f"\n{absent}" if absent else ""),
        fontsize=8,
    )
    return figure


def _higher(board: Board, task: str) -> bool:
    metric = metrics.METRICS.get(board.metrics.get(task, ""))
    return metric.higher_is_better if metric else True
