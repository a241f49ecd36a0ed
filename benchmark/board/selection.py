"""Which records count where several tell of the same run: what boards, comparisons and studies share. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from benchmark.records.record import SOURCES, Record
from benchmark.records.spec import canonical_json, variant_label


class Current(NamedTuple):
    """Records that count, and how many were left out because they are of an earlier generation or version."""

    records: list[Record]
    of_generations: int
    of_versions: int


def current(records: Iterable[Record]) -> Current:
    """Of the records of one suite, backbone and family those that count.

    Of several versions of the suite or its checkpoints, and of several versions of the code of one method (by its
    label and where it was measured), the one that ran last.
    """
    given = list(records)
    shown = _newest(given, generation)
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in shown:
        groups[label(record), record.provenance.source].append(record)
    kept = [record for group in groups.values() for record in _newest(group, lambda each: each.spec.method_version)]
    return Current(kept, len(given) - len(shown), len(shown) - len(kept))


def of_each_place(records: Iterable[Record], backbone: str | None = None, family: str | None = None) -> list[Record]:
    """:func:`current` of every suite, each on one backbone and family: those given, or that ran last."""
    by_suite: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if backbone in (None, record.spec.backbone) and family in (None, record.spec.family):
            by_suite[record.spec.suite].append(record)
    found = []
    for group in by_suite.values():
        found += current(_newest(group, lambda record: (record.spec.backbone, record.spec.family))).records
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
