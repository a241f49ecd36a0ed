"""PCB-Merging: weigh every entry by its importance within its task and its agreement across tasks.

Parameter Competition Balancing for Model Merging. Du et al., NeurIPS 2024, arXiv:2410.02396.

    theta = theta0 + scale * (sum_k s_k * sign(tau_k) * c_k) / sum_k s_k
    c_k = clamp(|tau_k|, 0.01 % and 99.99 % order statistics)
    p_k = exp(K * norm(c_k)^2) * tanh(tau_k * sum_j tau_j);   s_k = norm(max(p_k, its (1 - keep) order statistic))

norm(x) = (x - min) / (max - min) over the whole vector of one task; so are the order statistics. Reference:
duguodong7/pcb-merging pcb-merging.py. We follow the code where the paper is silent: the outer clamp to the order
statistics, and keep as a floor (what is below it weighs 0). keep 0.2 and scale 1.2 are that script's, for T5; the
repository's vision script clamps tails of 1 %, has keep=0.05 and normalises the sum, and the paper's search of the
coefficient is not published as a grid: scale=val searches that of TSV-M's repository. The coefficients per task that
the paper also searches with evolution strategies on labelled data are left out. Ours departs where the code divides by
0: a constant vector (all zeros, say) has norm 0. Streamed: two vectors of model size are held, and each expert is read
three times. Every floating tensor is merged; one model is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Share, method
from methods.tools.vectors import fraction, order_statistic, slices

OUTLIERS = 0.0001


class Range(NamedTuple):
    """What the entries of one task are measured by: bounds of its magnitudes, and of its scores."""

    low: float
    high: float
    floor: float = 0.0
    top: float = 0.0


@method(
    title="PCB-Merging",
    paper="arXiv:2410.02396",
    grids={"scale": (0.1, 3.0, 30)},
    footprint=Footprint(holds=(2, 0)),
)
def pcb(experts: Experts, *, keep: Share = 0.2, scale: float = 1.2) -> Merged:
    """Average the entries weighted by competition scores.

    Args:
        keep: share of each task's entries, those of highest score, that count; in (0, 1].
        scale: coefficient of the merged vector.
    """
    fraction("keep", keep)
    if not experts.names:
        return Merged(experts)
    summed = {n: torch.zeros(experts.base[n].shape, device=experts.device) for n in experts.names}
    for name, total in summed.items():
        base = experts.base_tensor(name)
        for task in experts.tasks:
            total += experts.task_vector(name, task, base)
    ranges = [_measure(experts, task, summed, keep) for task in experts.tasks]
    return Merged(experts, {n: _merge(experts, n, summed.pop(n), ranges, scale) for n in experts.names})


def _measure(experts: Experts, task: str, summed: dict[str, Tensor], keep: float) -> Range:
    """The bounds of one task, over all tensors together."""
    parts = [experts.task_vector(n, task).contiguous() for n in experts.names]
    count = sum(p.numel() for p in parts)
    low = order_statistic(parts, 1 + int(count * OUTLIERS), magnitude=True)
    high = order_statistic(parts, 1 + int(count * (1 - OUTLIERS) - 1), magnitude=True)
    for name, part in zip(experts.names, parts, strict=True):
        for piece, total in slices(part, summed[name]):
            piece.copy_(score(piece, total, Range(low, high), len(experts)))
    floor = order_statistic(parts, 1 + min(int(count * (1 - keep)), count - 1))
    return Range(low, high, floor, max(float(p.max()) for p in parts if p.numel()))


def score(vector: Tensor, summed: Tensor, limits: Range, count: int) -> Tensor:
    """``p_k`` of entries of one task, of the shape of ``vector``; ``count`` is K."""
    importance = _unit(vector.abs().clamp_(limits.low, limits.high), limits.low, limits.high).square_()
    return importance.mul_(count).exp_().mul_(vector.mul(summed).tanh_())


def _merge(experts: Experts, name: str, summed: Tensor, ranges: list[Range], scale: float) -> Tensor:
    """One merged tensor."""
    base = experts.base_tensor(name)
    weighted, weights = torch.zeros(base.shape, device=base.device), torch.zeros(base.shape, device=base.device)
    for task, limits in zip(experts.tasks, ranges, strict=True):
        whole = experts.task_vector(name, task, base).contiguous()
        for vector, total, up, down in slices(whole, summed, weighted, weights):
            share = _unit(score(vector, total, limits, len(experts)).clamp_(min=limits.floor), limits.floor, limits.top)
            down += share
            up += share.mul_(vector.abs().clamp_(limits.low, limits.high)).mul_(vector.sign())
    return weighted.div_(weights.clamp_(min=1e-12)).mul_(scale).add_(base)


def _unit(values: Tensor, low: float, high: float) -> Tensor:
    """``values`` between ``low`` and ``high`` mapped to [0, 1], in place; 0 where the two are equal."""
    return values.sub_(low).div_(high - low) if high > low else values.zero_()
