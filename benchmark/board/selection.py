"""Which records count where several tell of the same run: what boards, comparisons and studies share. No torch."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import methods
from benchmark.common.canonical import canonical_json
from benchmark.common.errors import UserError
from benchmark.records.record import Record, distrust
from benchmark.records.spec import RunSpec, checked_parameters, other_data, variant_label


class LeftOut(NamedTuple):
    """A run that no board shows, and what stands in its place."""

    record: Record
    why: str


class Current(NamedTuple):
    """Records that count, and those left out: of earlier generations, versions, other data, failures put right.

    Also those of a run that a more trusted source tells of as well.
    """

    records: list[Record]
    of_generations: list[LeftOut]
    of_versions: list[LeftOut]
    of_other_data: list[LeftOut]
    put_right: list[LeftOut]
    of_less_trust: list[LeftOut]

    @property
    def left_out(self) -> list[LeftOut]:
        """What others stand in for; not what `clean` must keep: runs on other data, which are as good as ever, and what
        a less trusted source says of a run."""
        return [*self.of_generations, *self.of_versions, *self.put_right]


def current(records: Iterable[Record]) -> Current:
    """Of the records of one suite, backbone and family those that count.

    Of several versions of the suite or its checkpoints, and of several versions of the code of one method (by its
    label and where it was measured), the one that ran last; of several data, see :func:`of_one_data`. Of one run from
    several sources the most trusted, which also decides version of the suite and data for all. A run that failed no
    longer counts once it was put right: see `_put_right`.
    """
    every, less = _most_trusted(records)
    of_generation = _newest(every, generation)
    shown, others = of_one_data(of_generation)
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in shown:
        groups[label(record), record.provenance.source].append(record)
    newest = [record for group in groups.values() for record in _newest(group, lambda each: each.spec.method_version)]
    right = [LeftOut(record, why) for record in newest if (why := _put_right(record, newest))]
    return Current(
        _without(newest, [each.record for each in right]),
        _marked(_without(every, of_generation), "of an earlier version of the suite or its checkpoints"),
        _marked(_without(shown, newest), "of an earlier version of the method's code"),
        others,
        right,
        less,
    )


def of_one_data(records: Iterable[Record]) -> tuple[list[Record], list[LeftOut]]:
    """Records that were made on the same data, and the others with how their data differ.

    The data are those of the complete record that ran last (of the most trusted source), and of splits that it did not
    read, those of the last one that did. Nothing of different data is put in one table, compared or averaged.
    """
    every = list(records)
    present: dict[str, dict[str, str]] = {}
    others = []
    for record in sorted(by_time(every), key=lambda record: (not complete(record), _distrust(record))):
        if (said := other_data(record.spec.data, present)) is not None:
            others.append(LeftOut(record, said))
            continue
        for split, tasks in record.spec.data.items():
            present[split] = {**tasks, **present.get(split, {})}
    return _without(every, [each.record for each in others]), others


def _most_trusted(records: Iterable[Record]) -> tuple[list[Record], list[LeftOut]]:
    """The records without those of a run of which a more trusted source has a complete one, and these."""
    every = list(records)
    best: dict[str, Record] = {}
    for record in sorted(filter(complete, every), key=_distrust):
        best.setdefault(record.run_id, record)
    less = [
        LeftOut(record, f"the same run is {best[record.run_id].provenance.source}")
        for record in every
        if record.run_id in best and _distrust(record) > _distrust(best[record.run_id])
    ]
    return _without(every, [each.record for each in less]), less


def _distrust(record: Record) -> int:
    return distrust(record.provenance.source)


def _marked(records: Iterable[Record], why: str) -> list[LeftOut]:
    return [LeftOut(record, why) for record in records]


def _without(records: Iterable[Record], others: Iterable[Record]) -> list[Record]:
    gone = set(map(id, others))
    return [record for record in records if id(record) not in gone]


def _put_right(failed: Record, records: Iterable[Record]) -> str:
    """What stands for a run that failed, or empty where it counts as a failure.

    A later command has finished the same method with other parameters or another precision, and no run of the failed
    ones is done; or the plan refuses the run's parameters now, so that nobody can make it again.
    """
    if failed.status != "failed":
        return ""
    spec = failed.spec
    if spec.method in methods.names():
        try:
            checked_parameters(spec.method, spec.parameters)
        except (UserError, methods.MergingError) as error:
            return f"refused by now: {getattr(error, 'message', error)}"
    same = [
        record for record in records
        if record.spec.method == spec.method and record.provenance.source == failed.provenance.source
    ]  # fmt: skip
    row = [record for record in same if _but_seed(record.spec) == _but_seed(spec)]
    if any(complete(record) for record in row):
        return ""
    later = [
        record for record in same
        if complete(record) and (record.started or "") > (failed.finished or "~")
        and record.provenance.argv != failed.provenance.argv
    ]  # fmt: skip
    return f"put right by {label(by_time(later)[0])}" if later else ""


def _but_seed(spec: RunSpec) -> str:
    return canonical_json(spec.model_dump(exclude={"seed"}))


def left_out(records: Iterable[Record]) -> list[LeftOut]:
    """Of records of any suites, backbones and families, those that no board shows, in the given order."""
    every = list(records)
    places: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in every:
        places[record.spec.suite, record.spec.backbone, record.spec.family].append(record)
    reasons = {id(each.record): each for group in places.values() for each in current(group).left_out}
    return [reasons[id(record)] for record in every if id(record) in reasons]


def of_each_place(records: Iterable[Record], backbone: str | None = None, family: str | None = None) -> list[Record]:
    """:func:`current` of every suite, each on one backbone and family: those given, or that ran last.

    All are of the same data; a warning tells of those that are not.
    """
    by_suite: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if backbone in (None, record.spec.backbone) and family in (None, record.spec.family):
            by_suite[record.spec.suite].append(record)
    counting: list[Record] = []
    others: list[LeftOut] = []
    for group in by_suite.values():
        chosen = current(_newest(group, lambda record: (record.spec.backbone, record.spec.family)))
        counting += chosen.records
        others += chosen.of_other_data
    counting, more = of_one_data(counting)
    if others := [*others, *more]:
        record, said = others[0]
        warnings.warn(
            f"left out: {len(others)} records made on other data than the last one, such as {label(record)} on "
            f"{record.spec.suite}: {said}. Do them again with the same command as before.",
            stacklevel=2,
        )
    return counting


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
    return not plain, _distrust(record), record.run_id


def label(record: Record) -> str:
    """How boards name a run: method, parameters that are not defaults, and a precision that is not float32."""
    precision = [record.spec.dtype] if record.spec.dtype != "float32" else []
    precision += [f"autocast {record.spec.autocast}"] if record.spec.autocast else []
    precision += [f"task vectors {record.spec.vectors}"] if record.spec.vectors != "float32" else []
    name = record.variant or variant_label(record.spec.method, record.changed)
    return f"{name} [{', '.join(precision)}]" if precision else name


def _newest(records: list[Record], version: Callable[[Record], Any]) -> list[Record]:
    """Those records whose version is that of the last one run, of the most trusted source that there is."""
    if not records:
        return []
    last = version(min(by_time(records), key=_distrust))
    return [record for record in records if version(record) == last]
