"""Figures from boards. No torch; colours are Okabe and Ito's, safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmark.rows import Board  # noqa: E402

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["s", "o", "^", "D", "v", "P", "X", "*"]
DIVERGING = LinearSegmentedColormap.from_list("blue to orange", ["#0072B2", "#F7F7F7", "#D55E00"])
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


def heat_map(
    values: np.ndarray,
    down: Sequence[str],
    across: Sequence[str],
    *,
    axes: Axes,
    label: str,
    diverging: bool = False,
    digits: int = 0,
    limits: tuple[float, float] | None = None,
) -> None:
    """A matrix as colours with its numbers: cividis, or blue to orange around zero where ``diverging``."""
    shown = np.asarray(values, dtype=float)
    if limits is None:
        most = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
        limits = (-most, most) if diverging else (float(np.nanmin(shown)), float(np.nanmax(shown)))
    picture = axes.imshow(shown, cmap=DIVERGING if diverging else "cividis", vmin=limits[0], vmax=limits[1],
                          aspect="auto")  # fmt: skip
    axes.set_xticks(range(len(across)), across, rotation=90 if len(across) > 4 else 20, fontsize=6,
                    ha="center" if len(across) > 4 else "right")  # fmt: skip
    axes.set_yticks(range(len(down)), down, fontsize=6)
    axes.tick_params(length=0)
    for (i, j), value in np.ndenumerate(shown):
        if np.isfinite(value):
            red, green, blue, _ = picture.cmap(picture.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{value:{'+' if diverging else ''}.{digits}f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=5.5 if len(across) < 15 else 4,
                      color="white" if dark else "black")  # fmt: skip
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6)


def transfer(frame: pd.DataFrame, about: str) -> Figure:
    """Transfers, a row each recipient and a column each source: gain over its own layer, and beyond its own adaptation.

    ``frame`` as ``studies.tables.transfer`` makes it. A star marks an interval without zero.
    """
    sources = list(dict.fromkeys(frame["source"]))
    order = frame.groupby("recipient")["own"].mean().sort_values(ascending=False)
    down = [f"{name} ({score:.1f})" for name, score in order.items()]
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 1.2 + 0.22 * len(down)), layout="constrained", sharey=True)
    for axes, name, title in zip(panels, ("gain", "beyond"),
                                 ("transferred - own", "transferred - self-adapted"), strict=True):  # fmt: skip
        table = frame.pivot_table(index="recipient", columns="source", values=name).reindex(order.index)[sources]
        heat_map(table.to_numpy(), down, sources, axes=axes, label="points", diverging=True, digits=1)
        axes.set_title(title, fontsize=8)
    what = "Layers adapted by the columns' methods, placed on the rows' merges (own score)"
    figure.suptitle(f"{what}\n{about}", fontsize=8)
    return figure


def cross_task(cross: Any, about: str) -> Figure:
    """Every head on every expert's encoder, before and after the head was adapted to it.

    ``cross`` as ``studies.tables.cross_task`` makes it; in percent of the expert's own score.
    """
    size = 1.6 + 0.17 * len(cross.tasks)
    figure, panels = plt.subplots(1, 2, figsize=(2 * size, size), layout="constrained", sharey=True)
    for axes, values, title in zip(panels, (cross.before, cross.adapted), ("heads as they are", "heads adapted"),
                                   strict=True):  # fmt: skip
        heat_map(cross.normalised(values), cross.tasks, cross.tasks, axes=axes, label="% of the expert's own",
                 limits=(0.0, 100.0))  # fmt: skip
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("head of", fontsize=7)
    panels[0].set_ylabel("encoder of", fontsize=7)
    figure.suptitle(f"Cross-task performance\n{about}", fontsize=8)
    return figure


def correlation(points: pd.DataFrame, coefficients: pd.DataFrame, about: str) -> Figure:
    """Cross-task performance against merge quality of sets of tasks, a panel for each merger.

    ``points`` and ``coefficients`` as ``studies.tables`` makes them; both axes in percent of the experts' own scores.
    """
    groups = list(points.groupby(["merger", "heads"], sort=False))
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(2.4 * columns, 0.6 + 2.1 * lines), layout="constrained",
                                  squeeze=False, sharex=True, sharey=True)  # fmt: skip
    sizes = sorted(points["size"].unique())
    for axes, ((merger, heads), group) in zip(panels.flat, groups, strict=False):
        title = merger + (", heads adapted" if heads == "adapted" else "")
        for place, size in enumerate(sizes):
            part = group[group["size"] == size]
            found = coefficients[(coefficients["merger"] == merger) & (coefficients["heads"] == heads)
                                 & (coefficients["size"] == size) & (coefficients["compared"] == "normalised")
                                 & (coefficients["kind"] == "pearson")]  # fmt: skip
            axes.scatter(part["cross_normalised"], part["merge_normalised"], s=12, alpha=0.8, linewidths=0,
                         color=COLOURS[place + 1], marker=MARKERS[place + 1], label=f"{size} tasks")  # fmt: skip
            for row in found.itertuples():
                within = f" [{row.low:+.2f}, {row.high:+.2f}]" if np.isfinite(row.low) else ""
                title += f"\n{size} tasks: r = {row.value:+.2f}{within}"
        axes.set_title(title, fontsize=6.5)
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels.flat[0].legend(fontsize=6, loc="lower right", handletextpad=0.1)
    for axes in panels.flat[len(groups):]:
        axes.set_visible(False)
    figure.supxlabel("cross-task performance, % of the experts' own", fontsize=7)
    figure.supylabel("merged, % of the experts' own", fontsize=7)
    figure.suptitle(f"Merges of sets of tasks; Pearson's r with 95 % interval\n{about}", fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG (its suffix decides) and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
