"""How well one ranking of methods predicts another: decision accuracy, Kendall's tau-b, Spearman. numpy and scipy only.

Decision accuracy is the share of pairs of methods that both rank the same way round, over pairs at least some points
apart in the ranking to be predicted; a tie counts half. (Heineman et al., Signal and Noise, arXiv:2508.13144.)
"""

from __future__ import annotations

import itertools
from collections import Counter
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


class Blame(NamedTuple):
    """A method taken out: its pairs ranked the other way round, of how many, and the decision accuracy of the rest."""

    method: str
    wrong: int
    of: int
    decision: float
    pairs: int


@dataclass(frozen=True)
class Agreement:
    """The three statistics with 95 % intervals (nan where too few methods), and the decisions behind the first."""

    methods: list[str]
    pairs: list[Pair]
    decision: Interval
    tau: Interval
    spearman: Interval

    @property
    def blame(self) -> list[Blame]:
        """The methods that the errors come with: taken out one after another, the one with the most of those left."""
        left, found = list(self.pairs), []
        while any(pair.agreement == 0 for pair in left):
            wrong: Counter[str] = Counter()
            of: Counter[str] = Counter()
            for pair in left:
                for name in pair[:2]:
                    of[name] += 1
                    wrong[name] += pair.agreement == 0
            worst = min(of, key=lambda name: (-wrong[name], of[name], name))
            left = [pair for pair in left if worst not in pair[:2]]
            share = sum(pair.agreement for pair in left) / len(left) if left else float("nan")
            found.append(Blame(worst, wrong[worst], of[worst], share, len(left)))
        return found

    @property
    def errors(self) -> list[Pair]:
        """The pairs that are ranked the other way round, the widest in the predicted ranking first."""
        return sorted((pair for pair in self.pairs if pair.agreement == 0), key=lambda pair: -abs(pair.predicted))


def agreement(
    measured: Mapping[str, Sequence[float]],
    tables: Sequence[Mapping[str, float]],
    *,
    gap: float = GAP,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """How well the measured scores predict the tables'.

    Intervals are percentiles of a bootstrap that draws methods and, within a method, its seeds, with replacement. A
    method drawn twice makes no pair with itself. Resamples of a perfect agreement are perfect, too: the interval of the
    decision accuracy is never narrower than Wilson's for as many independent decisions as there are methods, the others
    have none then, and below `FEW` methods nothing has one.

    Args:
        measured: the scores of each method, one a seed, in points.
        tables: scores to be predicted, by method. Those of two tables are not comparable: a pair of methods is judged
            by the first table that holds both. Spearman's coefficient is that of the table with most of the methods.
        resamples: of the bootstrap; 0 for the values alone.
    """
    names = sorted(name for name in measured if any(name in table for table in tables))
    means = {name: float(np.mean(measured[name])) for name in names}
    pairs = [
        Pair(a, b, table[a] - table[b], means[a] - means[b])
        for a, b in itertools.combinations(names, 2)
        if (table := next((each for each in tables if a in each and b in each), None)) is not None
    ]
    decisions = [pair for pair in pairs if abs(pair.predicted) >= gap]
    if not names:
        none = Interval(float("nan"), float("nan"), float("nan"))
        return Agreement([], [], none, none, none)
    rng = np.random.default_rng(seed)
    draws = resamples if len(names) >= FEW else 0
    # The first row is the sample itself, each further one a resample.
    counts = np.concatenate(
        [
            np.ones((1, len(names)), dtype=int),
            rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws),
        ]
    )
    scores = np.stack([_resampled(np.asarray(measured[name], dtype=float), draws, rng) for name in names], axis=1)
    decision, tau = _concordance(pairs, names, scores, counts, gap)
    widest = max(tables, key=lambda table: sum(name in table for name in names), default={})
    ranked = [index for index, name in enumerate(names) if name in widest]
    target = np.array([widest[names[index]] for index in ranked])
    rho = _spearman(scores[:, ranked], target, counts[:, ranked])
    shares = _widened(_interval(decision), len(names)) if draws else _interval(decision)
    return Agreement(names, decisions, shares, _interval(tau), _interval(rho))


def _resampled(scores: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The mean over seeds, and that of each resample of the seeds, `[1 + draws]`."""
    chosen = rng.integers(0, len(scores), (draws, len(scores)))
    return np.concatenate([[scores.mean()], scores[chosen].mean(axis=1)])


def _concordance(
    pairs: Sequence[Pair], names: Sequence[str], scores: np.ndarray, counts: np.ndarray, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Decision accuracy and tau-b of each row of `scores` and `counts` `[draws, methods]`; nan where there are none."""
    place = {name: index for index, name in enumerate(names)}
    first = np.array([place[pair.first] for pair in pairs], dtype=np.intp)
    second = np.array([place[pair.second] for pair in pairs], dtype=np.intp)
    predicted = np.array([pair.predicted for pair in pairs])
    differences = scores[:, first] - scores[:, second]
    weights = (counts[:, first] * counts[:, second]).astype(float)
    sign = np.where(np.abs(differences) <= TIE, 0.0, np.sign(differences))
    product = sign * np.sign(predicted)
    far = weights * (np.abs(predicted) >= gap)
    untied = (weights * (sign != 0)).sum(axis=1) * (weights * (predicted != 0)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        decision = (far * (1 + product) / 2).sum(axis=1) / far.sum(axis=1)
        return decision, (weights * product).sum(axis=1) / np.sqrt(untied)


def _spearman(scores: np.ndarray, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's coefficient of each row of `scores` with `target`, where each method counts so often; nan below 3."""

    def ranks(values: np.ndarray) -> np.ndarray:
        below = values[:, None, :] < values[:, :, None] - TIE
        same = np.abs(values[:, None, :] - values[:, :, None]) <= TIE
        return np.einsum("bij,bj->bi", below + 0.5 * same, counts)

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (values * counts).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)

    if len(target) < 3:
        return np.full(len(scores), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = centred(ranks(scores)), centred(ranks(np.broadcast_to(target, scores.shape)))
        spread = np.sqrt((counts * x**2).sum(axis=1) * (counts * y**2).sum(axis=1))
        return (counts * x * y).sum(axis=1) / spread


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


def _widened(decision: Interval, methods: int) -> Interval:
    """The interval, no narrower than Wilson's."""
    if not np.isfinite(decision.value):
        return decision
    wilson = distributions.binomtest(round(decision.value * methods), methods).proportion_ci(method="wilson")
    low, high = np.fmin(decision.low, wilson.low), np.fmax(decision.high, wilson.high)
    return Interval(decision.value, min(float(low), decision.value), max(float(high), decision.value))


def _interval(values: np.ndarray) -> Interval:
    """The first value, with the percentiles of the others; nan where too few are numbers, or all are the same."""
    value, draws = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value) or len(draws) < RESAMPLES // 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [0.025, 0.975])
    if low == high:
        return Interval(value, float("nan"), float("nan"))
    return Interval(value, min(value, float(low)), max(value, float(high)))
