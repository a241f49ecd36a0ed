"""The one harness: a task's model over a task's split, on any device. It knows no method by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.records.precision import Precision
from benchmark.records.record import TaskResult
from benchmark.suites.bench import Meter, resolve_dtype
from methods.api import Source

PLAIN = Precision()
Advance = Callable[[int], Any]


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of a run in this precision, which does nothing where that has none."""
    if precision.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision.autocast))


def batches(source: Source, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
    """The split in order, in batches of ``batch_size``, each ``(inputs, labels)``.

    The next batch is asked for before the present one is handed out: on CUDA its copy (from pinned memory, not
    blocking) then runs beside the computation.
    """
    ahead: tuple[Any, Tensor] | None = None
    for index in torch.arange(len(source)).split(batch_size):
        inputs, labels = source[index]
        if labels is None:
            raise ValueError("evaluation needs labels and the source gave none")
        if ahead is not None:
            yield ahead
        ahead = (inputs, labels)
    if ahead is not None:
        yield ahead


def evaluate(
    model: nn.Module,
    source: Source,
    meter: Meter,
    *,
    device: torch.device,
    precision: Precision = PLAIN,
    batch_size: int = 256,
    compiled: bool = False,
    advance: Advance | None = None,
) -> TaskResult:
    """Score ``model`` on the whole split.

    Args:
        model: inputs to predictions.
        source: the split; its inputs are on the device already.
        meter: the task's metric.
        precision: of the weights and of the computation.
        compiled: run it through ``torch.compile``; worth it for large splits on CUDA only.
        advance: called with the number of samples done, for a progress bar.
    """
    model = model.to(device, resolve_dtype(precision.dtype)).eval()
    if compiled:
        model = torch.compile(model)  # type: ignore[assignment]
    with torch.inference_mode(), autocast(device, precision):
        for inputs, labels in batches(source, batch_size):
            meter.update(model(inputs), labels)
            if advance:
                advance(len(labels))
    return meter.result()
