"""Which records count where several tell of the same run: what boards, comparisons and studies share. No torch."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmark.record import SOURCES, Record
from benchmark.spec import canonical_json, other_data, variant_label


class Current(NamedTuple):
    """Records that count, and those left out.

    Of an earlier generation or version only how many; of other data each with how they differ.
    """

    records: list[Record]
    of_generations: int
    of_versions: int
    of_other_data: list[tuple[Record, str]]


def current(records: Iterable[Record]) -> Current:
    """Of the records of one suite, backbone and family those that count.

    Of several versions of the suite or its checkpoints, and of several versions of the code of one method (by its
    label and where it was measured), the one that ran last; of several data, see :func:`of_one_data`.
    """
    given = list(records)
    of_generation = _newest(given, generation)
    shown, others = of_one_data(of_generation)
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in shown:
        groups[label(record), record.provenance.source].append(record)
    kept = [record for group in groups.values() for record in _newest(group, lambda each: each.spec.method_version)]
    return Current(kept, len(given) - len(of_generation), len(shown) - len(kept), others)


def of_one_data(records: Iterable[Record]) -> tuple[list[Record], list[tuple[Record, str]]]:
    """Records that were made on the same data, and the others with how their data differ.

    The data are those of the complete record that ran last, and of splits that it did not read, those of the last one
    that did. Nothing of different data is put in one table, compared or averaged.
    """
    given = list(records)
    present: dict[str, dict[str, str]] = {}
    others = {}
    for record in sorted(by_time(given), key=lambda record: not complete(record)):
        if (said := other_data(record.spec.data, present)) is not None:
            others[id(record)] = (record, said)
            continue
        for split, tasks in record.spec.data.items():
            present[split] = {**tasks, **present.get(split, {})}
    return [record for record in given if id(record) not in others], list(others.values())


def of_each_place(records: Iterable[Record], backbone: str | None = None, family: str | None = None) -> list[Record]:
    """:func:`current` of every suite, each on one backbone and family: those given, or that ran last.

    All are of the same data; a warning tells of those that are not.
    """
    by_suite: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if backbone in (None, record.spec.backbone) and family in (None, record.spec.family):
            by_suite[record.spec.suite].append(record)
    found: list[Record] = []
    others: list[tuple[Record, str]] = []
    for group in by_suite.values():
        chosen = current(_newest(group, lambda record: (record.spec.backbone, record.spec.family)))
        found += chosen.records
        others += chosen.of_other_data
    found, more = of_one_data(found)
    if others := [*others, *more]:
        record, said = others[0]
        warnings.warn(
            f"left out: {len(others)} records made on other data than the last one, such as {label(record)} on "
            f"{record.spec.suite}: {said}. Do them again with the same command as before.",
            stacklevel=2,
        )
    return found


def generation(record: Record) -> str:
    """Version of the suite and hashes of its checkpoints."""
    return canonical_json([record.spec.suite_version, record.spec.checkpoints])


def complete(record: Record) -> bool:
    """Done on all tasks of its suite."""
    return record.status == "done" and not record.missing


def by_time(records: Iterable[Record]) -> list[Record]:
    """The last one first."""
    return sorted(records, key=lambda record: (record.finished or record.started or "", record.run_id), reverse=True)


def by_trust(record: Record) -> tuple[Any, ...]:
    """Sorts what stands for a row where only one can: in float32 before other precisions, measured before told."""
    spec = record.spec
    plain = (spec.dtype, spec.autocast, spec.vectors) == ("float32", None, "float32")
    return not plain, SOURCES.index(record.provenance.source), record.run_id


def label(record: Record) -> str:
    """How boards name a run: method, parameters that are not defaults, and a precision that is not float32."""
    precision = [record.spec.dtype] if record.spec.dtype != "float32" else []
    precision += [f"autocast {record.spec.autocast}"] if record.spec.autocast else []
    precision += [f"task vectors {record.spec.vectors}"] if record.spec.vectors != "float32" else []
    name = record.variant or variant_label(record.spec.method, record.changed)
    return f"{name} [{', '.join(precision)}]" if precision else name


def _newest(records: list[Record], version: Callable[[Record], Any]) -> list[Record]:
    """Those records whose version is that of the last one run."""
    if not records:
        return []
    last = version(by_time(records)[0])
    return [record for record in records if version(record) == last]
