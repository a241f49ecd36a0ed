"""PCGrad and its weighted form: joint training in which conflicting parts of task gradients are projected out.

Gradient Surgery for Multi-Task Learning. Yu et al., NeurIPS 2020, arXiv:2001.06782.
Task Weighting through Gradient Projection for Multitask Learning. Bohn et al., arXiv:2409.01793.

    PCGrad:           g = sum_i g_i',  from g_i by  g_i' -= min(0, <g_i', g_j>) / |g_j|^2 g_j  for j in random order
    Weighted PCGrad:  g = sum_i g_i',  the same for the tasks j drawn before i, j drawn with p_j ~ loss_j^gamma

References: tianheyu927/PCGrad PCGrad_tf.py, and the port in AvivNavon/nash-mtl methods/weight_methods.py, whose golden
vectors the combination reproduces: the g_j are the gradients as they were, each task has its own random order.
``pcgrad_weighted``: tasks are drawn without replacement with probabilities p_i ~ loss_i^gamma (of the losses before; a
running mean, ours), and a gradient gives way to those drawn before it only; so the task that does worst tends to stay
whole, and nothing changes without a conflict. The paper's text leaves one drawn task intact while its printed algorithm
loops over a drawn order; no code is published: drawing an order, and gamma = 1, are our reading. Training as in
``joint``. Nothing is stored per task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
from methods.tools.multitask import train


@method(title="PCGrad", paper="arXiv:2001.06782", access=Access(train=LABELLED), footprint=Footprint(adapting=(7, 1)))
def pcgrad(
    experts: Experts,
    stream: Stream,
    *,
    steps: Natural = 2000,
    lr: NonNegative = 1e-5,
    batch_size: Count = 128,
    warmup: Portion = 0.1,
    weight_decay: NonNegative = 0.1,
    seed: int = 0,
) -> Merged:
    """Joint training with projected gradients. Keywords as ``joint``; ``seed`` also draws the orders of projection."""
    generator = torch.Generator().manual_seed(seed)

    def rule(gradients: Tensor, losses: Tensor) -> Tensor:
        return combine(gradients, [torch.randperm(len(gradients), generator=generator).tolist() for _ in gradients])

    return train(
        experts, stream, rule, steps=steps, lr=lr, batch_size=batch_size, warmup=warmup, weight_decay=weight_decay
    )


@method(
    title="Weighted PCGrad",
    paper="arXiv:2409.01793",
    access=Access(train=LABELLED),
    footprint=Footprint(adapting=(7, 1)),
)
def pcgrad_weighted(
    experts: Experts,
    stream: Stream,
    *,
    gamma: float = 1.0,
    steps: Natural = 2000,
    lr: NonNegative = 1e-5,
    batch_size: Count = 128,
    warmup: Portion = 0.1,
    weight_decay: NonNegative = 0.1,
    seed: int = 0,
) -> Merged:
    """Joint training in which tasks with small losses give way. ``gamma``: how strongly; 0 is an even chance."""
    generator = torch.Generator().manual_seed(seed)
    running = Running(0.9)

    def rule(gradients: Tensor, losses: Tensor) -> Tensor:
        chances = (gamma * running(losses).clamp(min=1e-12).log()).softmax(0).clamp(min=1e-30)
        drawn = torch.multinomial(chances, len(chances), generator=generator).tolist()
        return combine(gradients, precedence(drawn))

    return train(
        experts, stream, rule, steps=steps, lr=lr, batch_size=batch_size, warmup=warmup, weight_decay=weight_decay
    )


class Running:
    """The mean of the losses before this call, older ones fading; the first call gives its own."""

    def __init__(self, decay: float) -> None:
        self.decay, self.mean = decay, torch.zeros(0)

    def __call__(self, losses: Tensor) -> Tensor:
        new = losses.detach().double().cpu()
        before = self.mean if len(self.mean) else new
        self.mean = self.decay * before + (1 - self.decay) * new
        return before


def precedence(drawn: Sequence[int]) -> list[list[int]]:
    """For each task the ones it gives way to: those drawn before it."""
    place = {task: i for i, task in enumerate(drawn)}
    return [list(drawn[: place[task]]) for task in range(len(drawn))]


def combine(gradients: Tensor, orders: Sequence[Sequence[int]] | None = None, reduction: str = "sum") -> Tensor:
    """The projected gradients ``[K, P]``, added up: ``[P]``.

    Args:
        orders: for each task the tasks it is projected against, in turn; ``None``: all, in their order.
        reduction: ``"sum"`` or ``"mean"`` over tasks.
    """
    if reduction not in ("sum", "mean"):
        raise MergingError(f"reduction is {reduction!r}; allowed: 'sum', 'mean'")
    weights = projection(gradients @ gradients.T, orders)
    total = weights.sum(0) @ gradients
    return total / len(gradients) if reduction == "mean" else total


def projection(gram: Tensor, orders: Sequence[Sequence[int]] | None) -> Tensor:
    """``W`` [K, K] such that the projected gradients are ``W @ gradients``; inner products are all that is needed."""
    count = len(gram)
    inner = gram.double().cpu()
    weights = torch.eye(count, dtype=torch.float64)
    for i in range(count):
        for j in range(count) if orders is None else orders[i]:
            along = float(weights[i] @ inner[j])
            if along < 0 and inner[j, j] > 0:
                weights[i, j] -= along / float(inner[j, j])
    return weights.to(gram.device, gram.dtype)
