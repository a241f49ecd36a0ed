"""How well one ranking of methods predicts another: decision accuracy, Kendall's tau-b, Spearman. numpy and scipy only.

Decision accuracy is the share of pairs of methods that both rank the same way round, over pairs at least some points
apart in the ranking to be predicted; a tie counts half. (Heineman et al., Signal and Noise, arXiv:2508.13144.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from benchmark.scores.statistics import Interval

#: Points that two methods must be apart in the ranking to be predicted, for a pair to be a decision.
GAP = 3.0
#: Measured scores nearer than this, in points, are a tie.
TIE = 1e-6
RESAMPLES = 2000
#: Fewer methods than these bear no interval.
FEW = 5


class Pair(NamedTuple):
    """Two methods, and how far the first lies above the second in both rankings, in points."""

    first: str
    second: str
    predicted: float
    measured: float

    @property
    def agreement(self) -> float:
        """1 where both rank them the same way round, 0 where the other way, 0.5 for a tie."""
        if abs(self.measured) <= TIE or self.predicted == 0:
            return 0.5
        return float((self.measured > 0) == (self.predicted > 0))


@dataclass(frozen=True)
class Agreement:
    """The three statistics with 95 % intervals (nan where too few methods), and the decisions behind the first."""

    methods: list[str]
    pairs: list[Pair]
    decision: Interval
    tau: Interval
    spearman: Interval

    @property
    def errors(self) -> list[Pair]:
        """The pairs that are ranked the other way round, the widest in the predicted ranking first."""
        return sorted((pair for pair in self.pairs if pair.agreement == 0), key=lambda pair: -abs(pair.predicted))


def agreement(
    measured: Mapping[str, Sequence[float]], tables: Sequence[Mapping[str, float]], *, gap: float = GAP, seed: int = 0
) -> Agreement:
    """How well the measured scores predict the tables'.

    Intervals are percentiles of a bootstrap that draws methods and, within a method, its seeds, with replacement. A
    method drawn twice makes no pair with itself. Resamples of a perfect agreement are perfect, too, so that of the
    decision accuracy is never narrower than Wilson's for as many independent decisions as there are methods. Below
    `FEW` methods there is no interval.

    Args:
        measured: the scores of each method, one a seed, in points.
        tables: scores to be predicted, by method. Those of two tables are not comparable: a pair of methods is judged
            by the first table that holds both. Spearman's coefficient is that of the table with most of the methods.
    """
    names = sorted(name for name in measured if any(name in table for table in tables))
    means = {name: float(np.mean(measured[name])) for name in names}
    pairs = [
        Pair(a, b, table[a] - table[b], means[a] - means[b])
        for a, b in itertools.combinations(names, 2)
        if (table := next((each for each in tables if a in each and b in each), None)) is not None
    ]
    decisions = [pair for pair in pairs if abs(pair.predicted) >= gap]
    place = {name: index for index, name in enumerate(names)}
    ends = np.array([(place[p.first], place[p.second]) for p in pairs], dtype=int).reshape(-1, 2)
    predicted = np.array([p.predicted for p in pairs])
    widest = max(tables, key=lambda table: sum(name in table for name in names), default={})
    ranked = np.array([place[name] for name in names if name in widest], dtype=int)
    target = np.array([widest[names[index]] for index in ranked])

    def statistics(scores: np.ndarray, counts: np.ndarray) -> tuple[float, float, float]:
        differences = scores[ends[:, 0]] - scores[ends[:, 1]]
        weights = (counts[ends[:, 0]] * counts[ends[:, 1]]).astype(float)
        sign = np.where(np.abs(differences) <= TIE, 0.0, np.sign(differences))
        product = sign * np.sign(predicted)
        far = weights * (np.abs(predicted) >= gap)
        decision = float(far @ (1 + product) / 2 / far.sum()) if far.sum() else np.nan
        untied = (weights @ (sign != 0)) * (weights @ (predicted != 0))
        tau = float(weights @ product / np.sqrt(untied)) if untied > 0 else np.nan
        chosen = np.repeat(ranked, counts[ranked])
        rho = _spearman(scores[chosen], np.repeat(target, counts[ranked]))
        return decision, tau, rho

    rng = np.random.default_rng(seed)
    value = statistics(np.array([means[name] for name in names]), np.ones(len(names), dtype=int))
    draws = [
        statistics(
            np.array([np.mean(rng.choice(np.asarray(measured[name]), len(measured[name]))) for name in names]),
            rng.multinomial(len(names), np.full(len(names), 1 / len(names))),
        )
        for _ in range(RESAMPLES if len(names) >= FEW else 0)
    ]
    decision, tau, rho = (_interval(each, [draw[k] for draw in draws]) for k, each in enumerate(value))
    return Agreement(names, decisions, _widened(decision, len(names)), tau, rho)


def signal_to_noise(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """For each task, the spread over methods (of their means over seeds) by that over seeds (pooled over methods).

    Both are standard deviations. Infinite where no seed changes a score, nan without methods of several seeds.

    Args:
        scores: of each method, `{task: points}` a seed.
    """
    tasks = list(next(iter(scores.values()))[0]) if scores else []
    ratios = {}
    for task in tasks:
        runs = [np.array([seed[task] for seed in each]) for each in scores.values()]
        several = [run for run in runs if len(run) > 1]
        if len(runs) < 2 or not several:
            ratios[task] = float("nan")
            continue
        freedom = sum(len(run) - 1 for run in several)
        noise = np.sqrt(sum(float(((run - run.mean()) ** 2).sum()) for run in several) / freedom)
        signal = float(np.std([run.mean() for run in runs], ddof=1))
        ratios[task] = signal / noise if noise > 0 else float("inf")
    return ratios


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) <= TIE or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(distributions.rankdata(x), distributions.rankdata(y))[0, 1])


def _widened(decision: Interval, methods: int) -> Interval:
    """The interval, no narrower than Wilson's."""
    if not np.isfinite(decision.low):
        return decision
    wilson = distributions.binomtest(round(decision.value * methods), methods).proportion_ci(method="wilson")
    return Interval(decision.value, min(decision.low, wilson.low), max(decision.high, wilson.high))


def _interval(value: float, draws: Sequence[float]) -> Interval:
    values = np.array([draw for draw in draws if np.isfinite(draw)])
    if not np.isfinite(value) or len(values) < RESAMPLES // 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))
