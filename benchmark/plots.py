"""Figures from boards. No torch; colours are Okabe and Ito's, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmark.rows import Board  # noqa: E402

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["s", "o", "^", "D", "v", "P", "X", "*"]
REFERENCE = {"individual": "#000000", "pretrained": "#888888"}


def by_number_of_tasks(boards: Sequence[Board], methods: Sequence[str]) -> Figure:
    """Mean score, with its 95 % interval, against the number of tasks: one line a method.

    ``boards`` are suites of one kind that differ in their number of tasks; a method absent from a board has no point
    there.
    """
    figure, axes = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    drawn = 0
    ordered = sorted(boards, key=lambda board: len(board.tasks))
    for name in methods:
        points = []
        for board in ordered:
            found = board.rows[board.rows["method"] == name]
            if len(found):
                row = found.iloc[0]
                points.append((len(board.tasks), row["mean"], row["mean"] - row["low"], row["high"] - row["mean"]))
        if not points:
            continue
        x, mean, down, up = zip(*points, strict=True)
        line, marker = ("-" if drawn < len(COLOURS) else ":"), MARKERS[drawn % len(MARKERS)]
        colour = COLOURS[drawn % len(COLOURS)]
        if name in REFERENCE:
            line, marker, colour = "--", "", REFERENCE[name]
        else:
            drawn += 1
        axes.errorbar(x, mean, yerr=(down, up), label=name, color=colour, marker=marker, linestyle=line, capsize=2,
                      markersize=5, linewidth=1.4)  # fmt: skip
    axes.set_xticks([len(board.tasks) for board in ordered])
    axes.set_xlabel("number of tasks merged")
    axes.set_ylabel("mean accuracy, %")
    commits = sorted({commit[:8] for board in ordered for commit in board.commits})
    suites = ", ".join(board.suite for board in ordered)
    axes.set_title(f"{suites}\n95 % intervals, commit {', '.join(commits)}", fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG (its suffix decides) and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)
    return path
