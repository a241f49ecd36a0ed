"""EMR-Merging: elect a unified vector, mask it per task, rescale it per task.

EMR-Merging: Tuning-Free High-Performance Model Merging. Huang et al., NeurIPS 2024, arXiv:2405.17461.

    theta_k = theta0 + gamma_k * mask_k * uni,    mask_k = [tau_k * s > 0]
    s = sign(sum_k tau_k), 0 counted as -1;  uni = s * max_k |tau_k| over the entries with that sign

Reference: harveyhuang18/EMR_Merging merge_vit/src/main_emr_merging.py, emr_merge. gamma_k makes magnitudes match. The
code divides the sum over tensors of mean |tau_k| by that of mean |mask_k * uni|, so a scalar counts as much as a
matrix; the paper writes one ratio of sums over all entries. We follow the code (rescale="code"); rescale="paper" is
the other. Ours departs where the code divides by 0: a task whose masks are all empty has gamma = 1 (its model is the
base anyway); signs are of sums in float64, so that the order of tasks decides none. Every floating tensor is merged.
Kept: base and unified vector, one bit per task and entry, one number per task; the task id is needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, method
from methods.tools.masks import fill, masked, room
from methods.tools.vectors import choice, total


@method(title="EMR-Merging", paper="arXiv:2405.17461", footprint=Footprint(masks=True, serves=(2, 0)))
def emr(experts: Experts, *, rescale: Literal["code", "paper"] = "code") -> Merged:
    """One unified task vector, and a mask and a factor per task.

    Args:
        rescale: ``"code"`` (sum over tensors of mean magnitudes) or ``"paper"`` (sum over all entries).
    """
    choice("rescale", rescale, ("code", "paper"))
    stored = room(experts, experts.names, experts.tasks)
    sizes = torch.zeros(2, len(experts), dtype=torch.float64)
    for name in experts.names:
        unified, masks, lengths = unify(experts.task_vectors(name))
        sizes += lengths / max(1, unified.numel()) if rescale == "code" else lengths
        stored[f"vector/{name}"] = unified
        fill(stored, name, experts.tasks, masks)
    factors = rescalers(sizes)
    merged = masked(experts, stored, factors)
    merged.trace["rescalers"] = factors
    return merged


def unify(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Elect and mask one tensor; overwrites ``vectors``.

    Args:
        vectors: ``[K, *shape]``.

    Returns:
        The unified vector ``[*shape]``, the masks bool ``[K, *shape]``, and the L1 lengths of each task's vector and of
        its masked unified vector, float64 ``[2, K]``.
    """
    before = torch.stack([v.abs().sum(dtype=torch.float64) for v in vectors])
    unified = elect(vectors)
    masks, size = vectors > 0, unified.abs()
    after = torch.stack([size.mul(m).sum(dtype=torch.float64) for m in masks])
    return unified, masks, torch.stack([before, after]).cpu()


def elect(vectors: Tensor) -> Tensor:
    """The unified vector ``[*shape]``; ``vectors [K, *shape]`` are multiplied by its sign."""
    flag = torch.where(total(vectors) > 0, 1.0, -1.0).to(vectors.dtype)
    return vectors.mul_(flag).amax(0).clamp_(min=0).mul_(flag)


def rescalers(lengths: Tensor) -> Tensor:
    """``lengths[0] / lengths[1]`` as float32 ``[K]``, 1 where the second is 0."""
    return torch.where(lengths[1] > 0, lengths[0] / lengths[1].where(lengths[1] > 0, 1.0), 1.0).float()
