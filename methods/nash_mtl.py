"""Nash-MTL: joint training in which the tasks bargain for the direction.

Multi-Task Learning as a Bargaining Game. Navon et al., ICML 2022, arXiv:2202.01017.

    g = sum_i alpha_i g_i  with  alpha > 0 and  G^T G alpha = 1 / alpha,     then |g| is clipped to max_norm

Reference: AvivNavon/nash-mtl methods/weight_methods.py. The code approaches alpha by up to 20 convex programs (cvxpy
with the solver ECOS). The equation is the gradient of the strictly convex 1/2 a^T M a - sum log a, M = G^T G, so
Newton's method on K numbers gives its one solution; we do that and need neither package. Where the programs converge,
as in the golden vectors, the two agree to rounding. Ours works on the cosines between gradients, with 1e-9 added to
their diagonal, which bounds alpha where gradients cancel (there the code returns what its last program had). Training
as in ``joint``. Nothing is stored per task.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, tensor

from methods.api import (
    LABELLED,
    Access,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    Portion,
    Stream,
    method,
)
from methods.tools.multitask import products, train

RIDGE = 1e-9


@method(title="Nash-MTL", paper="arXiv:2202.01017", access=Access(train=LABELLED), footprint=Footprint(adapting=(7, 1)))
def nash_mtl(
    experts: Experts,
    stream: Stream,
    *,
    update_every: Count = 1,
    max_norm: NonNegative = 1.0,
    steps: Natural = 2000,
    lr: NonNegative = 1e-5,
    batch_size: Count = 128,
    warmup: Portion = 0.1,
    weight_decay: NonNegative = 0.1,
    seed: int = 0,
) -> Merged:
    """Joint training with bargained task weights.

    Args:
        update_every: steps between two solutions of the bargaining problem.
        max_norm: the combined gradient is scaled down to this length; 0 leaves it.
        steps, lr, batch_size, warmup, weight_decay, seed: as ``joint``.
    """
    if update_every < 1:
        raise MergingError(f"update_every is {update_every!r}; expected a number of steps from 1, such as 1")
    weights: list[np.ndarray] = []
    done = 0

    def rule(gradients: Tensor, losses: Tensor) -> Tensor:
        nonlocal done
        if done % update_every == 0:
            weights[:] = [bargain(products(gradients))]
        done += 1
        return tensor(weights[0], dtype=gradients.dtype, device=gradients.device) @ gradients

    return train(
        experts,
        stream,
        rule,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        warmup=warmup,
        weight_decay=weight_decay,
        max_norm=max_norm,
    )


def combine(gradients: Tensor, max_norm: float = 1.0) -> Tensor:
    """The bargained gradient ``[P]`` of ``gradients`` ``[K, P]``, its length at most ``max_norm`` (0: any)."""
    alpha = bargain(products(gradients))
    total = tensor(alpha, dtype=gradients.dtype, device=gradients.device) @ gradients
    return total * (max_norm / (total.norm() + 1e-6)).clamp(max=1) if max_norm else total


def bargain(gram: np.ndarray, tolerance: float = 1e-9, iterations: int = 500) -> np.ndarray:
    """The positive ``alpha`` [K] with ``gram @ alpha = 1 / alpha``; 1 for a task whose gradient is zero.

    Newton's method on ``beta = |g| alpha`` and the cosines. The cost is self-concordant: a step of 1 / (1 + its length)
    never leaves the positive numbers and always gains.
    """
    length = np.sqrt(np.diag(gram))
    alpha = np.ones(len(gram))
    alive = length > 0
    if not alive.any():
        return alpha
    length = length[alive]
    matrix = gram[np.ix_(alive, alive)] / np.outer(length, length) + RIDGE * np.eye(len(length))
    beta = np.ones(len(length))
    for _ in range(iterations):
        slope = matrix @ beta - 1 / beta
        if np.abs(beta * slope).max() < tolerance:
            break
        step = np.linalg.solve(matrix + np.diag(beta**-2.0), -slope)
        far = np.sqrt(max(0.0, -float(slope @ step)))
        beta = beta + step / (1 + (far if far > 0.1 else 0.0))
    alpha[alive] = beta / length
    return alpha
