"""CAGrad: joint training along the direction near the mean gradient that helps the worst-off task most.

Conflict-Averse Gradient Descent for Multi-task Learning. Liu et al., NeurIPS 2021, arXiv:2110.14048.

    g = K (g_0 + c |g_0| / |g_w| g_w) / (1 + c^2),    g_w = sum_i w_i g_i,  g_0 the mean gradient
    w = argmin over the simplex of  <g_w, g_0> + c |g_0| |g_w|

References: Cranial-XIX/CAGrad, and the port in AvivNavon/nash-mtl methods/weight_methods.py, which we follow: SLSQP on
the K x K inner products, the division by 1 + c^2 and the factor K, so that the size is that of the summed loss. The
paper's c is 0.5, the code's for NYUv2 0.4. Training as in ``joint``. Nothing is stored per task.
"""

from __future__ import annotations

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
    scale = c * float(np.sqrt(max(gram.mean(), 0.0) + TINY))
    weights = tensor(worst_case(gram, scale), dtype=gradients.dtype, device=gradients.device)
    worst = weights @ gradients
    return count / (1 + c**2) * (gradients.mean(0) + scale / (worst.norm() + TINY) * worst)


def worst_case(gram: np.ndarray, scale: float) -> np.ndarray:
    """The weights ``w`` [K] on the simplex that minimise ``<g_w, g_0> + scale |g_w|``."""
    even = np.ones(len(gram)) / len(gram)
    toward = gram @ even
    optimum = minimize(
        lambda w: w @ toward + scale * np.sqrt(max(w @ gram @ w, 0.0) + TINY),
        even,
        bounds=[(0, 1)] * len(gram),
        constraints={"type": "eq", "fun": lambda w: 1 - w.sum()},
    )
    return optimum.x if np.isfinite(optimum.x).all() else even
