"""Figures from boards and records; those of studies are in ``study_figures``. No torch.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; matrices are in cividis, differences in blue and
orange.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402

from benchmark.board.rows import Board, called  # noqa: E402
from benchmark.board.selection import label  # noqa: E402
from benchmark.board.tracks import TRACKS  # noqa: E402
from benchmark.records import access as accesses
from benchmark.records import metrics  # noqa: E402
from benchmark.records.record import Record, commits_text  # noqa: E402
from benchmark.report import labels

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = ["s", "o", "^", "D", "v", "P", "X", "*"]
DIVERGING = LinearSegmentedColormap.from_list("blue to orange", ["#0072B2", "#F7F7F7", "#D55E00"])
REFERENCE = {"individual": "#000000", "pretrained": "#888888"}
NARROWEST = 5.2
"""Inches that a title line with suite, samples, seeds and commit takes."""


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
            rows = board.rows[board.rows["method"] == name]
            if len(rows):
                row = rows.iloc[0]
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
    axes.set_xlabel("number of tasks merged", fontsize=8)
    axes.set_ylabel("mean accuracy, %", fontsize=8)
    axes.tick_params(labelsize=7)
    commits = commits_text(commit for board in ordered for commit in board.commits)
    suites = ", ".join(board.suite for board in ordered)
    samples = ", ".join(f"{sum(board.n_test.values()):,}" for board in ordered)
    absent = left_out(dict.fromkeys(name for board in ordered for name in board.rows["method"]), methods, longest=75)
    about = f"{suites} ({samples} test samples)\n95 % intervals, commit {commits}"
    axes.set_title(about + (f"\n{absent}" if absent else ""), fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def bars(board: Board, most: int = 90, first: Sequence[str] = ()) -> Figure:
    """Score of every method with its 95 % interval, track by track, best first; colours say what data it saw.

    Where there are more than ``most`` rows, the title names those left out: never references, the best of a track,
    a user's own, or those of ``first``.
    """
    value, low, high, label = _score(board)
    whole = board.rows[board.rows[value].notna()]
    rows = kept(board, whole, value, most, first)
    places, headings, at = [], [], 0.0
    for track in TRACKS:
        if size := int((rows["track"] == track.name).sum()):
            headings.append((at, track.title))
            places += [at + 1 + i for i in range(size)]
            at = places[-1] + 1.3
    figure, axes = plt.subplots(figsize=(6.6, 1.3 + 0.17 * at), layout="constrained")
    y = np.array(places)
    for access, colour in _access_colours(rows).items():
        part = ((rows["row"] == "method") | (rows["row"] == "oracle")) & (rows["access"] == access)
        axes.barh(y[part], rows[value][part], color=colour, height=0.75, label=access, alpha=0.9)
    reference = rows["row"] == "reference"
    axes.barh(y[reference], rows[value][reference], color="#FFFFFF", edgecolor="#000000", height=0.75, hatch="///",
              linewidth=0.6, label="reference row")  # fmt: skip
    axes.errorbar(rows[value], y, xerr=errors(rows, value, low, high), fmt="none", ecolor="#333333",
                  elinewidth=0.8, capsize=1.5)  # fmt: skip
    for place, number, end in zip(places, rows[value], rows[high].fillna(rows[value]), strict=True):
        axes.text(end + 0.8, place, f"{number:.1f}", va="center", fontsize=6)
    for place, title in headings:
        axes.text(0, place + 0.1, f" {title}", va="center", fontsize=6.5, fontweight="bold")
    axes.set_yticks(places, [_named(row) for _, row in rows.iterrows()], fontsize=6.5)
    axes.set_ylim(at - 0.6, -0.8)
    axes.set_xlabel(label, fontsize=8)
    figure.legend(fontsize=6.5, loc="outside lower center", ncols=3, frameon=False,
                  title="data seen", title_fontsize=6.5)  # fmt: skip
    absent = left_out(whole["method"], rows["method"])
    return _titled(figure, axes, "Score with 95 % interval", board, grid="x", more=absent)


def kept(board: Board, rows: pd.DataFrame, value: str, most: int, first: Sequence[str] = ()) -> pd.DataFrame:
    """At most ``most`` rows: references, the best of each track, a user's own and ``first`` whatever their score."""
    if len(rows) <= most:
        return rows
    always = (rows["row"] != "method") | (rows["rank"] == 1) | rows["method"].isin([*board.own, *first])
    others = rows[~always].sort_values(value, ascending=False, kind="stable").head(max(0, most - int(always.sum())))
    return rows[always | rows.index.isin(others.index)]


def left_out(every: Iterable[str], shown: Iterable[str], longest: int = 95, named: int = 24) -> str:
    """What a title says of the rows that a figure leaves out: their names, of many how many; empty for none."""
    present = set(shown)
    absent = [name for name in every if name not in present]
    if not absent:
        return ""
    if len(absent) > named:
        return f"{len(absent)} further rows are left out: the board has them"
    return "\n".join(textwrap.wrap(f"left out: {', '.join(absent)}", longest))


