"""TALL-masks and Consensus Merging: where each task's information lies in the merged vector.

Localizing Task Information for Improved Model Merging and Compression. Wang et al., ICML 2024, arXiv:2405.07813.

    TALL-masks:  theta_k = theta0 + mask_k * tau,    mask_k = [ |tau_k| > mask_scale * |tau - tau_k| ]
    Consensus:   theta = theta0 + scale * tau * [sum_k mask_k >= min_agree],    tau = sum_k tau_k

Reference: nik-dim/tall_masks src/utils/tallmask_utils.py. No departure of code from paper. The code searches
mask_scale in 0.2, 0.3 .. 0.6 for each task on labelled validation data, and scale likewise; ours takes a number, or
a list of one per task. The code can also take TIES' sum for tau; ours is the plain sum. The comparison is strict, so
entries that no expert changed are masked out. Every floating tensor is merged. tall_mask keeps base and tau and one
bit per task and entry, and needs the task id; consensus keeps one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, Natural, NonNegative, method
from methods.tools.masks import fill, masked, room
from methods.tools.vectors import per_tensor


@method(
    title="TALL-masks",
    paper="arXiv:2405.07813",
    grids={"mask_scale": (0.2, 0.6, 5)},
    footprint=Footprint(masks=True, serves=(2, 0)),
)
def tall_mask(experts: Experts, *, mask_scale: NonNegative | Sequence[NonNegative] = 0.4, scale: float = 1.0) -> Merged:
    """Each task's part of the summed task vectors, by its mask.

    Args:
        mask_scale: lambda of the masks; larger is sparser. One number, or one per task.
        scale: coefficient of the masked vector; the paper's is 1.
    """
    scales = _scales(experts, mask_scale)
    stored = room(experts, experts.names, experts.tasks)
    for name in experts.names:
        vectors = experts.task_vectors(name)
        summed = vectors.sum(0)
        fill(stored, name, experts.tasks, localize(vectors, summed, scales))
        stored[f"vector/{name}"] = summed.mul_(scale)
    return masked(experts, stored)


@method(
    title="Consensus Merging",
    paper="arXiv:2405.07813",
    grids={"scale": (0.05, 1.0, 20)},
    footprint=Footprint(local=True),
)
def consensus(
    experts: Experts,
    *,
    mask_scale: NonNegative | Sequence[NonNegative] = 0.4,
    min_agree: Natural = 2,
    scale: float = 0.3,
) -> Merged:
    """The summed task vectors without the entries that too few tasks need.

    Args:
        mask_scale: lambda of the masks; one number, or one per task.
        min_agree: number of tasks whose mask must hold an entry for it to stay; 0 keeps all, more than K none.
        scale: coefficient of what stays.
    """
    scales = _scales(experts, mask_scale)
    if not isinstance(min_agree, int) or isinstance(min_agree, bool) or min_agree < 0:
        raise MergingError(f"min_agree is {min_agree!r}; expected a number of tasks, 0 or more, such as min_agree=2")

    def combine(vectors: Tensor) -> Tensor:
        summed = vectors.sum(0)
        agreeing = localize(vectors, summed, scales).sum(0) >= min_agree
        return summed.mul_(scale).masked_fill_(~agreeing, 0.0)

    return Merged(experts, per_tensor(experts, combine))


def localize(vectors: Tensor, summed: Tensor, scales: Sequence[float]) -> Tensor:
    """The TALL masks of one tensor: ``vectors [K, *shape]``, ``summed [*shape]`` to bool ``[K, *shape]``."""
    return torch.stack([v.abs() > (summed - v).abs_().mul_(s) for v, s in zip(vectors, scales, strict=True)])


def _scales(experts: Experts, mask_scale: float | Sequence[float]) -> list[float]:
    scales: list[Any] = list(mask_scale) if isinstance(mask_scale, Sequence) else [mask_scale] * len(experts)
    if len(scales) != len(experts) or not all(isinstance(s, (int, float)) and s >= 0 for s in scales):
        raise MergingError(
            f"mask_scale is {mask_scale!r}; expected a number, 0 or more, or a list of "
            f"{len(experts)} (one per task), such as mask_scale=0.4"
        )
    return [float(s) for s in scales]
