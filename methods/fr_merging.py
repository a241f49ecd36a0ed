"""FR-Merging and FREE-Merging: task vectors filtered in the frequency domain, and what each task adds to their merge.

FREE-Merging: Fourier Transform for Efficient Model Merging. Zheng and Wang, ICCV 2025, arXiv:2411.16815.

    FR-Merging:    theta = theta0 + scale * sum_k a_k F^-1(m * F(tau_k)),    a_k = max_j mean|tau_j| / mean|tau_k|
    FREE-Merging:  theta_k = theta0 + scale * (r_k e_k where e_k is not 0, else scale * sum_j F^-1(m * F(tau_j)))
    m = [d <= ratio * min(H, W)] [d >= min(H, W) // 10] + [d <= min(H, W) // 10],  d the distance from (H // 2, W // 2)
    e_k: of each row of tau_k the int(keep n) largest;   r_k = -log10(keep) mean|e_k| / (keep mean|F^-1(m * F(tau_k))|)

Reference: Zhengsh123/FREE-Merging merge_vit/src, which we follow where it surprises: the transform is not shifted, so
that the disc kept is around the highest frequencies (the paper cuts the low ones), and frequencies at the inner radius
count twice; of the biases of attention and MLP only the first task's count, so that the order of tasks matters; every
tensor that is no part of attention or MLP (elsewhere: no part of a numbered block, or a norm) stays the base's. FR's
alignment is measured after the filter, tensor by tensor. FREE's coefficient enters the shared matrices twice; biases
have it once and no r_k; r_k is a ratio of means over all tensors of their mean magnitudes, those that stay the base's
and are not filtered among them; rows of fewer than 1 / keep entries have no expert. Defaults are the code's for 8 tasks
(FR without alignment has 0.15 for 30, FREE 1.0). FREE's router, trained to name a sample's task, is left out: the task
id is in its place.
Ours departs where the alignment divides by 0: a tensor that some tasks changed and others did not is refused.
FR keeps one model; FREE one, and for each task positions and values of its expert.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, NonNegative, Share, method
from methods.tools.selection import attention_and_mlp
from methods.tools.vectors import fraction


@method(
    title="FR-Merging", paper="arXiv:2411.16815", needs=("matrices",), footprint=Footprint(local=True, tensor=(0, 5))
)
def fr_merging(experts: Experts, *, ratio: NonNegative = 0.7, align: bool = True, scale: float = 0.7) -> Merged:
    """Filter the task vectors of attention and MLP, align their sizes, and add them to the base.

    Args:
        ratio: radius of the frequencies that stay, of the shorter side.
        align: bring each task's tensor to the largest mean magnitude of all tasks.
        scale: coefficient of the sum.

    Raises:
        MergingError: a task left a tensor alone that others changed, and ``align`` has nothing to scale.
    """
    _check(ratio)
    merged = {}
    for name in attention_and_mlp(experts):
        vectors = filtered(experts.task_vectors(name), ratio)
        if align and bool(vectors.any()):
            sizes = vectors.abs().reshape(len(vectors), -1).mean(1)
            if not bool(sizes.all()):
                idle = ", ".join(t for t, size in zip(experts.tasks, sizes, strict=True) if not float(size))
                raise MergingError(
                    f"the task vector of {idle} is 0 in {name}, and fr_merging would divide by its size; "
                    "expected experts that changed the same tensors, or align=false"
                )
            vectors = vectors * (sizes.max() / sizes).view(-1, *[1] * (vectors.ndim - 1))
        merged[name] = experts.base_tensor(name) + scale * summed(vectors)
    return Merged(experts, merged)


@method(
    title="FREE-Merging",
    paper="arXiv:2411.16815",
    needs=("matrices",),
    footprint=Footprint(serves=(2, 0), tensor=(0, 7)),
)
def free_merging(experts: Experts, *, ratio: NonNegative = 0.7, keep: Share = 0.02, scale: float = 0.5) -> Merged:
    """The filtered merge, and over it the largest entries of the task at hand, rescaled.

    Args:
        ratio: radius of the frequencies that stay, of the shorter side.
        keep: share of each row that a task's expert has, in (0, 1]; the code's 0.01 or 0.02.
        scale: coefficient of the expert, and twice of the shared part.
    """
    _check(ratio)
    fraction("keep", keep)
    treated = set(attention_and_mlp(experts))
    sizes = torch.zeros(2, len(experts), dtype=torch.float64)
    for name in experts.names:
        vectors = experts.task_vectors(name)
        if vectors[0].numel():
            both = largest(vectors, keep)[1], filtered(vectors, ratio) if name in treated else vectors
            means = [each.double().abs().reshape(len(vectors), -1).sum(1) / vectors[0].numel() for each in both]
            sizes += torch.stack(means).cpu()
    rescalers = (-math.log10(keep) * sizes[0] / (keep * sizes[1])).where(sizes[1] > 0, 0.0)
    shared, extra = {}, {}
    for name in treated:
        vectors, base = experts.task_vectors(name), experts.base_tensor(name)
        matrices = vectors.ndim == 3
        shared[name] = base + scale * (scale if matrices else 1.0) * summed(filtered(vectors, ratio))
        places, values = largest(vectors, keep)
        for k, task in enumerate(experts.tasks):
            value = values[k] * (float(rescalers[k]) if matrices else 1.0)
            own = base.reshape(-1)[places[k]] + scale * value
            extra[f"{task}/place/{name}"] = places[k].to(torch.int32)
            extra[f"{task}/value/{name}"] = own.where(value != 0, shared[name].reshape(-1)[places[k]])
    return Merged(
        experts, shared, extra=extra, state=with_expert, needs_task=True, trace={"rescalers": rescalers.float()}
    )


def with_expert(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The shared weights with the task's own entries in their places."""
    state = {}
    for name, value in merged.shared.items():
        place = merged.extra[f"{task}/place/{name}"].to(value.device, torch.int64)
        own = merged.extra[f"{task}/value/{name}"].to(value.device)
        state[name] = value.reshape(-1).scatter(0, place, own).view_as(value)
    return state


