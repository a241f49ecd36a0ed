"""How well a small suite's ranking predicts the published one at full scale, by class of method. No torch.

What a suite predicts stands in its YAML (`predicts`): the published table, the tables it is compared with to see how
well any table predicts another (the ceiling), and the rows that the suite was chosen by, which count for nothing here.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from benchmark import suites
from benchmark.board.selection import by_trust, complete, current, label
from benchmark.board.tracks import DATA_FREE, HELD_OUT, MORE, TEST_TIME, needs_more
from benchmark.records import access as accesses
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.scores import agreement as agreements
from benchmark.scores import published
from benchmark.scores import statistics as stats
from benchmark.scores.agreement import Agreement
from benchmark.scores.statistics import Interval

ALL = "all methods"
NO_TEST, TEST, EXTRA, LABELS = (
    "no test data", "unlabelled test data", "task id or extra storage", "labels",
)  # fmt: skip
#: The classes, and the tracks of a board whose rows they hold.
CLASSES = {NO_TEST: (DATA_FREE, HELD_OUT), TEST: (TEST_TIME,), EXTRA: (MORE,)}
#: Decision accuracy below which a class is warned of, where there are pairs enough.
_LEAST, _ENOUGH = 0.75, 3
#: Methods are split by a hash of their names, so that one half can be looked at while a suite is built, the other last.
HALVES = ("first half of the names", "second half")


@dataclass(frozen=True)
class Validity:
    """One suite's agreement with the published table.

    `agreements` and `ceiling` by class of method and `ALL`; `halves` over all classes, by half of the methods.
    """

    suite: str
    target: str
    agreements: dict[str, Agreement]
    ceiling: dict[str, Agreement]
    halves: dict[str, Agreement]
    excluded: list[str]
    signal_to_noise: dict[str, float] = field(default_factory=dict)


def class_of(record: Record) -> str:
    """The class a method is judged in, by what it needs; a scale chosen on validation data leaves it where it is.

    What trains on labels, or is an oracle that saw those of the test images, is in none but `ALL`'s: `LABELS`.
    """
    access = accesses.read(record.access)
    if access.labelled("train") or access.labelled("test"):
        return LABELS
    if needs_more(record):
        return EXTRA
    return TEST if access.test is not None else NO_TEST


def half_of(method: str) -> str:
    """Which half a method belongs to: the first bit of its name's SHA-256."""
    return HALVES[hashlib.sha256(method.encode()).digest()[0] >> 7]


def validity(records: Iterable[Record]) -> Validity | None:
    """The validity of one suite's records; None where the suite predicts nothing or nothing of it was run."""
    runs = [record for record in current(records).records if complete(record)]
    if not runs or runs[0].spec.suite not in suites.names():
        return None
    suite = suites.load(runs[0].spec.suite)
    if suite.predicts is None:
        return None
    target = suite.predicts
    excluded = [*REFERENCE_ROWS, *target.chosen_on]
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in runs:
        if record.spec.method not in REFERENCE_ROWS and record.variant not in excluded:
            groups[label(record)].append(record)
    by_seed = {name: [_scores(record, runs, target.task) for record in group] for name, group in groups.items()}
    measured = {
        name: [stats.mean_over_tasks(each) for each in scores if each]
        for name, scores in by_seed.items()
        if any(scores)
    }
    classes = {name: class_of(group[0]) for name, group in groups.items()}
    first = published.tables(target.suite, target.backbone, target.families, target.task)
    return Validity(
        suite=suite.name,
        target=f"{target.suite} on {target.backbone}" + (f", {target.task}" if target.task else ""),
        agreements=_by_class(measured, classes, first),
        ceiling=_ceiling(target, measured, classes, first),
        halves={
            half: agreements.agreement({n: s for n, s in measured.items() if half_of(n) == half}, first)
            for half in HALVES
        },
        excluded=excluded,
        signal_to_noise=agreements.signal_to_noise({n: s for n, s in by_seed.items() if any(s)}),
    )


