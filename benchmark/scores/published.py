"""Numbers that papers and repositories print, in our names, to stand beside measured ones. No torch.

`results/published.csv` holds them as printed, each with its source (paper table, or repository at a commit with the
file); it was collected by hand from those sources. `published.yaml` maps its names, units and checkpoint families.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmark.common.errors import UserError
from benchmark.common.project import ROOT

CSV = ROOT / "results" / "published.csv"
MAP = Path(__file__).with_suffix(".yaml")

PRINTED = ["suite", "backbone", "method", "task", "metric", "value", "source", "note"]
COLUMNS = [
    "suite", "backbone", "method", "printed_method", "task", "metric", "value", "printed_value", "family", "secondary",
    "source", "note", "printed_suite", "printed_backbone",
]  # fmt: skip

#: The task name of a printed mean over all tasks, and the metrics that make it a mean of scores.
AVERAGE = "average"
_MEANS = ("accuracy", "mean", "score")


class _Family(BaseModel):
    model_config = ConfigDict(extra="forbid")

    find: str
    family: str
    suites: list[str] = Field(default_factory=list)
    backbones: list[str] = Field(default_factory=list)


class Names(BaseModel):
    """How printed names become ours: the file `published.yaml`."""

    model_config = ConfigDict(extra="forbid")

    suites: dict[str, str]
    titles: dict[str, str]
    backbones: dict[str, str]
    tasks: dict[str, str]
    metrics: dict[str, tuple[str, float]]
    zero_to_one: list[str]
    methods: dict[str, list[str]]
    families: list[_Family]
    secondary: str
    traps: list[str]

    def method(self, printed: str) -> str:
        """Our row's label of a printed method, or "" where we have none."""
        return next((ours for ours, names in self.methods.items() if printed in names), "")

    def family(self, suite: str, backbone: str, source: str, note: str) -> str:
        """Who trained the experts, or "" where the source does not say."""
        for rule in self.families:
            fits = (not rule.suites or suite in rule.suites) and (not rule.backbones or backbone in rule.backbones)
            if fits and re.search(rule.find, f"{source} | {note}"):
                return rule.family
        return ""


@functools.cache
def names() -> Names:
    """The mapping, read once."""
    return Names.model_validate(yaml.safe_load(MAP.read_text(encoding="utf-8")))


@functools.cache
def load(path: Path = CSV) -> pd.DataFrame:
    """Every printed number with the columns COLUMNS, `value` in our unit (percent for accuracies).

    `method` is our row's label, "" where we have none; `family` is "" where the source does not say whose experts.
    Raises UserError for a file with other columns, a value that is no number, or a metric of unknown unit.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(table.columns) != PRINTED:
        raise UserError(f"{path.name} has the columns {', '.join(table.columns)}", f"Expected: {', '.join(PRINTED)}")
    known = names()
    rows = [_row(known, line, place + 2) for place, line in enumerate(table.to_dict("records"))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(known: Names, line: dict[Any, str], number: int) -> dict[str, Any]:
    try:
        printed = float(line["value"])
        metric, scale = known.metrics[line["metric"]]
    except (ValueError, KeyError) as error:
        raise UserError(
            f"line {number} of published.csv: {error} is no value or metric that published.yaml knows",
            f"Known metrics: {', '.join(known.metrics)}",
        ) from None
    if line["source"] in known.zero_to_one and scale == 1:
        scale = 100
    suite = known.suites.get(line["suite"], line["suite"])
    backbone = known.backbones.get(line["backbone"], line["backbone"])
    inferred = "backbone inferred" if "(inferred)" in line["backbone"] else ""
    return {
        "suite": suite,
        "backbone": backbone,
        "method": known.method(line["method"]) if line["suite"] in known.suites else "",
        "printed_method": line["method"],
        "task": known.tasks.get(line["task"], line["task"]),
        "metric": metric,
        "value": round(printed * scale, 6),
        "printed_value": line["value"],
        "family": known.family(suite, backbone, line["source"], line["note"]),
        "secondary": bool(re.search(known.secondary, line["source"])),
        "source": line["source"],
        "note": "; ".join(part for part in (line["note"], inferred) if part),
        "printed_suite": line["suite"],
        "printed_backbone": line["backbone"],
    }


def means(suite: str, backbone: str, family: str) -> pd.DataFrame:
    """Printed means over all tasks for one board: only of the same suite, backbone and family."""
    table = load()
    chosen = (table["suite"] == suite) & (table["backbone"] == backbone) & (table["task"] == AVERAGE)
    metric = table["metric"].isin(_MEANS)
    return table[chosen & metric & (table["family"] == family) & (table["method"] != "") & (family != "")]


def tables(suite: str, backbone: str, families: Sequence[str], task: str = "") -> list[dict[str, float]]:
    """For each family `{method: value}`, of the mean over tasks or of one task's usual metric; empty ones left out.

    The family "" stands for sources that do not say whose experts they merge: a table for each source.
    """
    table = load()
    chosen = table[(table["suite"] == suite) & (table["backbone"] == backbone) & (table["method"] != "")]
    chosen = chosen[chosen["task"] == (task or AVERAGE)]
    chosen = chosen[chosen["metric"].isin(_MEANS) if not task else chosen["metric"] == _usual(chosen)]
    groups: list[pd.DataFrame] = []
    for family in families:
        own = chosen[chosen["family"] == family]
        groups += [own] if family else [group for _, group in own.groupby("source", sort=True)]
    return [
        {method: float(_first(printed)["value"]) for method, printed in group.groupby("method", sort=True)}
        for group in groups
        if len(group)
    ]


def _usual(table: pd.DataFrame) -> str:
    """The metric that most lines print."""
    return str(table["metric"].value_counts().index[0]) if len(table) else ""


def beside(suite: str, backbone: str, family: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each method (a row's label) that has printed means: `published`, `published_source`, `published_others`.

    Of several values the one that most primary sources print is shown, the first printed of equals; a secondary summary
    only where there is no other, with a star after its source, and an average that only follows from printed tasks
    where no source prints one, with a double dagger.
    """
    found = {}
    table = means(suite, backbone, family)
    for method in methods:
        printed = table[table["method"] == method]
        if printed.empty:
            continue
        first = _first(printed)
        told = printed[~printed["note"].map(_computed)]
        others = [f"{value:.1f} ({label})" for value, label in _distinct(told) if value != round(first["value"], 1)]
        found[method] = {
            "published": float(first["value"]),
            "published_source": short_source(first),
            "published_others": ", ".join(others),
        }
    return found