def largest(vectors: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Where the ``int(keep n)`` largest magnitudes of each row of ``[K, *shape]`` stand, and their values, ``[K, c]``.

    Places count through a task's flat tensor.
    """
    rows = vectors.reshape(len(vectors), -1, vectors.shape[-1] if vectors.ndim > 1 else 1)
    index = rows.abs().topk(int(rows.shape[-1] * keep), dim=-1).indices
    first = torch.arange(rows.shape[1], device=rows.device)[:, None] * rows.shape[-1]
    return (index + first).flatten(1), rows.gather(-1, index).flatten(1)


def summed(vectors: Tensor) -> Tensor:
    """The sum over tasks of matrices; of anything else the first task's."""
    return vectors.sum(0) if vectors.ndim == 3 else vectors[0]


def filtered(vectors: Tensor, ratio: float) -> Tensor:
    """The matrices ``[K, H, W]`` without the frequencies outside the disc; anything else as it is."""
    if vectors.ndim != 3:
        return vectors
    mask = disc(vectors.shape[1], vectors.shape[2], ratio).to(vectors.device)
    return torch.fft.ifft2(torch.fft.fft2(vectors) * mask).real


def disc(height: int, width: int, ratio: float) -> Tensor:
    """How often each frequency counts, ``[H, W]``."""
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = (rows[:, None] ** 2 + columns**2).double().sqrt()
    small = min(height, width)
    ring = (distance <= small * ratio) & (distance >= small // 10)
    return ring.float() + (distance <= small // 10).float()


def _check(ratio: float) -> None:
    if not ratio >= 0:
        raise MergingError(f"ratio is {ratio!r}; expected a number, 0 or more, such as ratio=0.7")
