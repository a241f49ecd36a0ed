"""What papers print beside what was measured: the same suite, backbone, family and method, over all tasks and on each.

A printed number within the run's own interval is what the run could have given; whatever lies outside is named, and so
is what is more than half a point away, from which on docs/full-scale.md says what to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.board.table import Table
from benchmark.records.record import Record
from benchmark.records.spec import RunSpec
from benchmark.scores import published

#: `task` is the task's name, or `published.AVERAGE`; `within` whether the printed value lies in the measured interval.
BESIDE = ["method", "task", "measured", "low", "high", "published", "gap", "within", "source"]
#: Points from which on a deviation is looked into.
FAR = 0.5


def beside_table(
    table: Table, rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[Record]], spec: RunSpec
) -> pd.DataFrame:
    """Every printed number of the board's rows with the measured one: columns BESIDE, a line a row and task.

    Args:
        groups: the runs of each row, by its column `runs`.
        spec: of any of the runs, which says suite, backbone and family.
    """
    lines: list[dict[str, Any]] = []
    for row in rows:
        method = row["method"]
        printed = published.per_task(spec.suite, spec.backbone, spec.family, method)
        records = groups[row["runs"]]
        whole: list[dict[str, Any]] = []
        if not np.isnan(row.get("published", np.nan)):
            whole.append(_line(row, published.AVERAGE, row["mean"], (row["low"], row["high"]), row["published"]))
        for task in table.tasks:
            value = printed.get(task, {}).get(records[0].tasks[task].metric)
            if value is not None:
                whole.append(_line(row, task, row[task], table.interval(records, task), value))
        lines += whole
    return pd.DataFrame(lines, columns=BESIDE)


def _line(
    row: Mapping[str, Any], task: str, measured: float, interval: tuple[float, float], printed: float
) -> dict[str, Any]:
    low, high = interval
    return {
        "method": row["method"],
        "task": task,
        "measured": measured,
        "low": low,
        "high": high,
        "published": printed,
        "gap": measured - printed,
        "within": within(low, high, printed),
        "source": row.get("published_source", ""),
    }


def within(low: float, high: float, printed: float) -> str:
    """Whether the printed value lies in the interval, to the tenth that papers print; empty without either.

    >>> within(75.32, 75.4, 75.3)
    'yes'
    """
    if np.isnan(low) or np.isnan(printed):
        return ""
    return "yes" if round(low, 1) <= round(printed, 1) <= round(high, 1) else "no"


def far(table: pd.DataFrame) -> pd.DataFrame:
    """The lines over all tasks that are more than half a point from what is printed."""
    return table[(table["task"] == published.AVERAGE) & (table["gap"].abs() > FAR)]


def by_task(table: pd.DataFrame, tasks: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of a table by task: of each method what was measured, what is printed, and the difference.

    A star marks a difference whose printed value lies outside of the run's interval.
    """
    shown = [task for task in tasks if (table["task"] == task).any()]
    cells = []
    for method, lines in table.groupby("method", sort=False):
        of = {line["task"]: line for line in lines.to_dict("records") if line["task"] in shown}
        if not of:
            continue
        for name, form in (("measured", ".1f"), ("published", ".1f"), ("gap", "+.1f")):
            star = {task: "*" if name == "gap" and line["within"] == "no" else "" for task, line in of.items()}
            values = [f"{of[task][name]:{form}}{star[task]}" if task in of else "–" for task in shown]
            cells.append([str(method) if name == "measured" else "", name, *values])
    return ["method", "", *shown], cells
