"""Scores relative to the experts', where tasks have metrics of their own: values and intervals. No torch.

normalised: mean over tasks of score / expert, or expert / score where lower is better, in percent.
delta: mean over tasks of (score - expert) / expert, with the sign turned where lower is better, in percent; negative
is worse than the experts. (Delta m of multi-task learning: Maninis et al., CVPR 2019, arXiv:1904.08918.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmark.records import metrics
from benchmark.records.record import CorrectBits, Record, TaskResult
from benchmark.scores import statistics as stats
from benchmark.scores.statistics import Interval

_RESAMPLES = 2000


class Relative(NamedTuple):
    """Both relative scores with their 95 % intervals (nan where records hold no statistics per sample)."""

    normalised: Interval
    delta: Interval


def score_samples(result: TaskResult) -> np.ndarray | None:
    """One number per sample whose mean times 100 is the score; None where the record has no such statistics."""
    if isinstance(result.statistics, CorrectBits):
        return result.statistics.numpy()
    try:
        return metrics.pseudo_values(result.metric, result.statistics) / 100
    except ValueError:
        return None


def scores(record: Record) -> dict[str, np.ndarray] | None:
    """`score_samples` of each task, for `stats`; None where a task has none."""
    return _all({task: score_samples(result) for task, result in record.tasks.items()})


def shares(record: Record, expert: Record, tasks: Sequence[str], delta: bool = False) -> dict[str, np.ndarray] | None:
    """One number per sample whose mean times 100 is the task's normalised score (or its relative change).

    Linear in both models' samples, which were the same ones, so that what is hard for both does not count as noise.
    """
    found: dict[str, np.ndarray | None] = {}
    for task in tasks:
        mine, theirs = record.tasks[task], expert.tasks[task]
        values, wanted = score_samples(mine), score_samples(theirs)
        if values is None or wanted is None or len(values) != len(wanted):
            return None
        value, target = mine.value / 100, theirs.value / 100
        above = (value, values.astype(float), target, wanted.astype(float))
        turn = not mine.higher_is_better
        if turn and not delta:
            above = (above[2], above[3], above[0], above[1])
        number, numbers, divisor, divisors = above
        if divisor <= 0:
            return None
        ratio = number / divisor
        change = (numbers - number) / divisor - ratio * (divisors - divisor) / divisor
        found[task] = ((1 - ratio) - change if turn else (ratio - 1) + change) if delta else ratio + change
    return _all(found)


def _all(found: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray] | None:
    kept = {task: each for task, each in found.items() if each is not None}
    return kept if len(kept) == len(found) else None


def relative(
    records: Sequence[Record], expert: Record, tasks: Sequence[str], *, shared: bool = False, seed: int = 0
) -> Relative:
    """Both scores of the mean over `records` (the seeds of one method); `shared`: all tasks have the same samples.

    One run: percentile bootstrap over samples, drawn for the run and the expert together. Several: the interval of
    `stats.seed_interval` from `shares`.
    """
    higher = {task: expert.tasks[task].higher_is_better for task in tasks}
    target = {task: expert.tasks[task].value for task in tasks}
    values = [{task: record.tasks[task].value for task in tasks} for record in records]
    normalised, delta = (
        float(np.mean([stats.mean_over_tasks(kind(each, target, higher)) for each in values]))
        for kind in (stats.normalised, stats.changes)
    )
    if len(records) == 1:
        drawn = _bootstrap(records[0], expert, tasks, shared, seed)
        if drawn is None:
            return Relative(Interval(normalised, np.nan, np.nan), Interval(delta, np.nan, np.nan))
        return Relative(
            *(
                stats.percentile_interval(value, each) if np.isfinite(value) else Interval(value, np.nan, np.nan)
                for value, each in zip((normalised, delta), drawn, strict=True)
            )
        )
    found = []
    for value, kind in ((normalised, False), (delta, True)):
        per_run = [shares(record, expert, tasks, kind) for record in records]
        if any(each is None for each in per_run):
            found.append(Interval(value, np.nan, np.nan))
            continue
        kept = [stats.pooled(each) if shared else each for each in per_run if each is not None]
        _, low, high = stats.seed_interval(kept)
        # Pseudo-values of a score that is no mean may have another mean: the interval moves to the value shown.
        found.append(Interval(value, low + value - (low + high) / 2, high + value - (low + high) / 2))
    return Relative(*found)


def _bootstrap(
    record: Record, expert: Record, tasks: Sequence[str], shared: bool, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Replicates `[B]` of normalised and delta; None without statistics per sample."""
    rng = np.random.default_rng(seed)
    normalised, delta = np.zeros(_RESAMPLES), np.zeros(_RESAMPLES)
    for task in tasks:
        mine, theirs = record.tasks[task], expert.tasks[task]
        try:
            rows = [metrics.rows(result.metric, result.statistics) for result in (mine, theirs)]
        except ValueError:
            return None
        if len(rows[0]) != len(rows[1]) or mine.metric != theirs.metric or len(rows[0]) != mine.n:
            return None
        if shared:
            first, second = rows
            # The same draws for every task.
            weights = _draws(np.random.default_rng(seed), np.ones(mine.n, dtype=np.int64), mine.n)
        else:
            first, second, counts = _grouped(*rows)
            weights = _draws(rng, counts, mine.n)
        values, target = (metrics.resample_rows(mine.metric, each, weights) for each in (first, second))
        above, below = (values, target) if mine.higher_is_better else (target, values)
        with np.errstate(divide="ignore", invalid="ignore"):
            normalised += 100 * above / below
            delta += 100 * (values - target) / target * (1 if mine.higher_is_better else -1)
    return normalised / len(tasks), delta / len(tasks)


def _grouped(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both models' rows with equal samples joined, and how many samples each stands for."""
    joint = np.concatenate([first, second], axis=1)
    if joint.shape[1] > 16:
        return first, second, np.ones(len(first), dtype=np.int64)
    code = np.zeros(len(joint), dtype=np.int64)
    for column in joint.T:
        values, place = np.unique(column, return_inverse=True)
        code = np.unique(code * len(values) + place, return_inverse=True)[1]
    _, index, counts = np.unique(code, return_index=True, return_counts=True)
    return first[index], second[index], counts


def _draws(rng: np.random.Generator, counts: np.ndarray, size: int) -> np.ndarray:
    """How often each group is drawn, `[B, groups]`."""
    if len(counts) < size // 4:
        return rng.multinomial(size, counts / size, size=_RESAMPLES)
    # With few samples a group, drawing samples is quicker than a binomial number for every group.
    group = np.repeat(np.arange(len(counts)), counts)
    found = np.empty((_RESAMPLES, len(counts)), dtype=np.int32)
    for row in found:
        row[:] = np.bincount(group[rng.integers(0, size, size)], minlength=len(counts))
    return found
