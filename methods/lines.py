"""LiNeS: scale a merged task vector up with depth.

LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging. Wang et al., ICLR 2025,
arXiv:2410.17146.

    theta_l = theta0_l + (alpha + beta * l / (L - 1)) * tau_l,   l = 0 .. L - 1 the block;  outside blocks: alpha

tau is what the inner method adds to the base at its scale 1. Reference: wang-kee/LiNeS src/eval/eval.py,
src/eval/aggregation.py. Without alpha it is the code's: the L1 length of sum_k tau_k over that of tau, divided by K
(1/K for task arithmetic). The code searches beta in 0.1 .. 1.0 on labelled validation data and has no value without;
ours is 0.5, next to the middle, and nobody's choice: beta=val is the paper's protocol. The code finds block l by the
text ".l." and hard-codes L = 12 or 24; ours reads blocks from the names (each tower counts its own; L = 1 gives alpha).
Every floating tensor is merged; one model is kept.
"""

from __future__ import annotations

import torch

from methods.api import Experts, Footprint, Merged, MethodName, Stream, method
from methods.core.blocks import depths
from methods.tools.inner import run, shared_state


@method(title="LiNeS", paper="arXiv:2410.17146", grids={"beta": (0.1, 1.0, 10)}, footprint=Footprint(passes=0))
def lines(
    experts: Experts,
    stream: Stream | None = None,
    *,
    alpha: float | None = None,
    beta: float = 0.5,
    inner: MethodName = "task_arithmetic",
) -> Merged:
    """Rescale what another method merged, linearly in depth.

    Args:
        alpha: coefficient of the first block and of all outside blocks; ``None`` is the length-matched ``1 / K``.
        beta: how much more the last block gets.
        inner: the method that merges; it must give one encoder for all tasks. If it has a scale, it runs with 1.
    """
    merged = shared_state(run(inner, experts, stream, outer="lines", scale=1.0), "lines", inner)
    if alpha is None:
        alpha = _length_ratio(merged) / len(experts)
    at = depths(experts.names)
    for name, value in merged.shared.items():
        if name in experts.names:
            base = experts.base_tensor(name)
            size = alpha + beta * at[name] if name in at else alpha
            merged.shared[name] = torch.sub(value.to(base.device), base).mul_(size).add_(base)
    merged.trace["alpha"] = alpha
    return merged


def _length_ratio(merged: Merged) -> float:
    """L1 length of the plain sum of task vectors over that of the merged one; 1 where the latter is 0."""
    experts, plain, length = merged.experts, 0.0, 0.0
    for name in experts.names:
        plain += float(experts.task_vectors(name).sum(0).abs_().sum(dtype=torch.float64))
        if name in merged.shared:
            base = experts.base_tensor(name)
            length += float(torch.sub(merged.shared[name].to(base.device), base).abs_().sum(dtype=torch.float64))
    return plain / length if length else 1.0
