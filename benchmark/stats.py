"""Scores over tasks, their intervals, and comparisons of two methods. numpy and scipy only.

Scores per sample: `{task: array [n]}`, booleans (right or wrong) or any number whose mean is the score.
Every score is 100 x the mean over tasks of the mean over samples, so tasks weigh the same whatever their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

Scores = Mapping[str, np.ndarray]

#: Bytes of resampling weights held at a time.
_CHUNK = 32 << 20


class Interval(NamedTuple):
    """A score and its confidence interval, in percent."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """First minus second, in percentage points; `tied` where the interval holds zero."""

    value: float
    low: float
    high: float
    tied: bool


def mean_over_tasks(values: Mapping[str, float]) -> float:
    """Plain mean. Raises ValueError without values."""
    if not values:
        raise ValueError("a mean over no tasks")
    return float(np.mean(list(values.values())))


def normalised(
    values: Mapping[str, float], expert: Mapping[str, float], higher: Mapping[str, bool]
) -> dict[str, float]:
    """Each task's score in percent of its expert's: value / expert, or expert / value where lower is better.

    `higher[task]` is the metric's direction. A task whose divisor is not positive has no such score and is nan.
    """
    result = {}
    for task, value in values.items():
        above, below = (value, expert[task]) if higher[task] else (expert[task], value)
        result[task] = 100 * above / below if below > 0 else float("nan")
    return result


def worst_task(values: Mapping[str, float]) -> tuple[str, float]:
    """Name and score of the lowest; of equals the first. Give normalised scores where metrics differ."""
    if not values:
        raise ValueError("the worst of no tasks")
    task = min(values, key=lambda name: values[name])
    return task, values[task]


def mean_ranks(values: Sequence[Mapping[str, float]], higher: Mapping[str, bool]) -> list[float]:
    """Mean over tasks of each method's rank, 1 the best; equal scores share the mean of their ranks.

    `values[m][task]`; every method has every task of `higher`.
    """
    if not values:
        return []
    table = np.array([[row[task] if up else -row[task] for task, up in higher.items()] for row in values])
    return distributions.rankdata(-table, axis=0).mean(axis=1).tolist()


def bootstrap_interval(scores: Scores, n: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap over samples, stratified by task: for a run whose only chance is which samples it met.

    Draws how often each distinct value of a task is chosen, which for booleans is one binomial number a replicate.
    """
    rng = np.random.default_rng(seed)
    value = 100 * _mean(scores)
    return Interval(value, *_percentiles(value, _replicates(scores, n, rng), level))


def seed_interval(scores: Sequence[Scores], level: float = 0.95) -> Interval:
    """Interval for the expected score over seeds and samples, from a few seeds tested on the same samples.

    A percentile bootstrap over five seeds covers about 83 %. Here the squared half width is the sum of two: that of the
    t interval over the seeds' scores, which holds their spread and each seed's own sampling noise, and the normal one
    of the sampling variance that all seeds share (a hard sample is hard for all). Each part keeps the quantile of its
    own degrees of freedom, so it covers 93 to 97 % with five seeds whichever part dominates, and no less with two or
    three, where Satterthwaite's common degrees of freedom fall to 87 %.
    One seed alone tells nothing of the seeds' spread: then it is the sampling interval.
    """
    if len(scores) == 1:
        return bootstrap_interval(scores[0], level=level)
    value, half = _seeded(scores, level)
    return Interval(value, value - half, value + half)


def interval(scores: Sequence[Scores], *, seed: int = 0, level: float = 0.95) -> Interval:
    """The interval that fits: sampling only for one run, seeds and samples for several runs of one method."""
    return bootstrap_interval(scores[0], seed=seed, level=level) if len(scores) == 1 else seed_interval(scores, level)


