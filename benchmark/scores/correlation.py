"""Correlation of points that share members (sets of tasks, say), and an honest interval. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions


class Correlation(NamedTuple):
    """A correlation coefficient and its confidence interval; ``n`` points from ``groups`` groups."""

    value: float
    low: float
    high: float
    n: int
    groups: int


def correlation(
    x: Sequence[float],
    y: Sequence[float],
    members: Sequence[Sequence[str]],
    *,
    kind: str = "pearson",
    partial: bool = False,
    level: float = 0.95,
) -> Correlation:
    """Pearson's or Spearman's coefficient of points that share members (sets of tasks, say), and its interval.

    Points that share a task are not independent, so the interval is a jackknife over the members, not over the points:
    each member in turn is left out with every point it is in, on Fisher's z, with t quantiles. A coefficient that
    cannot be computed is nan, and so is the interval where fewer than three members can be left out.

    Args:
        members: of each point, e.g. its tasks.
        kind: ``"pearson"`` or ``"spearman"``.
        partial: correlate what is left of x and y once an effect of each member is taken out (least squares; a
            point's value is modelled as the mean of its members' effects). Needs three points more than members.
    """
    if kind not in ("pearson", "spearman"):
        raise ValueError(f"kind is {kind!r}; allowed: 'pearson', 'spearman'")
    table = np.array([x, y], dtype=np.float64)
    names = sorted({name for group in members for name in group})
    holds = np.array([[name in group for name in names] for group in members], dtype=bool).reshape(-1, len(names))

    # What a point's own effects explain whole is left as rounding, the processor's and not the data's.
    noise = 1e-9 * np.abs(table).max(axis=1, initial=0.0)

    def coefficient(keep: np.ndarray) -> float:
        values, within = np.asarray(table[:, keep]), holds[keep]
        if partial:
            design = within / np.maximum(within.sum(axis=1, keepdims=True), 1)
            if len(design) < np.linalg.matrix_rank(design) + 3:
                return float("nan")
            values = values - (design @ np.linalg.lstsq(design, values.T, rcond=None)[0]).T
        if values.shape[1] < 3 or (np.ptp(values, axis=1) <= noise).any():
            return float("nan")
        if kind == "spearman":
            placed = [_snapped(each, gap) for each, gap in zip(values, noise, strict=True)]
            values = np.asarray(distributions.rankdata(placed, axis=1))
        return float(np.corrcoef(values[0], values[1])[0, 1])

    def fisher(value: float) -> float:
        return float(np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12)))

    value = coefficient(np.ones(table.shape[1], dtype=bool))
    left = np.array([fisher(coefficient(~holds[:, place])) for place in range(len(names))])
    left = left[np.isfinite(left)]
    if len(left) < 3 or not np.isfinite(value):
        return Correlation(value, float("nan"), float("nan"), table.shape[1], len(names))
    spread = np.sqrt((len(left) - 1) / len(left) * np.sum((left - left.mean()) ** 2))
    half = distributions.t.ppf((1 + level) / 2, len(left) - 1) * spread
    low, high = np.tanh([fisher(value) - half, fisher(value) + half])
    return Correlation(value, float(low), float(high), table.shape[1], len(names))


def _snapped(values: np.ndarray, noise: float) -> np.ndarray:
    """Whole numbers in the order of the values, equal where neighbours are no further apart than ``noise``."""
    order = np.argsort(values)
    levels = np.empty(len(values), dtype=int)
    levels[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > noise)])
    return levels
