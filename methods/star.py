"""STAR: task vectors truncated in their spectrum, rescaled to their nuclear norm, and averaged.

STAR: Spectral Truncation and Rescale for Model Merging. Lee, Ko, Pedapati, Chung, Yeh, Chen, NAACL 2025,
arXiv:2502.10339.

    theta = theta0 + mean_k (|S_k|_1 / |S_k[:r]|_1) SVD_r(tau_k),   r the first with  |S_k[:r]|_1 >= energy % of |S_k|_1

Reference: IBM/STAR merger/STAR.py, which we follow, without its randomised decomposition of adapters of a known rank.
The paper merges LoRA adapters, so that every matrix has a task vector; ours treats every tensor of two or more
dimensions, those of more as matrices of their first (as the port in lyymuwu/SVC does), and takes the mean of the
others. The code divides 0 by 0 where a task vector is 0: ours refuses a tensor that some tasks changed and others did
not; one that no task changed stays the base's. One model is kept.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, method
from methods.tools.spectral import svd


@method(
    title="STAR",
    paper="arXiv:2502.10339",
    needs=("matrices",),
    footprint=Footprint(local=True, tensor=(0, 3), decompositions=(0, 1)),
)
def star(experts: Experts, *, energy: Annotated[float, "(0, 100]"] = 40) -> Merged:
    """Average the task vectors' leading directions, each at its task vector's nuclear norm.

    Args:
        energy: percent of each nuclear norm that the directions kept hold at least; the paper's 40.

    Raises:
        MergingError: a task left a tensor alone that others changed.
    """
    if not 0 < energy <= 100:
        raise MergingError(f"energy is {energy!r}; expected percent, above 0 and up to 100, such as energy=40")
    merged = {}
    for name in experts.names:
        vectors = experts.task_vectors(name)
        if vectors.ndim > 2 and bool(vectors.any()):
            idle = [t for t, v in zip(experts.tasks, vectors, strict=True) if not bool(v.any())]
            if idle:
                raise MergingError(
                    f"the task vector of {', '.join(idle)} is 0 in {name}, and star would divide it by its norm; "
                    "expected experts that changed the same tensors"
                )
            vectors = torch.stack([truncated(v.flatten(1), energy).view_as(v) for v in vectors])
        merged[name] = experts.base_tensor(name) + vectors.mean(0)
    return Merged(experts, merged)


def truncated(vector: Tensor, energy: float) -> Tensor:
    """The leading directions of one matrix ``[m, n]`` at its nuclear norm."""
    u, s, vh = svd(vector)
    norm = s.sum()
    count = min(int(torch.searchsorted(s.cumsum(0), norm * energy / 100)) + 1, len(s))
    kept = s[:count] * (norm / s[:count].sum())
    return (u[:, :count] * kept) @ vh[:count]