def paired_difference(
    first: Mapping[int | None, Scores],
    second: Mapping[int | None, Scores],
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """First minus second on the same samples, with its interval: `{seed: scores}` of each, or `{None: scores}`.

    Two single runs: percentile bootstrap of the paired differences. Otherwise the interval of `seed_interval`, with
    seeds paired where both methods ran the same ones (their data order was then the same), else with each method's
    spread over its seeds by itself.
    Raises ValueError where tasks or numbers of samples differ.
    """
    for a in first.values():
        for b in second.values():
            if {task: len(x) for task, x in a.items()} != {task: len(x) for task, x in b.items()}:
                raise ValueError("the two were not tested on the same samples")
    if len(first) == len(second) == 1:
        (a,), (b,) = first.values(), second.values()
        gap = _subtract(a, b)
        value = 100 * _mean(gap)
        low, high = _percentiles(value, _replicates(gap, n, np.random.default_rng(seed)), level)
    else:
        if first.keys() == second.keys():
            value, half = _seeded([_subtract(first[key], second[key]) for key in first], level)
        else:
            value, half = _two_seeded(list(first.values()), list(second.values()), level)
        low, high = value - half, value + half
    return Difference(value, low, high, tied=bool(low <= 0 <= high))


def _mean(scores: Scores) -> float:
    if not scores or any(len(samples) == 0 for samples in scores.values()):
        raise ValueError("a mean over no samples")
    return float(np.mean([np.mean(samples) for samples in scores.values()]))


def _subtract(a: Scores, b: Scores) -> dict[str, np.ndarray]:
    return {task: np.asarray(a[task], dtype=np.float32) - np.asarray(b[task], dtype=np.float32) for task in a}


def _replicates(scores: Scores, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` bootstrap replicates of the score, in percent."""
    total = np.zeros(n)
    for samples in scores.values():
        values, counts = np.unique(np.asarray(samples, dtype=np.float64), return_counts=True)
        size = int(counts.sum())
        # Resampling samples is resampling their distinct values; in chunks, as there may be as many as samples.
        step = max(1, _CHUNK // (8 * len(values)))
        for start in range(0, n, step):
            stop = min(n, start + step)
            drawn = rng.multinomial(size, counts / size, size=stop - start)
            total[start:stop] += drawn @ values / size
    return 100 * total / len(scores)


def _percentiles(value: float, replicates: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), value), max(float(high), value)


def _seeded(scores: Sequence[Scores], level: float) -> tuple[float, float]:
    """Mean and half width, in percent, of runs with different seeds on the same samples."""
    shared, own = _sampling(scores)
    between = _between(scores, level)
    half = np.sqrt(between + _normal(level) ** 2 * max(0.0, shared - own / len(scores)))
    return 100 * float(np.mean([_mean(each) for each in scores])), 100 * float(half)


def _two_seeded(first: Sequence[Scores], second: Sequence[Scores], level: float) -> tuple[float, float]:
    """The same for the difference of two methods whose seeds are not paired."""
    both = [scores for scores in (first, second) if len(scores) > 1]
    between = sum(_between(scores, level) for scores in both)
    own = sum(_sampling(scores)[1] / len(scores) for scores in both)
    sampling, _ = _sampling([_subtract(_average(first), _average(second))])
    half = np.sqrt(between + _normal(level) ** 2 * max(0.0, sampling - own))
    mean = np.mean([_mean(each) for each in first]) - np.mean([_mean(each) for each in second])
    return 100 * float(mean), 100 * float(half)


def _between(scores: Sequence[Scores], level: float) -> float:
    """Squared half width of the t interval that the runs' own spread gives."""
    runs = np.array([_mean(each) for each in scores])
    return float(distributions.t.ppf((1 + level) / 2, len(runs) - 1) ** 2 * runs.var(ddof=1) / len(runs))


def _normal(level: float) -> float:
    return float(distributions.norm.ppf((1 + level) / 2))


def _average(scores: Sequence[Scores]) -> dict[str, np.ndarray]:
    return {task: np.mean([np.asarray(each[task], dtype=np.float64) for each in scores], axis=0) for task in scores[0]}


def _sampling(scores: Sequence[Scores]) -> tuple[float, float]:
    """Sampling variance of the mean over seeds, and that part of one seed's which the seeds do not share."""
    tasks = list(scores[0])
    shared = own = 0.0
    for task in tasks:
        table = np.stack([np.asarray(each[task], dtype=np.float64) for each in scores])
        size = table.shape[1]
        if size > 1:
            shared += float(table.mean(axis=0).var(ddof=1)) / size
        if len(table) > 1 and size > 1:
            # A sample's spread over seeds beyond the seeds' own level on this task.
            level = table.mean(axis=1, keepdims=True)
            own += float((table - level).var(axis=0, ddof=1).mean()) * size / (size - 1) / size
    return shared / len(tasks) ** 2, own / len(tasks) ** 2