def by_task(board: Board, methods: Sequence[str]) -> Figure:
    """Each task's score in percent of its own expert's: a line of dots a task, a mark a method."""
    expert = board.rows[board.rows["method"] == "individual"]
    own = expert.iloc[0] if len(expert) else None
    figure, axes = plt.subplots(figsize=(6.6, 1.3 + 0.24 * len(board.tasks)), layout="constrained")
    for number, name in enumerate(methods):
        row = board.rows[board.rows["method"] == name].iloc[0]
        shares = [_share(board, task, row, own) for task in board.tasks]
        axes.plot(shares, range(len(board.tasks)), linestyle="none", marker=MARKERS[number % len(MARKERS)],
                  color=COLOURS[number % len(COLOURS)], markersize=5, alpha=0.85, label=name,
                  fillstyle="full" if number < len(COLOURS) else "none")  # fmt: skip
    axes.axvline(100, color="#000000", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(board.tasks)), board.tasks, fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlabel("score, % of the task's own expert (dashed: the expert)", fontsize=8)
    axes.legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    absent = left_out(board.rows["method"][board.rows["method"] != "individual"], methods, longest=75)
    return _titled(figure, axes, "Each task", board, grid="both", more=absent)


def against(board: Board, column: str, label: str, named: Sequence[str] = ()) -> Figure:
    """Score against a cost of the board (``column``, on a logarithmic axis), a mark a method.

    Named are reference rows, the methods that no other beats in both, and those of ``named`` that there is room for.
    """
    value, low, high, scored = _score(board)
    rows = board.rows[board.rows[value].notna() & board.rows[column].notna()]
    positive = rows[column][rows[column] > 0]
    x = rows[column].clip(lower=max(1e-2, float(positive.min())) if len(positive) else 1.0)
    figure, axes = plt.subplots(figsize=(6.6, 3.8), layout="constrained")
    for (access, colour), marker in zip(_access_colours(rows).items(), MARKERS * 4, strict=False):
        part = rows["access"] == access
        lengths = errors(rows[part], value, low, high)
        axes.errorbar(x[part], rows[value][part], yerr=lengths, fmt=marker, color=colour, markersize=4.5, alpha=0.85,
                      elinewidth=0.7, label=access)  # fmt: skip
    y, ranked = rows[value], rows["row"] == "method"
    beaten = {i: (ranked & (x <= x[i]) & (y >= y[i]) & ((x < x[i]) | (y > y[i]))).any() for i in rows.index}
    first = [i for i in rows.index if rows["row"][i] == "reference" or not beaten[i]]
    order = [*first, *(i for i in rows.index if rows["method"][i] in named and i not in first)]
    span = np.ptp(np.log10(x)) or 1.0
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}" if span < 1.2 else NullFormatter())
    axes.tick_params(axis="x", which="minor", labelsize=6)
    axes.margins(x=0.12)
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel(scored, fontsize=8)
    figure.legend(fontsize=6.5, loc="outside lower center", ncols=3, frameon=False,
                  title="data seen", title_fontsize=6.5)  # fmt: skip
    absent = left_out(board.rows["method"], rows["method"])
    _titled(figure, axes, f"Score against {label.partition(',')[0]}", board, grid="both", more=absent)
    labels.place(axes, [(x[i], y[i], rows["method"][i]) for i in order], list(zip(x, y, strict=True)), len(first))
    return figure


def coefficients(records: Sequence[Record], others: Sequence[str] = ()) -> Figure:
    """Learned merging coefficients, a row each tensor and a column each task, averaged over the seeds of one method.

    ``others``: rows that learned some as well and are not shown.
    Tensors with one value but 0 for all tasks and seeds, as those have that no expert changed, are counted only.
    """
    first = records[0]
    names = [str(name) for name in first.trace_summary["coefficient_rows"]]
    every = np.array([record.trace_summary["coefficients"] for record in records])
    moved = np.flatnonzero(((every != every[:1, :, :1]) | (every == 0)).any(axis=(0, 2)))
    fixed = len(names) - len(moved) if len(moved) else 0
    if fixed:
        names, every = [names[i] for i in moved], every[:, moved]
    values = every.mean(axis=0)
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    figure, axes = plt.subplots(figsize=(max(4.2, 2.6 + 0.3 * len(first.suite_tasks)), 1.6 + 0.115 * len(names)),
                                layout="constrained")  # fmt: skip
    heat_map(values, [name[len(common):] for name in names], first.suite_tasks, axes=axes, label="coefficient",
             limits=(0.0, max(1.0, float(values.max()))), numbers=False)  # fmt: skip
    axes.set_yticks(range(len(names)), [name[len(common) :] for name in names], fontsize=5.5)
    same = f"\n{fixed} tensor{'s' if fixed > 1 else ''} with one value for all tasks left out" if fixed else ""
    absent = left_out(others, (), longest=50, named=6)
    figure.suptitle(
        f"{label(first)}: coefficients, mean of n={len(records)}\n{_records(records)}{same}"
        + (f"\n{absent}" if absent else ""),
        fontsize=8,
    )
    return figure


