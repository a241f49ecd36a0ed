"""SCE: the entries that experts differ most in, weighted by each expert's energy, merged by their elected sign.

FuseChat: Knowledge Fusion of Chat Models. Wan, Zhong, Yang, Chen, Quan, EMNLP 2025, arXiv:2408.07990.

    theta = theta0 + sum_k w_k tau^_k [sign(tau^_k) = s] / sum_k w_k [sign(tau^_k) = s],   s = sign(sum_k tau^_k), 0: +
    tau^_k: the int(keep * n) entries of each tensor of the largest variance over tasks, n those of any
    w_k = mean tau^_k^2 / sum_j mean tau^_j^2, tensor by tensor

Reference: arcee-ai/mergekit sce.py, which we follow: every floating tensor on its own; the sign is that of the sum
without weights; keep=1, its default, selects nothing, below 1 a tensor of too few entries stays the base's. The paper
keeps 10 %. Ours departs in signs, which are of sums in float64. One model is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Portion, method
from methods.tools.vectors import fraction, per_tensor, total


@method(title="SCE", paper="arXiv:2408.07990", footprint=Footprint(local=True, tensor=(0, 5)))
def sce(experts: Experts, *, keep: Portion = 1.0) -> Merged:
    """Select entries by variance, weigh experts by energy, erase minority signs.

    Args:
        keep: share of each tensor's entries, of those in which experts differ, in [0, 1]; 1 keeps all.
    """
    fraction("keep", keep, zero=True)

    def combine(vectors: Tensor) -> Tensor:
        if keep < 1:
            vectors = vectors * most_varied(vectors, keep)
        energy = vectors.reshape(len(vectors), -1).double().square().sum(1)
        shares = energy / energy.sum() if bool(energy.any()) else torch.full_like(energy, 1 / len(energy))
        agree = vectors.sign() == torch.where(total(vectors) >= 0, 1.0, -1.0).to(vectors)
        weights = shares.to(vectors).view(-1, *[1] * (vectors.ndim - 1)) * agree
        divisor = weights.sum(0)
        return (vectors * weights).sum(0) / divisor.where(divisor != 0, 1.0)

    return Merged(experts, per_tensor(experts, combine))


def most_varied(vectors: Tensor, keep: float) -> Tensor:
    """True at the ``int(keep * n)`` entries of ``[*shape]`` of the largest variance over tasks, n those of any."""
    variance = vectors.var(0, unbiased=False)
    count = int(keep * variance.count_nonzero())  # in float32, as the code's
    chosen = torch.zeros_like(variance, dtype=torch.bool).reshape(-1)
    chosen[variance.reshape(-1).topk(count).indices] = True
    return chosen.view_as(variance)
