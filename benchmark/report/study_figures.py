"""Figures from the tables of studies: how each is drawn, and which there are. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmark.report.plots import COLOURS, MARKERS, NARROWEST, REFERENCE, errors, heat_map
from benchmark.studies import contents, settings, tables
from benchmark.studies.places import Places

FIGURES = ("transfer", "cross-task", "correlation", "ablation")


def transfer(frame: pd.DataFrame, about: str) -> Figure:
    """Transfers, a row each recipient and a column each source: gain over its own layer, and beyond its own adaptation.

    ``frame`` as ``studies.tables.transfer`` makes it. Bold: the 95 % interval leaves out zero.
    """
    sources = list(dict.fromkeys(frame["source"]))
    order = frame.groupby("recipient")["own"].mean().sort_values(ascending=False)
    down = [f"{name} ({score:.1f})" for name, score in order.items()]
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 1.2 + 0.22 * len(down)), layout="constrained", sharey=True)
    for axes, name, title in zip(panels, ("gain", "beyond"),
                                 ("transferred - own", "transferred - self-adapted"), strict=True):  # fmt: skip
        table = frame.pivot_table(index="recipient", columns="source", values=name)
        table = table.reindex(index=order.index, columns=sources)
        sure = frame.assign(sure=(frame[f"{name}_low"] > 0) | (frame[f"{name}_high"] < 0))
        sure = sure.pivot(index="recipient", columns="source", values="sure").reindex_like(table).eq(True)
        heat_map(table.to_numpy(), down, sources, axes=axes, label="points", diverging=True, digits=1,
                 bold=sure.to_numpy())  # fmt: skip
        axes.set_title(title, fontsize=8)
    what = "Layers adapted by the columns' methods, placed on the rows' merges (own score)"
    figure.suptitle(f"{what}\n{about}", fontsize=8)
    return figure


def cross_task(cross: Any, about: str) -> Figure:
    """Every head on every expert's encoder, before and after the head was adapted to it.

    ``cross`` as ``studies.tables.cross_task`` makes it; in percent of the expert's own score.
    """
    many = len(cross.tasks) > 12
    size = 1.6 + (0.21 if many else 0.17) * len(cross.tasks)
    shown = [(cross.before, "heads as they are"), (cross.adapted, "heads adapted")]
    shown = [(values, title) for values, title in shown if np.isfinite(values).any()]
    down, across = (len(shown), 1) if many else (1, len(shown))
    figure, panels = plt.subplots(down, across, figsize=(max(NARROWEST, across * size + 0.8), down * (size + 0.3)),
                                  layout="constrained", sharex=True, sharey=True, squeeze=False)  # fmt: skip
    for axes, (values, title) in zip(panels.flat, shown, strict=True):
        heat_map(cross.normalised(values), cross.tasks, cross.tasks, axes=axes, label="% of the expert's own",
                 limits=(0.0, 100.0))  # fmt: skip
        axes.set_title(title, fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("head of", fontsize=7)
    for axes in panels[:, 0]:
        axes.set_ylabel("encoder of", fontsize=7)
    figure.suptitle(f"Cross-task performance\n{about}", fontsize=8)
    return figure


def correlation(points: pd.DataFrame, coefficients: pd.DataFrame, about: str) -> Figure:
    """Cross-task performance against merge quality of sets of tasks, a panel for each merger.

    ``points`` and ``coefficients`` as ``studies.tables`` makes them; both axes in percent of the experts' own scores.
    """
    groups = list(points.groupby(["merger", "heads"], sort=False))
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(max(NARROWEST, 2.4 * columns), 0.6 + 2.1 * lines),
                                  layout="constrained", squeeze=False, sharex=True, sharey=True)  # fmt: skip
    sizes = sorted(points["size"].unique())
    for axes, ((merger, heads), group) in zip(panels.flat, groups, strict=False):
        title = merger + (", heads adapted" if heads == "adapted" else "")
        for place, size in enumerate(sizes):
            part = group[group["size"] == size]
            pair_rows = coefficients[(coefficients["merger"] == merger) & (coefficients["heads"] == heads)
                                 & (coefficients["size"] == size) & (coefficients["compared"] == "normalised")
                                 & (coefficients["kind"] == "pearson")]  # fmt: skip
            axes.scatter(part["cross_normalised"], part["merge_normalised"], s=12, alpha=0.8, linewidths=0,
                         color=COLOURS[place + 1], marker=MARKERS[place + 1], label=f"{size} tasks")  # fmt: skip
            for row in pair_rows.itertuples():
                within = f" [{row.low:+.2f}, {row.high:+.2f}]" if np.isfinite(row.low) else ""
                title += f"\n{size} tasks: r = {row.value:+.2f}{within}"
        axes.set_title(title, fontsize=6.5)
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels.flat[0].legend(fontsize=6, loc="lower right", handletextpad=0.1)
    _hide_rest(panels, len(groups))
    figure.supxlabel("cross-task performance, % of the experts' own", fontsize=7)
    figure.supylabel("merged, % of the experts' own", fontsize=7)
    figure.suptitle(f"Merges of sets of tasks; Pearson's r with 95 % interval\n{about}", fontsize=8)
    return figure


def ablation(frame: pd.DataFrame, about: str) -> Figure:
    """Score of each variant, a panel a setting, with 95 % intervals; the first variant's in orange.

    ``frame`` as ``studies.tables.ablation`` makes it.
    """
    settings = list(dict.fromkeys(frame["setting"]))
    columns = min(3, len(settings))
    lines = -(-len(settings) // columns)
    variants = [name for name in dict.fromkeys(frame["variant"]) if name not in REFERENCE]
    size = max(NARROWEST, 1.8 + 1.9 * columns), 0.8 + lines * (0.55 + 0.22 * len(variants))
    figure, panels = plt.subplots(lines, columns, figsize=size, layout="constrained", sharex=True, sharey=True,
                                  squeeze=False)  # fmt: skip
    for axes, setting in zip(panels.flat, settings, strict=False):
        group = frame[frame["setting"] == setting].set_index("variant")
        for place, name in enumerate(variants):
            if name in group.index:
                row = group.loc[name]
                lengths = errors(group.loc[[name]], "mean", "low", "high")
                axes.errorbar([row["mean"]], [place], xerr=lengths, fmt="o", markersize=4, capsize=2,
                              color=COLOURS[0 if place == 0 else 1], elinewidth=1)  # fmt: skip
        for name, colour in REFERENCE.items():
            if name in group.index:
                axes.axvline(group.loc[name, "mean"], color=colour, linewidth=0.8, linestyle="--")
        axes.set_title(textwrap.fill(setting, 30), fontsize=6.5)
        axes.tick_params(labelsize=6)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _hide_rest(panels, len(settings))
    panels[0, 0].set_yticks(range(len(variants)), variants, fontsize=6)
    panels[0, 0].set_ylim(len(variants) - 0.5, -0.5)
    figure.supxlabel("mean score, % (dashed: experts black, base grey)", fontsize=7)
    # About 14 characters of this size take an inch.
    lines_of_title = [textwrap.fill(line, int(14 * figure.get_figwidth())) for line in about.splitlines()]
    figure.suptitle("\n".join(lines_of_title), fontsize=8)
    return figure


def _hide_rest(panels: np.ndarray, used: int) -> None:
    """Hide the panels beyond the first ``used``; those above them get the numbers of the axis they share."""
    for axes in panels.flat[used:]:
        axes.set_visible(False)
    for axes in panels.flat[max(0, used - panels.shape[1]) : used]:
        axes.tick_params(labelbottom=True)


def figures(places: Places, kinds: Collection[str] = FIGURES) -> Iterator[tuple[str, Figure]]:
    """Each figure of the studies that have a page, with its name; ``kinds`` are some of FIGURES."""
    for name in places.written("transfer") if "transfer" in kinds else []:
        frame, about = contents.transfer(places, name.partition("--")[0])
        yield f"{name}--transfer", transfer(frame, about.line())
    for name in places.written("pilot") if {"cross-task", "correlation"} & set(kinds) else []:
        cross, points, about = contents.pilot(places, name.partition("--")[0])
        if "cross-task" in kinds:
            yield f"{name}--cross-task", cross_task(cross, about.line())
        if "correlation" in kinds and len(points):
            yield f"{name}--correlation", correlation(points, tables.correlations(points), about.line())
    for name in places.written("ablations") if "ablation" in kinds else []:
        study, _, suite = name.partition("--")
        question = settings.load(study)
        frame, about = contents.ablation(places, question, suite or None)
        yield f"ablation--{name}", ablation(frame, f"{question.question}\n{about.line()}")
