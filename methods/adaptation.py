"""The loop of every method that adapts on a stream, and the experts' predictions it is supervised by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from methods.experts import Experts
from methods.stream import Batch, Stream

Loss = Callable[[str, Batch], Tensor]


def adapt(
    stream: Stream,
    parameters: Iterable[nn.Parameter],
    loss: Loss,
    *,
    steps: int,
    lr: float,
    batch_size: int,
    draws: int = 1,
    replace: bool = False,
    joint: bool = False,
    start: Callable[[], Any] | None = None,
    finish: Callable[[], Any] | None = None,
    text: str = "adapting",
) -> dict[str, Any]:
    """Minimise ``loss(task, batch)`` with Adam (betas 0.9, 0.999, no weight decay).

    Args:
        stream: where batches come from; owns order, progress and the time limit.
        parameters: what is trained. One that a batch does not reach keeps ``grad`` None, and Adam leaves it alone.
        steps: rounds over all tasks.
        batch_size: samples a draw; ``draws`` draws per task and round.
        replace: each draw is the start of a fresh shuffle.
        joint: ``False``: one update per draw, tasks in turn. ``True``: gradients of all draws of the round add up and
            one update follows.
        start, finish: called before the first backward pass of an update and after its last one.

    Returns:
        The trace: ``losses`` (one number per update, summed over its draws), ``adapt_seconds``, ``trainable``,
        ``updates``, ``images``.
    """
    trained = [p for p in parameters if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=lr, betas=(0.9, 0.999), weight_decay=0.0) if trained else None
    losses: list[Tensor] = []
    before, began = stream.drawn, time.perf_counter()

    def update(batches: Iterable[tuple[str, Batch]]) -> None:
        if optimiser is None:
            return
        optimiser.zero_grad(set_to_none=True)
        if start:
            start()
        total = torch.zeros((), device=stream.device)
        for task, batch in batches:
            value = loss(task, batch)
            if value.requires_grad:
                value.backward()
            total += value.detach()
        if finish:
            finish()
        optimiser.step()
        losses.append(total)

    for tasks in stream.rounds(steps, text):
        drawn = ((task, stream.draw(task, batch_size, replace)) for task in tasks for _ in range(draws))
        if joint:
            update(drawn)
        else:
            for pair in drawn:
                update([pair])
    return {
        "losses": torch.stack(losses).cpu() if losses else torch.zeros(0),
        "adapt_seconds": time.perf_counter() - began,
        "trainable": sum(p.numel() for p in trained),
        "updates": len(losses),
        "images": stream.drawn - before,
    }


class ExpertOutputs:
    """What the experts say of the samples a stream will give: computed once per sample, one expert at a time.

    Args:
        features: ``True`` keeps the encoder's features, ``False`` the head's outputs.
        steps, batch_size, draws, replace: the draws to come, as :func:`adapt` will make them.
    """

    def __init__(
        self,
        experts: Experts,
        stream: Stream,
        *,
        steps: int,
        batch_size: int,
        draws: int = 1,
        replace: bool = False,
        features: bool = False,
        chunk: int = 256,
    ) -> None:
        self._row: dict[str, Tensor] = {}
        self._out: dict[str, Tensor] = {}
        for task in stream.tasks:
            index = (
                stream.upcoming(task, steps * draws, batch_size, replace)
                if steps
                else torch.zeros(0, dtype=torch.int64)
            )
            if not len(index):
                continue
            stream.check_time()
            state = experts.state(task)
            head = nn.Identity() if features else experts.copy_head(task).eval()
            with torch.no_grad():
                rows = [
                    head(experts.forward(state, task, stream.fetch(task, part).inputs)).float()
                    for part in index.split(chunk)
                ]
            self._out[task] = torch.cat(rows)
            self._row[task] = torch.full((int(index.max()) + 1,), -1, dtype=torch.int64)
            self._row[task][index] = torch.arange(len(index))

    def __call__(self, task: str, batch: Batch) -> Tensor:
        """The expert's outputs for the batch, ``[B, ...]`` float32 on the stream's device."""
        rows = self._row[task][batch.index]
        return self._out[task][rows.to(self._out[task].device)]


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the softmax of ``logits`` ``[B, C]``, in nats, per sample ``[B]``."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
