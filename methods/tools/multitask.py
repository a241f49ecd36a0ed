"""Joint training on all tasks at once: the one loop of the upper bounds, and their storage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.core.errors import MergingError
from methods.core.experts import Experts
from methods.core.merged import Merged
from methods.core.stream import Batch, Stream
from methods.tools.adaptation import adapt
from methods.tools.losses import supervised_loss

Combine = Callable[[Tensor, Tensor], Tensor]


def train(
    experts: Experts,
    stream: Stream,
    combine: Combine | None,
    *,
    steps: int,
    lr: float,
    batch_size: int,
    warmup: float,
    weight_decay: float,
    own: tuple[str, ...] = (),
    max_norm: float = 0.0,
) -> Merged:
    """Train one encoder, started from the base, on the labelled training data of all tasks under their frozen heads.

    A step draws one batch of every task and makes one AdamW update (betas 0.9, 0.999; linear warm-up, cosine decay).
    The encoder stays in the mode it is in, evaluation: dropout is off, BatchNorm keeps the base's running statistics
    (or takes the batch's, where the experts' statistics are estimated again after merging).

    Args:
        combine: ``(gradients [K, P], losses [K]) -> [P]``, rows in the order of tasks, P the shared parameters
            flattened in the order of ``experts.names``; ``None`` adds them up and never holds them apart.
        batch_size: images a task and step; ``steps * batch_size`` is each task's budget of images.
        warmup: share of the steps over which the rate rises.
        own: encoder tensors of which every task trains its own copy (without ``combine``).
        max_norm: the combined gradient is scaled down to this length; 0 leaves it.
    """
    shared, private, frozen = _parameters(experts, stream, own)
    heads = {task: experts.copy_head(task).eval().requires_grad_(False) for task in stream.tasks}
    names, sizes = list(shared), [p.numel() for p in shared.values()]
    row = {task: k for k, task in enumerate(t for t in experts.tasks if t in stream.tasks)}
    rows = torch.zeros(len(row), sum(sizes), device=experts.device) if combine else None
    losses = torch.zeros(len(row), device=experts.device)

    def loss(task: str, batch: Batch) -> Tensor:
        features = experts.forward({**frozen, **shared, **private[task]}, task, batch.inputs)
        value = supervised_loss(experts.kind(task), heads[task](features), batch.labels)
        losses[row[task]] = value.detach()
        if rows is None:
            return value
        gradients = torch.autograd.grad(value, list(shared.values()), allow_unused=True)
        for part, gradient in zip(rows[row[task]].split(sizes), gradients, strict=True):
            part.copy_(gradient.flatten()) if gradient is not None else part.zero_()
        return value.detach()

    def finish() -> None:
        if rows is not None and combine is not None:
            for name, part in zip(names, combine(rows, losses).split(sizes), strict=True):
                shared[name].grad = part.view_as(shared[name])
        if max_norm:
            nn.utils.clip_grad_norm_(shared.values(), max_norm)

    trained = [*shared.values(), *(p for task in private.values() for p in task.values())]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)
    trace = descend(stream, optimiser, loss, steps=steps, batch_size=batch_size, warmup=warmup, finish=finish)
    return layered(experts, {**frozen, **shared}, private, trace)


def descend(
    stream: Stream,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[str, Batch], Tensor],
    *,
    steps: int,
    batch_size: int,
    warmup: float,
    finish: Callable[[], None],
) -> dict[str, Any]:
    """Train on the labelled training data, one update per round over all tasks, the rate on its schedule; the trace."""
    groups = optimiser.param_groups
    peaks = [group["lr"] for group in groups]
    done = 0

    def before_the_update() -> None:
        nonlocal done
        finish()
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate(done, steps, warmup)
        done += 1

    return adapt(
        stream,
        [p for group in groups for p in group["params"]],
        loss,
        steps=steps,
        lr=peaks[0],
        batch_size=batch_size,
        joint=True,
        finish=before_the_update,
        split="train",
        text="training",
        optimiser=lambda tensors: optimiser,
    )


def products(gradients: Tensor, columns: int = 1 << 20) -> np.ndarray:
    """All products of the rows of ``gradients [K, P]``, float64 ``[K, K]``: in float32 rounding can make gradients that
    cancel a matrix that is not positive semi-definite."""
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients.device)
    for part in gradients.detach().split(columns, dim=1):
        part = part.double()
        gram.addmm_(part, part.T)
    return gram.cpu().numpy()


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at ``step`` (from 0): linear to 1 over ``warmup * steps`` steps, then a cosine to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def trainable(experts: Experts) -> list[str]:
    """The encoder's parameters among the merged tensors (running statistics are none). Raises without an encoder."""
    if experts.encoder is None:
        raise MergingError("this method trains the encoder and none was given; make the Experts with encoder=module")
    parameters = dict(experts.encoder.named_parameters())
    return [n for n in experts.names if n in parameters]


def _parameters(
    experts: Experts, stream: Stream, own: tuple[str, ...]
) -> tuple[dict[str, nn.Parameter], dict[str, dict[str, nn.Parameter]], dict[str, Tensor]]:
    """Shared parameters, each task's own, and what is not trained; all start from the base."""
    names = trainable(experts)
    shared = {n: nn.Parameter(experts.base_tensor(n).clone()) for n in names if n not in own}
    private = {t: {n: nn.Parameter(experts.base_tensor(n).clone()) for n in names if n in own} for t in stream.tasks}
    return shared, private, {n: experts.base_tensor(n) for n in experts.names if n not in set(names)}


def layered(
    experts: Experts, shared: Mapping[str, Tensor], own: Mapping[str, Mapping[str, Tensor]], trace: Mapping[str, Any]
) -> Merged:
    """One model with tensors of each task's own; what no task shares is not counted as kept."""
    if not any(own.values()):
        return Merged(experts, shared, trace=trace)
    return Merged(experts, shared, layers=own, state=shared_tensors, trace=trace)


def shared_tensors(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The shared tensors; the task's own layers are put over them."""
    return merged.shared
