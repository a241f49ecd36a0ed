"""CAGrad: joint training along the direction near the mean gradient that helps the worst-off task most.

Conflict-Averse Gradient Descent for Multi-task Learning. Liu et al., NeurIPS 2021, arXiv:2110.14048.

    g = K (g_0 + c |g_0| / |g_w| g_w) / (1 + c^2),    g_w = sum_i w_i g_i,  g_0 the mean gradient
    w = argmin over the simplex of  <g_w, g_0> + c |g_0| |g_w|

References: Cranial-XIX/CAGrad, and the port in AvivNavon/nash-mtl methods/weight_methods.py, which we follow: SLSQP on
the K x K inner products, the division by 1 + c^2 and the factor K, so that the size is that of the summed loss. The
paper's c is 0.5, the code's for NYUv2 0.4. Departure: the code takes what the solver leaves, weights off the simplex
for gradients of length 1e3 and the even ones at 1e-2; ours checks the answer, and where another is better by 3e-5 of
the longest gradient's square, solves for gradients in units of the longest. Training as in ``joint``. Nothing is stored
per task.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from torch import Tensor, tensor

from methods.api import (
    LABELLED,
    Access,
    Count,
    Experts,
    Footprint,
    Merged,
    Natural,
    NonNegative,
    Portion,
    Stream,
    method,
)
from methods.tools.multitask import products, train

TINY = 1e-8


@method(title="CAGrad", paper="arXiv:2110.14048", access=Access(train=LABELLED), footprint=Footprint(adapting=(7, 1)))
def cagrad(
    experts: Experts,
    stream: Stream,
    *,
    c: NonNegative = 0.5,
    steps: Natural = 2000,
    lr: NonNegative = 1e-5,
    batch_size: Count = 128,
    warmup: Portion = 0.1,
    weight_decay: NonNegative = 0.1,
    seed: int = 0,
) -> Merged:
    """Joint training with conflict-averse gradients. ``c``: how far from the mean gradient; the rest as ``joint``."""
    return train(
        experts,
        stream,
        lambda gradients, losses: combine(gradients, c),
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        warmup=warmup,
        weight_decay=weight_decay,
    )


def combine(gradients: Tensor, c: float = 0.5) -> Tensor:
    """The combined gradient ``[P]`` of ``gradients`` ``[K, P]``."""
    count = len(gradients)
    gram = products(gradients)
    unit = float(np.sqrt(np.diag(gram).max())) or 1.0
    scale = c * float(np.sqrt(max(gram.mean(), 0.0)))
    weights = tensor(worst_case(gram, scale), dtype=gradients.dtype, device=gradients.device)
    worst = weights @ gradients
    return count / (1 + c**2) * (gradients.mean(0) + scale / (worst.norm() + TINY * unit) * worst)


def worst_case(gram: np.ndarray, scale: float) -> np.ndarray:
    """The weights ``w`` [K] on the simplex that minimise ``<g_w, g_0> + scale |g_w|``; the even ones for no gradients.

    First as the code does. The problem is convex, so a point says by how much another may be lower at most: where that
    is too much, it is solved for gradients in units of the longest, from one corner after the other.
    """
    even = np.ones(len(gram)) / len(gram)
    unit = float(np.diag(gram).max())
    if not 0 < unit < np.inf:
        return even
    scaled = Problem(gram / unit, scale / unit**0.5)
    best = Problem(gram, scale).solve(even, 1e-6)
    if scaled.gap(best) <= 3e-5:
        return best
    for start in (even, *np.eye(len(gram))[np.argsort(scaled.toward + scaled.scale * np.diag(scaled.gram))]):
        best = min(best, scaled.solve(start, 1e-14), key=scaled.value)
        if scaled.gap(best) <= 1e-6:
            break
    return best


class Problem(NamedTuple):
    """The worst case of gradients of products ``gram [K, K]``."""

    gram: np.ndarray
    scale: float

    @property
    def toward(self) -> np.ndarray:
        """Products with the mean gradient ``[K]``."""
        return self.gram.mean(1)

    def length(self, w: np.ndarray) -> float:
        """``|g_w|``, never 0."""
        return float(np.sqrt(max(w @ self.gram @ w, 0.0) + TINY))

    def value(self, w: np.ndarray) -> float:
        """What is minimised."""
        return float(w @ self.toward + self.scale * self.length(w))

    def slope(self, w: np.ndarray) -> np.ndarray:
        """Its gradient ``[K]``."""
        return self.toward + self.scale * (self.gram @ w) / self.length(w)

    def gap(self, w: np.ndarray) -> float:
        """How much lower than at ``w`` the minimum over the simplex may be."""
        slope = self.slope(w)
        return float(slope @ w - slope.min())

    def solve(self, start: np.ndarray, accuracy: float) -> np.ndarray:
        """SLSQP's answer, on the simplex; ``start`` where it has none."""
        optimum = minimize(
            self.value,
            start,
            jac=self.slope,
            bounds=[(0, 1)] * len(start),
            constraints={"type": "eq", "fun": lambda w: 1 - w.sum()},
            options={"ftol": accuracy, "maxiter": 200},
        )
        weights = np.clip(optimum.x, 0, None)
        usable = np.isfinite(weights).all() and weights.sum() > 0
        return weights / weights.sum() if usable else start