def _scores(record: Record, runs: Sequence[Record], task: str) -> dict[str, float]:
    """`{task: points}`: of the one task that is predicted, or of all, by the experts' where metrics are unlike."""
    values = {name: result.value for name, result in record.tasks.items()}
    if task:
        return {task: values[task]} if task in values else {}
    if len({result.metric for result in record.tasks.values()}) == 1 or suites.load(record.spec.suite).average_percents:
        return values
    experts = [each for each in runs if each.spec.method == REFERENCE_ROWS[-1]]
    if not experts:
        return {}
    expert = min(experts, key=by_trust)
    higher = {name: result.higher_is_better for name, result in record.tasks.items()}
    return stats.normalised(values, {name: result.value for name, result in expert.tasks.items()}, higher)


def _by_class(
    measured: Mapping[str, Sequence[float]],
    classes: Mapping[str, str],
    tables: Sequence[Mapping[str, float]],
    resamples: int = agreements.RESAMPLES,
) -> dict[str, Agreement]:
    groups = {kind: {n: s for n, s in measured.items() if classes[n] == kind} for kind in CLASSES}
    every = {**groups, ALL: measured}
    return {kind: agreements.agreement(each, tables, resamples=resamples) for kind, each in every.items()}


def _ceiling(
    target: suites.Predicted,
    measured: Mapping[str, Sequence[float]],
    classes: Mapping[str, str],
    first: Sequence[Mapping[str, float]],
) -> dict[str, Agreement]:
    """The same statistics of another published table, for the same methods; without intervals, nobody reads them."""
    if target.ceiling is None:
        return {}
    others = published.tables(target.suite, target.ceiling, target.families, target.task)
    if not others:
        return {}
    second = {name: [others[0][name]] for name in measured if name in others[0]}
    return _by_class(second, classes, first, resamples=0)


def table(result: Validity) -> pd.DataFrame:
    """A row a class (and half), with the number of methods and pairs, the three statistics and the ceiling's."""
    rows = []
    for kind, each in [*result.agreements.items(), *((f"{ALL}, {half}", a) for half, a in result.halves.items())]:
        top = result.ceiling.get(kind)
        rows.append(
            {
                "class": kind,
                "methods": len(each.methods),
                "pairs": len(each.pairs),
                "decision accuracy": shown(each.decision),
                "tau-b": shown(each.tau),
                "Spearman": shown(each.spearman),
                "ceiling": f"{_number(top.decision.value)}, {_number(top.tau.value)}, {_number(top.spearman.value)} "
                f"({len(top.methods)} methods)"
                if top and len(top.methods) > 2
                else "–",
            }
        )
    return pd.DataFrame(rows)


def line(result: Validity) -> str:
    """What a board says: one sentence."""
    over_all, no_test = result.agreements[ALL], result.agreements[NO_TEST]
    return (
        f"How well this ranking predicts the published one ({result.target}): of {len(over_all.pairs)} pairs of "
        f"methods at least {agreements.GAP:g} points apart there, {shown(over_all.decision)} stand the same way round "
        f"here (without test data {shown(no_test.decision)} of {len(no_test.pairs)}); Kendall's tau-b "
        f"{shown(over_all.tau)}, Spearman {shown(over_all.spearman)}. In brackets 95 % intervals; by class, with the "
        f"ceiling: `symerge-bench validity {result.suite}`."
    )


def warning(result: Validity) -> str:
    """Of which tracks of a board no conclusions should be drawn; empty where there is none."""
    failing = [
        f"{_of_board(kind)} ({_number(each.decision.value)} of {len(each.pairs)} pairs)"
        for kind, each in result.agreements.items()
        if len(each.pairs) >= _ENOUGH and each.decision.value < _LEAST
    ]
    if not failing:
        return ""
    return (
        f"**Draw no conclusions about full scale for**: {'; '.join(failing)}. "
        "Fewer than three of four pairs of methods stand as they are published."
    )


def _of_board(kind: str) -> str:
    """A class in the words of a board: its tracks."""
    return " and ".join(track.title for track in CLASSES[kind]) if kind in CLASSES else kind


def shown(interval: Interval) -> str:
    """`0.90 (0.81 to 0.97)`, or a dash where there is no such number."""
    if interval.value != interval.value:
        return "–"
    if interval.low != interval.low:
        return _number(interval.value)
    return f"{_number(interval.value)} ({_number(interval.low)} to {_number(interval.high)})"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"
