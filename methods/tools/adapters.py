"""Merging in a space that LoRA adapters share: their factors, and TIES on stacks that are held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from methods.core.experts import Experts
from methods.tools.vectors import agreeing, total

Factors = tuple[Tensor, Tensor, float]


def adapted(experts: Experts) -> Iterator[tuple[str, list[Factors]]]:
    """Every adapted tensor with its factors ``(A [r, in], B [out, r], scale)`` of each task, float64 on the device.

    A task that does not adapt it has factors of rank 0. Raises ``NotApplicable`` for full fine-tunings.
    """
    modules = [experts.lora(task) for task in experts.tasks]
    for name in experts.names:
        factors = [each.get(name) for each in modules]
        some = next((f for f in factors if f is not None), None)
        if some is None:
            continue
        none = (some[0][:0], some[1][:, :0], 1.0)
        yield (
            name,
            [
                (a.to(experts.device, torch.float64), b.to(experts.device, torch.float64), s)
                for a, b, s in (none if f is None else f for f in factors)
            ],
        )


def joint_svd(factors: Sequence[Factors]) -> tuple[Tensor, Tensor, Tensor]:
    """``[Delta_1 .. Delta_K] = U S [V_1 .. V_K]`` of products ``Delta_k = scale_k B_k A_k``, from their factors alone.

    Returns:
        ``U [out, q]``, ``S [q]`` in descending order and ``V [K, q, in]``, q the sum of all ranks at most: what is
        beyond it has singular values of 0.
    """
    left, mixed = torch.linalg.qr(torch.cat([scale * b for _, b, scale in factors], 1))
    rights = [torch.linalg.qr(a.mT) for a, _, _ in factors]
    parts = mixed.split([len(a) for a, _, _ in factors], 1)
    core = torch.cat([part @ r.mT for part, (_, r) in zip(parts, rights, strict=True)], 1)
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    columns = vh.split([q.shape[1] for q, _ in rights], 1)
    return left @ u, s, torch.stack([v @ q.mT for v, (q, _) in zip(columns, rights, strict=True)])


def elected(parts: Sequence[Tensor], keep: float) -> list[Tensor]:
    """TIES' trim and elect of ``[K, *shape]`` stacks, all of them one vector of a task: the entries that agree, else 0.

    An entry whose trimmed vectors cancel takes the majority's sign of all entries, and where that is 0 the negative.
    """
    flat = torch.cat([p.reshape(len(p), -1) for p in parts], 1)
    rank = flat.shape[1] - int(flat.shape[1] * keep)
    if rank > 0:
        limits = flat.abs().kthvalue(rank, dim=1, keepdim=True).values
        flat = flat * (flat.abs() >= limits)
    sign = total(flat).sign()
    sign = sign.where(sign != 0, sign.sum().sign())
    kept = agreeing(flat, sign > 0).split([p[0].numel() for p in parts], 1)
    return [piece.reshape(p.shape) for piece, p in zip(kept, parts, strict=True)]


def disjoint_mean(vectors: Tensor) -> Tensor:
    """The mean over the tasks whose entry is not 0, ``[K, *shape] -> [*shape]``."""
    return vectors.sum(0) / (vectors != 0).sum(0).clamp(min=1)
