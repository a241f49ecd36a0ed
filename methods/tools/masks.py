"""Task models as one shared vector under a task's mask: ``theta_k = theta0 + factor_k * mask_k * vector``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.core.experts import Experts
from methods.core.merged import Merged, pack_mask, unpack_mask


def room(experts: Experts, names: Sequence[str], tasks: Sequence[str]) -> dict[str, Tensor]:
    """Packed masks of these tensors and tasks, to be filled, under the names by which :func:`masked_tensor` reads them.

    Allocated ahead: small arrays that stay among large ones that come and go would leave the heap in pieces.
    """
    sizes = {n: (experts.base[n].numel() + 7) // 8 for n in names}
    return {f"mask/{task}/{n}": torch.empty(size, dtype=torch.uint8) for n, size in sizes.items() for task in tasks}


def fill(stored: Mapping[str, Tensor], name: str, tasks: Sequence[str], masks: Tensor) -> None:
    """Pack the masks of one tensor, bool ``[K, *shape]``, into their room."""
    for task, mask in zip(tasks, masks, strict=True):
        stored[f"mask/{task}/{name}"].copy_(pack_mask(mask))


def masked(experts: Experts, stored: Mapping[str, Tensor], factors: Tensor | None = None) -> Merged:
    """The merge of vectors ``vector/NAME`` and packed masks, with one factor per task ``[K]`` (default 1).

    Kept beside one model: base or vector (one more model), one bit per task and entry, and the factors.
    """
    extra = dict(stored) if factors is None else {**stored, "factors": factors}
    return Merged(experts, extra=extra, state=masked_state, declared=experts.nbytes(), needs_task=True)


def masked_state(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The encoder of ``task``."""
    experts = merged.experts
    factor = float(merged.extra["factors"][experts.tasks.index(task)]) if "factors" in merged.extra else 1.0
    return {n: masked_tensor(merged, task, n, f"vector/{n}", factor) for n in experts.names}


def masked_tensor(merged: Merged, task: str, name: str, vector: str, factor: float) -> Tensor:
    """``base[name] + factor * mask * merged.extra[vector]``."""
    base = merged.experts.base_tensor(name)
    mask = unpack_mask(merged.extra[f"mask/{task}/{name}"], base.shape).to(base.device)
    return base + (factor * merged.extra[vector].to(base.device)).masked_fill_(~mask, 0.0)
