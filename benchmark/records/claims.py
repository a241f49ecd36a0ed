"""Whether what a record says is what its own sufficient statistics give: decided here for readers and submissions."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.records import metrics
from benchmark.records.record import Record, TaskResult

#: Recomputed and stated values may differ by float32 rounding, relative to the larger of them and 1.
_ROUNDING = 2e-5


def untrue(record: Record) -> list[str]:
    """What of the record's scores its statistics do not bear out, a line each; empty where all is so."""
    results = [*record.tasks.items(), *record.bystanders.items()]
    return [f"{name}: {said}" for name, result in results for said in untrue_of(result)]


def untrue_of(result: TaskResult) -> Iterator[str]:
    """The same of one task: metric, direction, number of samples, value, and further metrics that can be recomputed."""
    if result.metric not in metrics.METRICS:
        yield f"metric {result.metric!r} cannot be recomputed; known are {', '.join(metrics.METRICS)}"
        return
    about = metrics.get(result.metric)
    if about.higher_is_better != result.higher_is_better:
        yield f"{result.metric} is better {'higher' if about.higher_is_better else 'lower'}"
    try:
        n = metrics.samples(result.metric, result.statistics)
        if n not in (None, result.n):
            yield f"says {result.n} samples, its statistics hold {n}"
            return
        value = metrics.score(result.metric, result.statistics)
    except ValueError as error:
        yield str(error)
        return
    if not _equal(value, result.value):
        yield f"says {result.value:.6g}, its statistics give {value:.6g}"
    for name, stated in result.others.items():
        if name in metrics.METRICS:
            try:
                again = metrics.score(name, result.statistics)
            except ValueError:
                continue
            if not _equal(again, stated):
                yield f"says {name} {stated:.6g}, its statistics give {again:.6g}"


def _equal(a: float, b: float) -> bool:
    return abs(a - b) <= _ROUNDING * max(abs(a), abs(b), 1.0)