def adaptation(groups: Mapping[str, Sequence[Record]], smooth: int = 5, others: Sequence[str] = ()) -> Figure:
    """Loss while adapting, in percent of its start, a line a method: mean over seeds, their range shaded.

    ``others``: rows with a curve that are not shown.
    Losses of different methods are different functions; only the course of each can be read here.
    """
    figure, axes = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
    for number, (name, records) in enumerate(groups.items()):
        curves = [np.asarray(record.trace_summary["losses"], dtype=float) for record in records]
        shortest = min(map(len, curves))
        table = np.array([np.convolve(curve[:shortest], np.ones(smooth) / smooth, mode="valid") for curve in curves])
        table = 100 * table / table[:, :1]
        share = 100 * (np.arange(table.shape[1]) + smooth / 2) / shortest
        colour, line = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else ":"
        axes.plot(share, table.mean(axis=0), color=colour, linewidth=1.4, linestyle=line, markevery=12, markersize=4,
                  marker=MARKERS[number % len(MARKERS)], label=f"{name} (n={len(records)})")  # fmt: skip
        axes.fill_between(share, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("share of the updates, %", fontsize=8)
    axes.set_ylabel("loss, % of its start", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    about = _records([r for records in groups.values() for r in records])
    absent = left_out(others, (), longest=75)
    axes.set_title(f"Adaptation\n{about}" + (f"\n{absent}" if absent else ""), fontsize=8)
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
    numbers: bool = True,
    bold: np.ndarray | None = None,
) -> None:
    """A matrix as colours with its numbers: cividis, or blue to orange around zero where ``diverging``.

    ``bold``: which numbers stand out, of the matrix's shape.
    """
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
        if numbers and np.isfinite(value):
            red, green, blue, _ = picture.cmap(picture.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{value:{'+' if diverging else ''}.{digits}f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=5.5 if len(across) < 15 else 4.8,
                      color="white" if dark else "black",
                      fontweight="bold" if bold is not None and bold[i, j] else "normal")  # fmt: skip
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG to ``path`` and as SVG beside it, and close it; the path of the PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "symerge-bench"}):
        figure.savefig(path, dpi=110)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    return path


def _score(board: Board) -> tuple[str, str, str, str]:
    """Columns of the score and its interval, and how the axis is called."""
    if board.averaged:
        return "mean", "low", "high", "mean score, %"
    return "normalised", "normalised_low", "normalised_high", "mean score, % of the experts'"


def errors(rows: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    """Lengths of error bars below and above, ``[2, n]``; 0 where there is no interval."""
    return np.maximum(0, np.nan_to_num([rows[value] - rows[low], rows[high] - rows[value]]))


def _share(board: Board, task: str, row: Any, own: Any) -> float:
    if own is None:
        return float("nan")
    above, below = (row[task], own[task]) if higher_is_better(board, task) else (own[task], row[task])
    return float(100 * above / below) if below > 0 else float("nan")


def higher_is_better(board: Board, task: str) -> bool:
    """The direction of a task's metric."""
    name = board.metrics.get(task, "")
    return metrics.get(name).higher_is_better if name in metrics.METRICS else True


def _access_colours(rows: pd.DataFrame) -> dict[str, str]:
    """A colour for each kind of access, the same in every figure; estimating statistics does not change it."""
    usual = ["none", "unlabelled test", "labelled val", "unlabelled train", "unlabelled val", "labelled train"]
    colours = dict(zip(usual, ["#0072B2", "#D55E00", "#E69F00", "#009E73", "#56B4E9", "#CC79A7"], strict=True))
    adapted = {access: accesses.text(accesses.own(access)) for access in set(rows["access"])}
    order = sorted(adapted, key=lambda access: (usual.index(a) if (a := adapted[access]) in usual else 99, access))
    free = [colours.pop(name) for name in usual if name not in adapted.values()]
    return {access: colours.pop(adapted[access], "") or (free.pop(0) if free else "#777777") for access in order}


def _named(row: Any) -> str:
    return row["method"] + (" (oracle)" if row["row"] == "oracle" else "") + (f"  n={row['n']}" if row["n"] > 1 else "")


def _titled(figure: Figure, axes: Axes, what: str, board: Board, grid: Literal["x", "both"], more: str = "") -> Figure:
    commits = commits_text(commit.split()[0] for commit in board.commits)
    size = f"{len(board.tasks)} tasks, {sum(board.n_test.values()):,} test samples"
    about = f"{what}: {board.called}, {board.backbone}\n{size}, commit {commits}"
    # The figure's: beside long labels the middle of the axes lies so far to the right that a title of theirs is cut.
    figure.suptitle(about + (f"\n{more}" if more else ""), fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    if grid == "both":
        axes.tick_params(axis="y", labelsize=min(7.0, axes.get_yticklabels()[0].get_fontsize()))
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _records(records: Sequence[Record]) -> str:
    """Suite, seeds and commits of some runs."""
    seeds = len({record.spec.seed for record in records})
    commits = commits_text(record.provenance.commit or "" for record in records)
    spec = records[0].spec
    return f"{called(spec.suite, spec.family)}, {seeds} seed{'s' if seeds > 1 else ''}, commit {commits}"
