"""Subspace Boosting: the small singular values of a merge are lifted, so that its rank does not collapse.

Subspace-Boosted Model Merging. Skorobogat, Roth, Georgescu, arXiv:2506.16506.

    theta = theta0 + sum_r max(sigma_r, sigma_j) u_r v_r^T,    theta_inner - theta0 = sum_r sigma_r u_r v_r^T
    j the first with  sum_(r <= j) sigma_r >= share * sum_r sigma_r

Reference: the port in tanganke/fusion_bench, subspace_boosting_utils.py; the authors' repository was not to be had. We
follow it: attention, MLP and the visual projection by CLIP's names (elsewhere the matrices of numbered blocks), query,
key and value of a packed in-projection each on its own; every other tensor stays the inner method's. Where the largest
singular value alone holds the share, as it does at the default 0.01 in all but the widest matrices, every singular
value becomes the largest, and the inner scale must shrink with it. The paper's shares per method are not known.
Ours departs where the code's result is arbitrary: directions whose singular value is rounding noise are not lifted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MethodName, Portion, method
from methods.core.states import shapes_of
from methods.tools.inner import run, shared_state
from methods.tools.selection import attention_and_mlp_weights, holds
from methods.tools.spectral import significant, svd
from methods.tools.vectors import fraction

CLIP = ("in_proj", "out_proj", "c_fc", "c_proj", "visual.proj")


@method(
    title="Subspace Boosting",
    paper="arXiv:2506.16506",
    grids={"scale": (0.05, 1.0, 20)},
    needs=("matrices",),
    footprint=Footprint(local=True, passes=0, decompositions=(1, 0)),
)
def subspace_boosting(
    experts: Experts, *, inner: MethodName = "task_arithmetic", scale: float = 0.3, share: Portion = 0.01
) -> Merged:
    """Lift the small singular values of what another method merged without data.

    Args:
        inner: the method that merges; it must give one encoder for all tasks.
        scale: coefficient of the inner method, where it has one.
        share: of the sum of singular values, after which the smaller ones are lifted to the last one counted.
    """
    fraction("share", share, zero=True)
    merged = shared_state(run(inner, experts, outer="subspace_boosting", scale=scale), "subspace_boosting", inner)
    for name in boosted_weights(experts):
        if name in merged.shared:
            base = experts.base_tensor(name)
            vector = torch.sub(merged.shared[name].to(base.device), base)
            parts = vector.chunk(3) if "in_proj" in name and len(vector) % 3 == 0 else (vector,)
            merged.shared[name] = base + torch.cat([boosted(part, share) for part in parts])
    return merged


def boosted_weights(experts: Experts) -> tuple[str, ...]:
    """The matrices that are treated."""
    shapes = shapes_of(experts.base)
    if not any(holds(n, CLIP) and len(shapes[n]) == 2 for n in experts.base):
        return attention_and_mlp_weights(experts)
    return tuple(n for n in experts.names if holds(n, CLIP) and len(shapes[n]) == 2 and 0 not in shapes[n])


def boosted(vector: Tensor, share: float) -> Tensor:
    """One matrix ``[m, n]``, its singular values at least the one at which their sum reaches the share."""
    u, s, vh = svd(vector)
    reached = (s.cumsum(0) / s.sum() >= share).nonzero()
    least = s[int(reached[0]) if len(reached) else -1]
    mask = significant(s)
    return (u[:, mask] * s[mask].clamp(min=least)) @ vh[mask]