def _first(printed: pd.DataFrame) -> Any:
    """The row of :func:`means` that stands for a method."""
    told = printed[~printed["note"].map(_computed)]
    printed = told if len(told) else printed
    primary = printed[~printed["secondary"]]
    candidates = primary if len(primary) else printed
    counts = candidates["value"].round(1).value_counts(sort=False)
    agreed = counts.index[int(np.argmax(counts.to_numpy()))]
    return candidates[candidates["value"].round(1) == agreed].iloc[0]


def _computed(note: str) -> bool:
    """Whether an average is no printed number, but was computed from the printed tasks."""
    return note.startswith("average computed by us")


def _distinct(printed: pd.DataFrame) -> list[tuple[Any, str]]:
    """Each different value with the sources that print it."""
    groups = printed.groupby(printed["value"].round(1), sort=True)
    return [
        (value, "; ".join(dict.fromkeys(short_source(row) for _, row in group.iterrows()))) for value, group in groups
    ]


_SHORT = (
    (r"^(\S+)@\w+:.*/log_\w+_(\w+)\.txt$", r"\1 log \2"),
    (r"^([\w.-]+/[\w.-]+)@\w+:(?:.*/)?([^/]+)$", r"\1 \2"),
    (r"^papernotes.*: ?(?:[A-Z]+\d{4} )?(.*)$", r"summary of \1"),
    (r"^wizwand.*$", "wizwand"),
)


def short_source(row: Any) -> str:
    """The source in a few words; a star marks a secondary summary, ‡ an average that it does not print itself."""
    text = row["source"]
    for pattern, short in _SHORT:
        text, hits = re.subn(pattern, short, text)
        if hits:
            break
    return text + ("*" if row["secondary"] else "") + ("‡" if _computed(row["note"]) else "")


def per_task(suite: str, backbone: str, family: str, method: str) -> dict[str, dict[str, float]]:
    """`{task: {metric: value}}` of one method from the source whose mean `beside` shows first, others filling gaps."""
    table = load()
    chosen = (table["suite"] == suite) & (table["backbone"] == backbone) & (table["method"] == method)
    chosen &= (table["family"] == family) & (table["task"] != AVERAGE) & (family != "")
    found: dict[str, dict[str, float]] = {}
    lines = table[chosen].sort_values("secondary", kind="stable")
    shown = means(suite, backbone, family)
    shown = shown[shown["method"] == method]
    if len(shown):
        first = _first(shown)
        same = (lines["source"] == first["source"]) & (lines["printed_method"] == first["printed_method"])
        lines = pd.concat([lines[same], lines[~same]])
    for _, row in lines.iterrows():
        found.setdefault(row["task"], {}).setdefault(row["metric"], float(row["value"]))
    return found


