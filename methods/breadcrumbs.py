"""Model Breadcrumbs: the middle of each row of a task vector, without its outliers and its small entries.

Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks. Davari and Belilovsky, ECCV 2024,
arXiv:2312.06795.

    theta = theta0 + scale * sum_k m_k * tau_k
    m_k, row by row: drop the int(n * remove) largest |tau_k|, then keep the int(n * keep) largest of the rest

Reference: rezazzr/breadcrumbs src/task_vectors.py, TaskVectorMiddleKeep. The paper masks layer by layer; the code
takes each row (last dimension, n entries) on its own, and we follow it: a row with n * keep < 1 is dropped whole (so
is every 3-wide convolution kernel, at the defaults), one with n * remove < 1 loses no outlier. The task vectors of
scalar tensors are not masked. Every floating tensor is merged; one model is kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Portion, Share, method
from methods.tools.vectors import choice, fraction, per_tensor


@method(
    title="Model Breadcrumbs",
    paper="arXiv:2312.06795",
    grids={"scale": (0.05, 1.0, 20)},
    footprint=Footprint(local=True, tensor=(0, 2.75)),
)
def breadcrumbs(
    experts: Experts,
    *,
    keep: Share = 0.15,
    remove: Portion = 0.01,
    scale: float = 0.3,
    order: Literal["remove_first", "keep_first"] = "remove_first",
) -> Merged:
    """Task arithmetic on task vectors whose rows are masked at both ends.

    Args:
        keep: share of each row that stays.
        remove: share of each row, its largest entries, that is dropped as outliers.
        scale: coefficient of the masked vectors.
        order: ``"remove_first"`` (keep the largest of what outliers leave) or ``"keep_first"`` (drop outliers from
            what was kept).
    """
    fraction("keep", keep)
    fraction("remove", remove, zero=True)
    first = choice("order", order, ("remove_first", "keep_first")) == "remove_first"

    def combine(vectors: Tensor) -> Tensor:
        return scale * middle(vectors, keep, remove, first).sum(0)

    return Merged(experts, per_tensor(experts, combine))


def middle(vectors: Tensor, keep: float, remove: float, remove_first: bool) -> Tensor:
    """``vectors [K, *shape]`` with everything but the middle of each row set to 0, in place."""
    if vectors.ndim < 2:
        return vectors
    width = vectors.shape[-1]
    for removing in (remove_first, not remove_first):
        largest = vectors.abs().topk(int(width * (remove if removing else keep)), dim=-1).indices
        chosen = torch.zeros_like(vectors, dtype=torch.bool).scatter_(-1, largest, True)
        vectors.masked_fill_(chosen if removing else ~chosen, 0.0)
    return vectors
