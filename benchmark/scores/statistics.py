"""Scores over tasks, their intervals, and comparisons of two methods. numpy and scipy only.

Scores per sample: `{task: array [n]}`, booleans (right or wrong) or any number whose mean is the score (jackknife
pseudo-values where a metric is no mean over samples, see `metrics.pseudo_values`).
Every score is 100 x the mean over tasks of the mean over samples, so tasks weigh the same whatever their size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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


class Pairwise(NamedTuple):
    """All differences of m rows, in percentage points: `value[i, j]` is row i minus row j, `half` its half width."""

    value: np.ndarray
    half: np.ndarray


class Friedman(NamedTuple):
    """Whether any of the methods differ in rank over the tasks, and which pairs do."""

    statistic: float
    p: float
    critical_difference: float
    """Mean ranks further apart than this differ (Nemenyi, 5 % over all pairs)."""


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


def changes(values: Mapping[str, float], expert: Mapping[str, float], higher: Mapping[str, bool]) -> dict[str, float]:
    """Each task's change from its expert's score in percent of that, negative where worse; nan for an expert of 0."""
    return {
        task: 100 * (value - expert[task]) / expert[task] * (1 if higher[task] else -1)
        if expert[task] > 0
        else float("nan")
        for task, value in values.items()
    }


def worst_task(values: Mapping[str, float]) -> tuple[str, float]:
    """Name and score of the lowest; of equals the first. Give normalised scores where metrics differ."""
    if not values:
        raise ValueError("the worst of no tasks")
    task = min(values, key=lambda name: values[name])
    return task, values[task]


#: The metric whose scores are counts of samples, and so known exactly.
EXACT = "accuracy"
#: Scores nearer than this part of the larger one are equal, where they are no counts: some roundings of a float32 sum.
SAME = 1e-6


def levels(
    values: Sequence[Mapping[str, float]], higher: Mapping[str, bool], exact: Collection[str] = ()
) -> np.ndarray:
    """The scores by their order alone, `[methods, tasks]`: 0 the worst, equal scores on the same level.

    `values[m][task]`; every method has every task of `higher`. Tasks in `exact` have scores computed from counts, of
    which only the same are equal; of others, neighbours that differ by less than `SAME` of the larger one are.
    """
    table = np.array([[row[task] if up else -row[task] for task, up in higher.items()] for row in values])
    table = table.reshape(len(values), len(higher))
    found = np.zeros(table.shape, dtype=int)
    for place, task in enumerate(higher):
        order = np.argsort(table[:, place], kind="stable")
        ordered = table[order, place]
        size = np.maximum(np.abs(ordered[1:]), np.abs(ordered[:-1]))
        steps = np.diff(ordered) > (0.0 if task in exact else SAME) * size
        found[order, place] = np.concatenate([[0], np.cumsum(steps)])[: len(order)]
    return found


def mean_ranks(
    values: Sequence[Mapping[str, float]], higher: Mapping[str, bool], exact: Collection[str] = ()
) -> list[float]:
    """Mean over tasks of each method's rank, 1 the best; equal scores (see `levels`) share the mean of their ranks."""
    if not values:
        return []
    return distributions.rankdata(-levels(values, higher, exact), axis=0).mean(axis=1).tolist()


def pooled(scores: Scores) -> Scores:
    """One number per sample where all tasks are measured on the same samples: drawn together, not task by task."""
    return {"all tasks": np.mean([np.asarray(each, dtype=np.float64) for each in scores.values()], axis=0)}