def markdown(path: Path = CSV) -> str:
    """The page `results/published.md`: every printed number, by suite and backbone."""
    table, known = load(path), names()
    lines = [
        "# Published numbers",
        "",
        "Made from `published.csv` by `symerge-bench board --reference`; do not edit. What papers, logs and "
        "repositories print, not measured here. Measured boards show them beside their own values where suite, "
        "backbone and family agree.",
        "",
        "- **ours**: the method's name here; – where it is not in the registry.",
        "- **family**: who trained the experts, as the source says; – where it does not. Rows of different families "
        "are not comparable.",
        "- `*` after a source: a secondary summary, not the paper's own table.",
        "- `‡` after a source: its average is no printed number, but the mean of the tasks that it prints.",
        "- `†` after an average: not the mean of the same row's tasks, which follows in brackets. Shown as printed.",
        "- Accuracies, correlations and IoU in percent; depth errors in the unit of the target, angles in degrees.",
        "",
        "## Traps in comparing them",
        "",
        *(f"{place}. {text}" for place, text in enumerate(known.traps, 1)),
        "",
    ]
    ours = [suite for suite in known.suites.values() if suite in set(table["suite"])]
    for suite in dict.fromkeys([*ours, *table["suite"]]):
        title = f"`{suite}`" if suite in known.suites.values() else known.titles[suite]
        lines += [f"## {title}", ""]
        of_suite = table[table["suite"] == suite]
        for backbone in dict.fromkeys(of_suite["backbone"]):
            group = of_suite[of_suite["backbone"] == backbone]
            held_out = group["task"].str.endswith("Val")
            lines += [f"### {backbone}", "", *_printed_table(group[~held_out]), ""]
            if held_out.any():
                lines += ["On validation splits (10 % of train):", "", *_printed_table(group[held_out]), ""]
    return "\n".join(lines)


def _printed_table(group: pd.DataFrame) -> list[str]:
    usual = group.groupby("task")["metric"].agg(lambda metrics: metrics.value_counts().index[0]).to_dict()
    if usual.get(AVERAGE) == "normalised":
        usual[AVERAGE] = next((metric for metric in _MEANS if metric in set(group["metric"])), "normalised")

    def heading(task: str, metric: str) -> str:
        if usual[task] == metric or metric == "score" or (task == AVERAGE and metric in _MEANS):
            return task
        return f"{task} ({metric})"

    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    columns: dict[str, None] = {AVERAGE: None}
    for row in group.to_dict("records"):
        place = heading(row["task"], row["metric"])
        columns[place] = None
        apart = row["note"] if _computed(row["note"]) else ""
        key = (row["printed_method"], row["source"], row["printed_backbone"], row["family"], apart)
        # Several rows of one source under one name (variants that its note tells apart) stay rows of their own.
        number = 0
        while place in rows.get((*key, str(number)), {}):
            number += 1
        rows.setdefault((*key, str(number)), {"about": row})[place] = row["value"]
    shown = [name for name in columns if any(name in cells for cells in rows.values())]
    ordered = sorted(rows.values(), key=lambda cells: -cells.get(AVERAGE, -np.inf))
    lines = [
        f"| method | ours | family | {' | '.join(shown)} | source |",
        "|---|---|---|" + "---:|" * len(shown) + "---|",
    ]
    tasks = [name for name in shown if name != AVERAGE and "(" not in name]
    for cells in ordered:
        about = cells["about"]
        texts = [_cell(cells, name, tasks) for name in shown]
        ours = f"`{about['method']}`" if about["method"] else "–"
        lines.append(
            f"| {about['printed_method']} | {ours} | {about['family'] or '–'} | {' | '.join(texts)} "
            f"| {short_source(about)} |"
        )
    return lines


def _cell(cells: dict[str, Any], name: str, tasks: list[str]) -> str:
    if name not in cells:
        return "–"
    value = cells[name]
    text = f"{value:.4f}" if 0 < abs(value) < 1 else f"{value:.2f}".removesuffix("0")
    if name == AVERAGE and len(tasks) > 1 and all(task in cells for task in tasks):
        mean = float(np.mean([cells[task] for task in tasks]))
        if abs(mean - cells[name]) > 0.11:
            text += f"† ({mean:.1f})"
    return text
