"""FR-Merging: task vectors filtered in the frequency domain, brought to one size, and added up.

FREE-Merging: Fourier Transform for Efficient Model Merging. Zheng and Wang, ICCV 2025, arXiv:2411.16815.

    theta = theta0 + scale * sum_k a_k F^-1(m * F(tau_k)),    a_k = max_j mean|tau_j| / mean|tau_k|, tensor by tensor
    m = [d <= ratio * min(H, W)] [d >= min(H, W) // 10] + [d <= min(H, W) // 10],  d the distance from (H // 2, W // 2)

Reference: Zhengsh123/FREE-Merging merge_vit/src, which we follow where it surprises: the transform is not shifted, so
that the disc kept is around the highest frequencies (the paper cuts the low ones), and frequencies at the inner radius
count twice; of the biases of attention and MLP only the first task's count, so that the order of tasks matters; every
tensor that is no part of attention or MLP (elsewhere: no part of a numbered block, or a norm) stays the base's. The
alignment is measured after the filter. scale is the code's for 8 tasks; without align it has 0.15 for 30.
Ours departs where the alignment divides by 0: a tensor that some tasks changed and others did not is refused.
One model is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Merged, MergingError, NonNegative, method
from methods.tools.selection import attention_and_mlp


@method(title="FR-Merging", paper="arXiv:2411.16815", needs=("matrices",))
def fr_merging(experts: Experts, *, ratio: NonNegative = 0.7, align: bool = True, scale: float = 0.7) -> Merged:
    """Filter the task vectors of attention and MLP, align their sizes, and add them to the base.

    Args:
        ratio: radius of the frequencies that stay, of the shorter side.
        align: bring each task's tensor to the largest mean magnitude of all tasks.
        scale: coefficient of the sum.

    Raises:
        MergingError: a task left a tensor alone that others changed, and ``align`` has nothing to scale.
    """
    if not ratio >= 0:
        raise MergingError(f"ratio is {ratio!r}; expected a number, 0 or more, such as ratio=0.7")
    merged = {}
    for name in attention_and_mlp(experts):
        vectors = experts.task_vectors(name)
        if vectors.ndim == 3:
            vectors = filtered(vectors, ratio)
        if align and bool(vectors.any()):
            sizes = vectors.abs().reshape(len(vectors), -1).mean(1)
            if not bool(sizes.all()):
                idle = ", ".join(t for t, size in zip(experts.tasks, sizes, strict=True) if not float(size))
                raise MergingError(
                    f"the task vector of {idle} is 0 in {name}, and fr_merging would divide by its size; "
                    "expected experts that changed the same tensors, or align=false"
                )
            vectors = vectors * (sizes.max() / sizes).view(-1, *[1] * (vectors.ndim - 1))
        vector = vectors.sum(0) if vectors.ndim == 3 else vectors[0]
        merged[name] = experts.base_tensor(name) + scale * vector
    return Merged(experts, merged)


def filtered(vectors: Tensor, ratio: float) -> Tensor:
    """The matrices ``[K, H, W]`` without the frequencies outside the disc."""
    mask = disc(vectors.shape[1], vectors.shape[2], ratio).to(vectors.device)
    return torch.fft.ifft2(torch.fft.fft2(vectors) * mask).real


def disc(height: int, width: int, ratio: float) -> Tensor:
    """How often each frequency counts, ``[H, W]``."""
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = (rows[:, None] ** 2 + columns**2).double().sqrt()
    small = min(height, width)
    ring = (distance <= small * ratio) & (distance >= small // 10)
    return ring.float() + (distance <= small // 10).float()
