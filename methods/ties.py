"""TIES-Merging: trim, elect sign, disjoint merge.

TIES-Merging: Resolving Interference When Merging Models. Yadav et al., NeurIPS 2023, arXiv:2306.01708.

    theta = theta0 + scale * sum_k tau^_k [sign(tau^_k) = s],    s = sign(sum_k tau^_k)      (or mean, or largest)
    tau^_k = tau_k where |tau_k| >= the keep-quantile of the whole vector, else 0

Reference: prateeky2806/ties-merging src/utils/merge_utils.py. The threshold is one per task over all tensors
together. The authors' defaults are merge="mean", scale=1; the vision literature (AdaMerging, FusionBench) reports
merge="sum", scale=0.3, which we follow; scale=val searches what the vision literature does (tall_masks: 0.05 .. 1.0).
Ours departs where the code fails: keep=1 keeps everything (the code raises). Signs are of sums in float64, the code's
in float32: they differ where vectors cancel to within float32's rounding, and ours do not depend on the order of
tasks. Streamed: no K x P matrix is made.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from methods.api import Experts, Footprint, Merged, Share, method
from methods.tools.vectors import choice, elect, fraction


@method(
    title="TIES-Merging",
    paper="arXiv:2306.01708",
    grids={"scale": (0.05, 1.0, 20)},
    footprint=Footprint(tensor=(1.25, 4)),
)
def ties(
    experts: Experts, *, keep: Share = 0.2, scale: float = 0.3, merge: Literal["sum", "mean", "max"] = "sum"
) -> Merged:
    """Merge the largest entries that agree with the elected sign.

    Args:
        keep: share of each task vector that survives trimming, in (0, 1].
        scale: coefficient of the merged vector.
        merge: ``"sum"``, ``"mean"`` (over the entries that agree) or ``"max"`` (the largest of them).
    """
    rule = {"sum": disjoint_sum, "mean": disjoint_mean, "max": disjoint_max}[
        choice("merge", merge, ("sum", "mean", "max"))
    ]
    merged = elect(experts, fraction("keep", keep), rule)
    return Merged(experts, {n: vector.mul_(scale).add_(experts.base_tensor(n)) for n, vector in merged.items()})


def disjoint_sum(vectors: Tensor, sign: Tensor) -> Tensor:
    """Sum of agreeing entries, ``[K, *shape] -> [*shape]``."""
    return vectors.sum(0)


def disjoint_mean(vectors: Tensor, sign: Tensor) -> Tensor:
    """Mean over the entries that are not 0 (at least one)."""
    return vectors.sum(0).div_((vectors != 0).sum(0).clamp_(min=1))


def disjoint_max(vectors: Tensor, sign: Tensor) -> Tensor:
    """The largest magnitude times the elected sign, 0 where that is 0."""
    return vectors.abs().amax(0).mul_(sign)
