"""What must not be averaged, and what scores hide: other libraries, constant predictions, absent classes, twins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.board.selection import by_time, label
from benchmark.records import metrics
from benchmark.records.record import Record, TaskResult, Values

#: Packages whose major versions are 0 for years change with the next number.
_FIRST = "0"
#: A note names this many.
_NAMED = 5


def of_other_libraries(groups: Iterable[list[Record]]) -> dict[str, str]:
    """Runs of a row that were made with another major version of a library than its last one, by id, and how."""
    apart = {}
    for group in groups:
        last, *others = by_time(group)
        for record in others:
            if said := _other_majors(record, last):
                apart[record.run_id] = f"{said}: seeds of two major versions are not averaged"
    return apart


def _other_majors(record: Record, last: Record) -> str:
    mine, theirs = record.provenance.versions, last.provenance.versions
    other = [name for name in sorted(mine) if name in theirs and _major(mine[name]) != _major(theirs[name])]
    return ", ".join(f"made with {name} {mine[name]}, the last of its seeds with {theirs[name]}" for name in other)


def _major(version: str) -> str:
    """What a breaking change counts up: the first number, or the first two of a version below 1."""
    parts = version.split("+")[0].split(".")
    return ".".join(parts[:2] if parts[0] == _FIRST else parts[:1])


def degenerate(records: Iterable[Record]) -> list[str]:
    """Notes on scores of predictions that are all one, and of classes that no sample has."""
    constant, absent = [], []
    for record in records:
        seed = "" if record.spec.seed is None else f" seed {record.spec.seed}"
        for task, result in record.tasks.items():
            where = f"{label(record)}{seed} on {task} ({result.metric})"
            if _constant(result):
                constant.append(where)
            if count := _classes_without(result):
                absent.append(f"{where}: {count}")
    notes = []
    if constant:
        notes.append(f"One prediction for all samples, whose correlation counts as 0: {_some(constant)}.")
    if absent:
        notes.append(f"Classes that neither occur nor are predicted are left out of the mean: {_some(absent)}.")
    return notes


def remarks(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    """For each row of a board what its scores alone do not say, or empty.

    That is: other rows have the same score on every task, so that the method did nothing to them (``pretrained``) or
    the same; or it drew more samples than the suite's budget gives the method, which the row of its defaults has.
    """
    alike: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for row in rows:
        alike[tuple(row[task] for task in tasks)].append(row["method"])
    drawn = {row["method"]: row["images_seen"] for row in rows}
    said = []
    for row in rows:
        twins = [name for name in alike[tuple(row[task] for task in tasks)] if name != row["method"]]
        parts = [f"the same score as {', '.join(twins)} on every task"] if twins and tasks else []
        usual = drawn.get(row["method"].partition(":")[0], np.nan)
        if row["images_seen"] > usual:
            parts.append(f"{row['images_seen']:,.0f} samples, where the suite's budget gives the method {usual:,.0f}")
        said.append("; ".join(parts))
    return said


def _some(texts: list[str]) -> str:
    more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return "; ".join(texts[:_NAMED]) + more


def _constant(result: TaskResult) -> bool:
    if result.metric not in metrics.CORRELATIONS or not isinstance(result.statistics, Values):
        return False
    if "predicted" not in result.statistics.arrays:
        return False
    predicted = result.statistics.arrays["predicted"].numpy()
    return predicted.size > 1 and bool((predicted == predicted.flat[0]).all())


def _classes_without(result: TaskResult) -> int:
    if result.metric != "miou" or not isinstance(result.statistics, Values):
        return 0
    if "confusion" not in result.statistics.arrays:
        return 0
    counts = result.statistics.arrays["confusion"].numpy().sum(axis=0)
    return int(np.sum(counts.sum(axis=0) + counts.sum(axis=1) == 0))
