"""CART: low-rank task vectors around the average of the experts.

Revisiting Weight Averaging for Model Merging. Choi, Kim, Lee, Hong, arXiv:2412.12153.

    theta = c + scale * sum_k SVD_r(theta_k - c),    c = mean_k theta_k,   r = max(1, int(rank * min(m, n)))

Reference: JH-GEECS/CART src/merging.py, StaticMergeModule, which we follow: the weights of attention and MLP are
decomposed (names with "attn" or "mlp", without "ln" and "bias"; elsewhere the matrices of numbered blocks), every
other tensor is the average. rank=1 is the average whatever the scale, since the centred vectors sum to 0, and so is
rank=0. Defaults: the code's for 8 tasks on ViT-B/32; it has 1.5 and 0.16 for 14 tasks, 1.9 and 0.32 for 20, and the
paper recommends the rank 0.08. The paper searches the scale and the code holds no grid: ours is TSV-M's. No
departures. Nothing is stored per task.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Portion, method
from methods.tools.selection import attention_and_mlp_weights
from methods.tools.spectral import leading
from methods.tools.vectors import fraction


@method(
    title="CART",
    paper="arXiv:2412.12153",
    grids={"scale": (0.1, 3.0, 30)},
    needs=("matrices",),
    footprint=Footprint(local=True, decompositions=(0, 1)),
)
def cart(experts: Experts, *, scale: float = 2.0, rank: Portion = 0.12) -> Merged:
    """Add the leading directions of every expert's distance from the average to the average.

    Args:
        scale: coefficient of the low-rank parts; the average itself has none.
        rank: share of each matrix's rank that is kept, in [0, 1]; 0 and 1 give the average.
    """
    fraction("rank", rank, zero=True)
    weights = set(attention_and_mlp_weights(experts)) if 0 < rank < 1 else set()
    merged = {}
    for name in experts.names:
        vectors = experts.task_vectors(name)
        vector = vectors.mean(0)
        if name in weights:
            vector = vector.add(low_rank_sum(vectors.sub_(vector), rank), alpha=scale)
        merged[name] = vector.add_(experts.base_tensor(name))
    return Merged(experts, merged)


def low_rank_sum(centred: Tensor, rank: float) -> Tensor:
    """``sum_k SVD_r(centred_k)`` of ``[K, m, n]``, ``[m, n]``."""
    count = max(1, int(rank * min(centred.shape[1:])))
    total = torch.zeros_like(centred[0])
    for vector in centred:
        u, s, vh = leading(vector, count)
        total.addmm_(u * s, vh)
    return total
