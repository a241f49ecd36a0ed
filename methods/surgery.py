"""Representation Surgery: a small module per task takes the merged model's bias off its features.

Representation Surgery for Multi-Task Model Merging. Yang et al., ICML 2024, arXiv:2402.02705.

    f^_k = f - Up_k relu(Down_k f),   min over Down_k, Up_k of  E_x | f^_k(x) - f_k(x) |_1,   x unlabelled

f: features of a frozen merge (any method, ``inner``); f_k: those of expert k. Heads and encoder stay as the inner
method left them. Reference: EnnengYang/RepresentationSurgery. We follow its code: rank 16, no biases, Down from
U(-1/sqrt(d), 1/sqrt(d)) and Up zero, two batches of 16 per task and round with an Adam step after each. SyMerge's port
of it draws one batch (``batches_per_task=1``). Ours departs in that the width d is read from the features (512 there)
and that features of both frozen encoders are computed once per sample. Feature maps [B, d, H, W] are corrected at every
position. Stored per task: 2 x 16 x d numbers; the task id is needed to pick them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.api import (
    UNLABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    MethodName,
    Natural,
    NonNegative,
    Stream,
    TaskModel,
    method,
)
from methods.tools.adaptation import ExpertOutputs, adapt
from methods.tools.inner import run


@method(
    title="Representation Surgery",
    paper="arXiv:2402.02705",
    access=Access(test=UNLABELLED),
    footprint=Footprint(passes=0, teacher=True, frozen=True),
)
def surgery(
    experts: Experts,
    stream: Stream,
    *,
    inner: MethodName = "task_arithmetic",
    rank: Count = 16,
    steps: Natural = 500,
    lr: NonNegative = 1e-3,
    batch_size: Count = 16,
    batches_per_task: Count = 2,
    seed: int = 0,
) -> Merged:
    """Fit one low-rank correction of the features per task to the expert's features.

    Args:
        inner: the method whose merge is corrected, with its defaults.
        rank: width of the bottleneck.
        steps: rounds over all tasks; ``batches_per_task`` updates per task and round.
        seed: the stream's seed, and that of the initial Down.
    """
    merged = inner_merge(experts, stream, "surgery", inner)
    frozen = Frozen(experts, stream, merged, steps=steps, batch_size=batch_size, draws=batches_per_task)
    generator = torch.Generator().manual_seed(seed)
    modules = {t: Correction(frozen.width, rank, generator).to(experts.device) for t in experts.tasks}

    def loss(task: str, batch: Batch) -> Tensor:
        return F.l1_loss(modules[task](frozen.ours(task, batch)), frozen.theirs(task, batch))

    trained = [p for m in modules.values() for p in m.parameters()]
    trace = adapt(
        stream, trained, loss, steps=steps, lr=lr, batch_size=batch_size, draws=batches_per_task, split="test"
    )
    return on_top(merged, {t: m.state_dict() for t, m in modules.items()}, trace, needs_task=True)


class Correction(nn.Module):
    """``f - Up relu(Down f)`` along the feature axis (the second of maps ``[B, d, H, W]``, else the last)."""

    def __init__(self, width: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = width**-0.5
        self.down = nn.Parameter(torch.empty(rank, width).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(width, rank))

    def forward(self, features: Tensor) -> Tensor:
        rows = features_last(features)
        out = rows - F.linear(F.linear(rows, self.down.to(rows.dtype)).relu(), self.up.to(rows.dtype))
        return out.movedim(-1, 1) if features.ndim == 4 else out


def features_last(features: Tensor) -> Tensor:
    """Features with the feature axis last: maps ``[B, d, H, W]`` become ``[B, H, W, d]``."""
    return features.movedim(1, -1) if features.ndim == 4 else features


class Frozen:
    """Features of a frozen merge (``ours``) and of the experts (``theirs``) for the draws to come; ``width`` is d."""

    def __init__(self, experts: Experts, stream: Stream, merged: Merged, *, steps: int, batch_size: int, draws: int):
        def encoder(task: str) -> Callable[[Any], Tensor]:
            task_model: Any = merged.model(task)
            return lambda inputs: task_model.encoder(inputs)

        draw: Mapping[str, Any] = {"steps": steps, "batch_size": batch_size, "draws": draws, "split": "test"}
        self.ours = ExpertOutputs(experts, stream, run=encoder, **draw)
        self.theirs = ExpertOutputs(experts, stream, features=True, **draw)
        first = stream.fetch(stream.tasks[0], torch.zeros(1, dtype=torch.int64), "test").inputs
        with torch.no_grad():
            features = encoder(stream.tasks[0])(first)
        if not isinstance(features, Tensor):
            raise MergingError(
                f"the encoder gives {type(features).__name__}; features must be one tensor to be corrected"
            )
        self.width = features_last(features).shape[-1]


def inner_merge(experts: Experts, stream: Stream, name: str, inner: str) -> Merged:
    """The merge of the method ``inner``. Raises :class:`MergingError` where nothing can stand on it."""
    merged = run(inner, experts, stream, outer=name)
    if merged.wrap is not None:
        raise MergingError(
            f"inner={inner!r} puts modules of its own around the model; {name} stands on merges without "
            "any, such as inner='task_arithmetic'"
        )
    return merged


def on_top(
    inner: Merged, modules: Mapping[str, Mapping[str, Tensor]], trace: Mapping[str, Any], needs_task: bool
) -> Merged:
    """``inner`` with corrections ``{task or "all": {"down", "up"}}`` of its features."""
    extra = {f"correction/{t}/{part}": state[part] for t, state in modules.items() for part in ("down", "up")}
    return Merged(
        inner.experts,
        inner.shared,
        heads=inner.heads,
        layers=inner.layers,
        extra={**inner.extra, **extra},
        state=inner.rule,
        wrap=correct,
        declared=inner.declared,
        needs_task=inner.needs_task or needs_task,
        trace={**{f"inner_{k}": v for k, v in inner.trace.items()}, **trace},
        options=inner.options,
    )


def correct(merged: Merged, task: str, model: nn.Module) -> nn.Module:
    """The task's model with its (or the shared) correction between encoder and head."""
    owner = task if f"correction/{task}/up" in merged.extra else "all"
    parts = {part: merged.extra[f"correction/{owner}/{part}"] for part in ("down", "up")}
    rank, width = parts["down"].shape
    module = Correction(width, rank)
    module.load_state_dict(parts)
    task_model: Any = model
    return TaskModel(nn.Sequential(task_model.encoder, module), task_model.head)
