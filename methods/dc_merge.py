"""DC-Merge: task vectors are aligned in one orthogonal space, merged there sparsely, and projected back.

DC-Merge: Improving Model Merging with Directional Consistency. Zhang, Zhou, Luo, Di, Zhang, Wei, CVPR 2026,
arXiv:2603.06242.

    theta = theta0 + scale * P(U) (B * M) P(V)^T,   P the polar factor,  U, V the r leading directions of every task
    M = mean_k of the [M_k]_keep of the elected sign,   M_k = P(U)^T U_k S_k V_k^T P(V),   B a block for each task

Reference: Tobeginwith/DC-Merge, whose two rules we follow. Full fine-tuning (smoothing=None; DC_utils.py): r = int(m/K)
of the m = min(rows, columns) directions, singular values as they are (the smoothing of the abstract is absent there, as
the paper's appendix says); 2-D tensors but text projections (embeddings and the output projection included), every
other tensor the mean, the coefficient on all. LoRA (smoothing="average" or "linear"; merging_functions.py): r is the
adapters' rank (16 in the code), the first r singular values all become their mean, or fall linearly from
min(ratio, s_1 / s_r) to 1 with the same sum; adapted matrices alone. keep is a literal in the code: of the m^2 (or
(K r)^2) entries of M_k the int(keep m^2) largest stay, at least one, and all that equal the last of them. An entry is 0
where the tasks' kept ones cancel.
Ours departs where the code lets arbitrary directions take part: those whose singular value is rounding noise (zero
task vectors, adapters of a lower rank than they have room for) are left out. The paper's search of the coefficient is
TSV-M's for full fine-tuning; 0.1 to 3.0 for LoRA as well. One model is kept.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, Share, method
from methods.tools.spectral import Triplets, leading, merge_matrices, orthogonal, significant, task_svd
from methods.tools.vectors import choice, fraction, total


@method(
    title="DC-Merge",
    paper="arXiv:2603.06242",
    grids={"scale": (0.1, 3.0, 30)},
    needs=("matrices",),
    footprint=Footprint(local=True, tensor=(8, 2.3), decompositions=(3, 2)),
)
def dc_merge(
    experts: Experts,
    *,
    scale: float = 1.0,
    keep: Share = 0.001,
    smoothing: Literal["average", "linear", None] = None,
    ratio: Annotated[float, "[1, inf)"] = 5.0,
) -> Merged:
    """Merge the tasks' leading directions in a space that covers all of them.

    Args:
        scale: coefficient of the merged vector, on all tensors.
        keep: share of each task's entries in that space that stays, in (0, 1].
        smoothing: of LoRA adapters' singular values; the paper's better one is "average" on ViT-B/16 and ViT-L/14,
            "linear" on ViT-B/32. ``None``: the rule for full fine-tuning.
        ratio: of the first to the last singular value at most, for ``"linear"``.

    Raises:
        NotApplicable: ``smoothing`` is asked for and these experts are no LoRA adapters.
    """
    fraction("keep", keep)
    if smoothing is None:
        return Merged(experts, merge_matrices(experts, scale, lambda name: aligned(experts, name, keep)))
    choice("smoothing", smoothing, ("average", "linear"))
    if not ratio >= 1:
        raise MergingError(f"ratio is {ratio!r}; expected a number of at least 1, such as ratio=5")
    adapters = [experts.lora(task) for task in experts.tasks]
    merged = {}
    for name in (n for n in experts.names if any(n in modules for modules in adapters)):
        base = experts.base_tensor(name)
        vectors = experts.task_vectors(name).flatten(2)
        ranks = [len(modules[name][0]) if name in modules else 0 for modules in adapters]
        if sum(ranks) > min(vectors.shape[1:]):
            raise MergingError(
                f"dc_merge with smoothing={smoothing!r}: the adapters of {name} have {sum(ranks)} directions together "
                f"and its matrix {min(vectors.shape[1:])}; expected no more, so take fewer tasks, or smoothing=none"
            )
        parts = [smoothed(leading(v, r), smoothing, ratio) for v, r in zip(vectors, ranks, strict=True)]
        merged[name] = base + scale * merge_parts(parts, sum(ranks) ** 2, keep).view_as(base)
    return Merged(experts, merged)


def aligned(experts: Experts, name: str, keep: float) -> Tensor:
    """The merged vector of one matrix, ``[m, n]``."""
    base, parts = experts.base_tensor(name), []
    small = min(base.shape)
    for task in experts.tasks:
        vector = experts.task_vector(name, task, base)
        parts.append(resolved(task_svd(experts, name, task, small // len(experts), vector=vector)))
    return merge_parts(parts, small * small, keep)


def resolved(triplets: Triplets) -> Triplets:
    """Those triplets whose singular value is more than rounding noise."""
    u, s, vh = triplets
    mask = significant(s)
    return u[:, mask], s[mask], vh[mask]


def smoothed(triplets: Triplets, smoothing: str, ratio: float) -> Triplets:
    """Triplets whose singular values are all their mean, or fall linearly with the same sum."""
    u, s, vh = resolved(triplets)
    if not len(s):
        return u, s, vh
    first = min(ratio, float(s[0] / s[-1])) if smoothing == "linear" else 1.0
    weights = torch.linspace(first, 1.0, len(s), device=s.device)
    return u, s.sum() * (weights / weights.sum()), vh


def merge_parts(parts: list[Triplets], entries: int, keep: float) -> Tensor:
    """The merge of the tasks' triplets, ``[m, n]``; ``entries`` is what ``keep`` is a share of."""
    if not sum(len(s) for _, s, _ in parts):
        return parts[0][0].new_zeros(len(parts[0][0]), parts[0][2].shape[1])
    left = orthogonal(torch.cat([u for u, _, _ in parts], 1))
    right = orthogonal(torch.cat([vh for _, _, vh in parts], 0))
    cores = torch.stack([sparse((left.T @ u * s) @ (vh @ right.T), entries, keep) for u, s, vh in parts])
    merged, start = elected_mean(cores), 0
    blocks = torch.zeros_like(merged)
    for _, s, _ in parts:
        inside = slice(start, start + len(s))
        blocks[inside, inside] = merged[inside, inside]
        start += len(s)
    return left @ blocks @ right


def sparse(core: Tensor, entries: int, keep: float) -> Tensor:
    """``core`` with its ``int(keep * entries)`` largest entries (at least one, and all equal to the last) alone."""
    if not core.numel():
        return core
    size = core.abs()
    count = min(max(1, int(keep * entries)), size.numel())
    return core * (size >= size.flatten().topk(count).values[-1])


def elected_mean(cores: Tensor) -> Tensor:
    """The mean over those of ``cores [K, *shape]`` that have the sign of their sum; 0 where that is 0."""
    summed = total(cores)
    agree = cores.sign() == summed.sign()
    return (cores * agree).sum(0).div_(agree.sum(0).clamp_(min=1)).masked_fill_(summed == 0, 0.0)
