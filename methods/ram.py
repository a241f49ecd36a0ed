"""RAM: what one expert alone changed is kept whole, what several changed is averaged.

Behavior Knowledge Merge in Reinforced Agentic Models. Yuan, Shi, Zhang, Liu, Yao, Vosoughi, Lee, arXiv:2601.13572.

    theta = theta0 + sum_k tau_k [|tau_k| > floor] * (lambda_k where k is the only such task, else 1 / number of them)
    lambda_k = 1;   with plus:  1 + strength * min(shared_k / alone_k, limit), entries counted tensor by tensor

Reference: arcee-ai/mergekit ram.py (ram and ramplus_tl), which we follow: every floating tensor on its own, the number
of entries that a task alone changed at least 1e-5, so that a task which shares all it changed has the limit. mergekit's
default floor is 1e-5, at which nearly every entry of a fully fine-tuned model counts as shared; ours is 0.01. strength
and limit are mergekit's r and alpha, at its defaults. No departures. One model is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, NonNegative, method
from methods.tools.vectors import per_tensor


@method(title="RAM", paper="arXiv:2601.13572", footprint=Footprint(local=True, tensor=(3, 4.75)))
def ram(
    experts: Experts,
    *,
    floor: NonNegative = 0.01,
    plus: bool = False,
    strength: NonNegative = 0.1,
    limit: NonNegative = 0.2,
) -> Merged:
    """Keep what is an expert's own, average what experts share.

    Args:
        floor: entries of a magnitude up to this count as unchanged, and are dropped.
        plus: RAM+: raise what is a task's own by how much the task shares.
        strength: of that rise.
        limit: of the ratio of shared to own entries.
    """
    for key, value in (("floor", floor), ("strength", strength), ("limit", limit)):
        if isinstance(value, bool) or not value >= 0:
            raise MergingError(f"{key} is {value!r}; expected a number, 0 or more, such as {key}=0.01")

    def combine(vectors: Tensor) -> Tensor:
        changed = vectors.abs() > floor
        tasks = changed.sum(0)
        alone, shared = changed & (tasks == 1), changed & (tasks > 1)
        factors = torch.ones(len(vectors), device=vectors.device)
        if plus:
            counts = [each.reshape(len(vectors), -1).sum(1).double() for each in (shared, alone)]
            factors += (strength * (counts[0] / counts[1].clamp(min=1e-5)).clamp(max=limit)).to(factors)
        own = vectors * alone * factors.view(-1, *[1] * (vectors.ndim - 1))
        return (own + vectors * shared / tasks.clamp(min=1)).sum(0)

    return Merged(experts, per_tensor(experts, combine))