def bootstrap_interval(scores: Scores, n: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap over samples, stratified by task: for a run whose only chance is which samples it met.

    Draws how often each distinct value of a task is chosen, which for booleans is one binomial number a replicate.
    """
    rng = np.random.default_rng(seed)
    return percentile_interval(100 * _mean(scores), _replicates(scores, n, rng), level)


def percentile_interval(value: float, replicates: np.ndarray, level: float = 0.95) -> Interval:
    """`value` with the quantiles of its bootstrap replicates `[n]`, widened to hold it."""
    return Interval(value, *_percentiles(value, replicates, level))


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

    Two single runs: percentile bootstrap of the paired differences, or the t interval where that is wider (the
    percentiles of few samples are a little narrow: 6 % false positives with 60 a task). Otherwise the interval of
    `seed_interval`, with seeds paired where both methods ran the same ones (their data order was then the same), else
    with each method's spread over its seeds by itself.
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
        least = max(1, min(len(samples) for samples in gap.values()) - 1)
        half = 100 * float(distributions.t.ppf((1 + level) / 2, least) * np.sqrt(_sampling([gap])[0]))
        low, high = min(low, value - half), max(high, value + half)
    else:
        if first.keys() == second.keys():
            value, half = _seeded([_subtract(first[key], second[key]) for key in first], level)
        else:
            value, half = _two_seeded(list(first.values()), list(second.values()), level)
        low, high = value - half, value + half
    return Difference(value, low, high, tied=bool(low <= 0 <= high))


def pairwise(rows: Sequence[Mapping[int | None, Scores]], level: float = 0.95) -> Pairwise:
    """The differences of `paired_difference` for all pairs of rows at once, by normal and t quantiles.

    `rows[i]` is `{seed: scores}`; every run was tested on the same samples. Variances come from one covariance matrix
    a task, so a hundred rows cost little more than one.
    """
    m, normal = len(rows), _normal(level)
    means = [np.array([_mean(each) for each in row.values()]) for row in rows]
    single = np.array([len(row) == 1 for row in rows])
    tasks = list(next(iter(rows[0].values()))) if rows else []
    sampling, own = np.zeros((m, m)), np.zeros((m, m))
    same = np.array([[a.keys() == b.keys() for b in rows] for a in rows]).reshape(m, m)
    for task in tasks:
        runs = [np.stack([np.asarray(each[task], dtype=np.float32) for each in row.values()]) for row in rows]
        size = runs[0].shape[1]
        if any(run.shape[1] != size for run in runs):
            raise ValueError("the two were not tested on the same samples")
        if size < 2:
            continue
        sampling += _gaps(np.stack([run.mean(axis=0) for run in runs])) / (size - 1) / size
        alone = np.zeros((m, m))
        for keys in {tuple(row) for row in rows if len(row) > 1}:
            group = [i for i, row in enumerate(rows) if tuple(row) == keys]
            # A sample's spread over seeds beyond the seeds' own level on this task.
            level_free = [runs[i] - runs[i].mean(axis=1, keepdims=True) for i in group]
            free = np.stack([(x - x.mean(axis=0)).ravel() for x in level_free])
            alone[np.ix_(group, group)] = free @ free.T
        each = np.diag(alone)
        paired = each[:, None] + each[None] - 2 * np.where(same, alone, 0)
        counts = np.array([max(1, len(row) - 1) * len(row) for row in rows], dtype=float)
        apart = each[:, None] / counts[:, None] + each[None] / counts[None]
        own += np.where(same, paired / counts[:, None], apart) / (size - 1) / size
    sampling, own = sampling / len(tasks) ** 2, own / len(tasks) ** 2
    between = np.zeros((m, m))
    for i in range(m):
        for j in range(m):
            if same[i, j] and not single[i]:
                between[i, j] = _spread(means[i] - means[j], level) if i != j else 0.0
            else:
                between[i, j] = sum(_spread(means[k], level) for k in (i, j) if not single[k])
    half = np.sqrt(between + normal**2 * np.maximum(0, sampling - own))
    centre = np.array([each.mean() for each in means])
    return Pairwise(100 * (centre[:, None] - centre[None]), 100 * half)


def rank_intervals(rows: Sequence[Mapping[int | None, Scores]], level: float = 0.95) -> list[tuple[int, int]]:
    """For each row the ranks it may have: 1 + the rows surely better, to m - those surely worse.

    Surely: at `level` over all the row's comparisons together (Bonferroni), so that each row's interval holds its true
    rank with at least that probability (Mogstad et al., Inference for Ranks, Review of Economic Studies 2024).
    """
    m = len(rows)
    if m < 2:
        return [(1, 1)] * m
    value, half = pairwise(rows, 1 - (1 - level) / (m - 1))
    better, worse = value < -half, value > half
    return [(1 + int(better[i].sum()), m - int(worse[i].sum())) for i in range(m)]


def friedman(
    values: Sequence[Mapping[str, float]], higher: Mapping[str, bool], exact: Collection[str] = ()
) -> Friedman | None:
    """Friedman's test over tasks as blocks, and Nemenyi's critical difference; None below 3 methods or 8 tasks.

    Arguments as those of `levels`. Ranks know nothing of samples: with few tasks and many methods only large
    differences are seen.
    """
    m, tasks = len(values), list(higher)
    if m < 3 or len(tasks) < 8:
        return None
    table = levels(values, higher, exact)
    if table.max() == 0:
        return Friedman(0.0, 1.0, _nemenyi(m, len(tasks)))
    found = distributions.friedmanchisquare(*table)
    return Friedman(float(found.statistic), float(found.pvalue), _nemenyi(m, len(tasks)))


def _nemenyi(m: int, blocks: int) -> float:
    """Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006, section 3.2.2."""
    quantile = distributions.studentized_range.ppf(0.95, m, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(m * (m + 1) / (6 * blocks)))


def _gaps(table: np.ndarray) -> np.ndarray:
    """Centred sums of squares of all differences of rows, `[m, n]` to `[m, m]`."""
    centred = (table - table.mean(axis=1, keepdims=True)).astype(np.float64)
    products = centred @ centred.T
    each = np.diag(products)
    return np.maximum(0, each[:, None] + each[None] - 2 * products)


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
            mean = counts @ values / size
            # A resample of n samples spreads by n - 1 of n parts of the variance.
            total[start:stop] += mean + (drawn @ values / size - mean) * np.sqrt(size / max(1, size - 1))
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
    return _spread(np.array([_mean(each) for each in scores]), level)


def _spread(runs: np.ndarray, level: float) -> float:
    """Squared half width of the t interval of the mean of `runs`."""
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
