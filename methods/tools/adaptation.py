"""The loop of every method that adapts on a stream, and the experts' predictions it is supervised by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from methods.core.errors import MergingError
from methods.core.experts import Experts
from methods.core.stream import Batch, Stream
from methods.tools.coefficients import Leaves

Loss = Callable[[str, Batch], Tensor]
# Numbers of the inputs that are run together without gradients: 256 images of 3 x 224 x 224.
AT_ONCE = 256 * 3 * 224 * 224


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
    split: str | None = None,
    optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> dict[str, Any]:
    """Minimise ``loss(task, batch)`` with Adam (betas 0.9, 0.999, no weight decay), or the ``optimiser`` given.

    Args:
        stream: where batches come from; owns order, progress and the time limit.
        parameters: what is trained. One that a batch does not reach keeps ``grad`` None, and Adam leaves it alone.
        steps: rounds over all tasks.
        batch_size: samples a draw; ``draws`` draws per task and round.
        replace: each draw is the start of a fresh shuffle.
        joint: ``False``: one update per draw, tasks in turn. ``True``: gradients of all draws of the round add up and
            one update follows.
        start, finish: called before the first backward pass of an update and after its last one.
        split: the split that is drawn from; needed where the access is to several.
        optimiser: makes the optimiser from the trained parameters.

    A loss that has been differentiated already (it requires no gradient) is only recorded.

    Returns:
        The trace: ``losses`` (one number per update, summed over its draws), ``adapt_seconds``, ``trainable``,
        ``updates``, ``images``.
    """
    if steps < 0:
        raise MergingError(f"steps is {steps!r}; expected 0 or more")
    if draws < 1:
        raise MergingError(f"batches_per_task is {draws!r}; expected at least 1")
    trained = [p for p in parameters if p.requires_grad]
    make = optimiser or (lambda tensors: torch.optim.Adam(tensors, lr=lr, betas=(0.9, 0.999), weight_decay=0.0))
    descent = make(trained) if trained else None
    losses: list[Tensor] = []
    before, began = stream.drawn, time.perf_counter()

    def update(batches: Iterable[tuple[str, Batch]]) -> None:
        if descent is None:
            return
        descent.zero_grad(set_to_none=True)
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
        descent.step()
        losses.append(total)

    for tasks in stream.rounds(steps, text):
        drawn = ((task, stream.draw(task, batch_size, replace, split)) for task in tasks for _ in range(draws))
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


def adapt_merge(
    experts: Experts,
    stream: Stream,
    merge: nn.Module,
    criterion: Callable[[str, Tensor, Batch], Tensor],
    **keywords: Any,
) -> dict[str, Any]:
    """Train the coefficients of ``merge`` (a call gives the merged tensors) through frozen heads; returns the trace.

    All draws of a round join in one update, and only one backward pass goes through the merge.

    Args:
        criterion: ``(task, the head's outputs, batch) -> scalar``.
        keywords: as :func:`adapt`: steps, lr, batch_size, draws, split.
    """
    heads = {task: experts.copy_head(task).eval().requires_grad_(False) for task in experts.tasks}
    leaves: list[Leaves] = []

    def loss(task: str, batch: Batch) -> Tensor:
        return criterion(task, heads[task](experts.forward(leaves[-1].state, task, batch.inputs)), batch)

    def start() -> None:
        leaves.append(Leaves(merge()))

    def finish() -> None:
        leaves.pop().backward()

    return adapt(stream, merge.parameters(), loss, joint=True, start=start, finish=finish, **keywords)


class ExpertOutputs:
    """What the experts say of the samples a stream will give: computed once per sample, one expert at a time.

    Args:
        features: ``True`` keeps the encoder's features, ``False`` the head's outputs.
        steps, batch_size, draws, replace, split: the draws to come, as :func:`adapt` will make them.
        run: ``run(task)`` gives the function from inputs to outputs ``[B, ...]`` to use in place of the expert's.
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
        split: str | None = None,
        run: Callable[[str], Callable[[Any], Tensor]] | None = None,
    ) -> None:
        self._row: dict[str, Tensor] = {}
        self._out: dict[str, Tensor] = {}
        for task in stream.tasks:
            index = (
                stream.upcoming(task, steps * draws, batch_size, replace, split)
                if steps * draws > 0
                else torch.zeros(0, dtype=torch.int64)
            )
            if not len(index):
                continue
            stream.check_time()
            outputs = run(task) if run else _expert(experts, task, features)
            with torch.no_grad():
                size = min(chunk, _at_once(stream.fetch(task, index[:1], split).inputs))
                rows = [outputs(stream.fetch(task, part, split).inputs).float() for part in index.split(size)]
            self._out[task] = torch.cat(rows)
            self._row[task] = torch.full((int(index.max()) + 1,), -1, dtype=torch.int64)
            self._row[task][index] = torch.arange(len(index))

    def __call__(self, task: str, batch: Batch) -> Tensor:
        """The expert's outputs for the batch, ``[B, ...]`` float32 on the stream's device."""
        rows = self._row[task][batch.index]
        return self._out[task][rows.to(self._out[task].device)]


def _at_once(inputs: Any) -> int:
    """How many samples like this one run together: large images take large activations."""
    return max(1, AT_ONCE // max(1, inputs.numel())) if isinstance(inputs, Tensor) else AT_ONCE


def _expert(experts: Experts, task: str, features: bool) -> Callable[[Any], Tensor]:
    state = experts.state(task)
    head = nn.Identity() if features else experts.copy_head(task).eval()
    return lambda inputs: head(experts.forward(state, task, inputs))


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the softmax of ``logits`` ``[B, C]``, in nats, per sample ``[B]``."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
