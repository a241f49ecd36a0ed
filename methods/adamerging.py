"""AdaMerging and AdaMerging++: coefficients learned by entropy minimisation on unlabelled test samples.

AdaMerging: Adaptive Model Merging for Multi-Task Learning. Yang et al., ICLR 2024, arXiv:2310.02575.

    min over lambda of  sum_k  E_x H( softmax(h_k(f(x; theta0 + sum_k lambda_lk tau_k,l))) )

Reference: EnnengYang/AdaMerging src/main_{layer,task}_wise_adamerging{,pp}.py. We follow the code where it departs
from the paper's text: two batches of 16 per task and step (its loop breaks after the second), all losses summed before
one Adam step, lambda clamped to [0, 1] in the merge, started at 0.3. AdaMerging++ (trim=True) replaces each task vector
by its TIES-trimmed entries that agree with the elected sign. We do not reproduce the gradients the code stores for all
K + 1 models; they are never used.

Batches: ``adamerging`` goes through each task's samples without replacement, as the paper's text reads and as SyMerge's
code draws, so that methods which adapt see the same images. The code makes its loaders anew in every step, so that a
step's batches are the first of a fresh shuffle, and over steps samples are drawn with replacement:
``adamerging_fresh``.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor

from methods.api import (
    UNLABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    Natural,
    NonNegative,
    Share,
    Stream,
    method,
)
from methods.core.stream import pick
from methods.tools.adaptation import adapt_merge, entropy
from methods.tools.coefficients import LayerwiseMerge
from methods.tools.vectors import elect, fraction


@method(
    title="AdaMerging",
    paper="arXiv:2310.02575",
    access=Access(test=UNLABELLED),
    needs=("classes",),
    footprint=Footprint(vectors=True),
)
def adamerging(
    experts: Experts,
    stream: Stream,
    *,
    granularity: Literal["layer", "task"] = "layer",
    steps: Natural = 500,
    lr: NonNegative = 1e-3,
    prior: float = 0.3,
    batch_size: Count = 16,
    batches_per_task: Count = 2,
    trim: bool = False,
    keep: Share = 0.2,
    clamp: bool = True,
    seed: int = 0,
) -> Merged:
    """Learn one coefficient per task and tensor by minimising the entropy of the merged model's predictions.

    Args:
        granularity: ``"layer"`` (one coefficient per tensor and task) or ``"task"`` (one per task).
        steps: Adam steps; each sees ``batches_per_task`` batches of ``batch_size`` of every task.
        trim: AdaMerging++; ``keep`` is the share of each task vector that survives.
        clamp: keep coefficients in [0, 1].
        seed: the stream's seed.
    """
    vectors = elect(experts, fraction("keep", keep), lambda agreeing, sign: agreeing) if trim else None
    merge = LayerwiseMerge(experts, prior=prior, granularity=granularity, clamp=clamp, vectors=vectors)
    trace = adapt_merge(
        experts,
        stream,
        merge,
        lambda task, outputs, batch: class_entropy(outputs),
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        draws=batches_per_task,
    )
    return Merged(experts, merge.merged(), trace={**trace, **coefficient_trace(merge)})


@method(
    title="AdaMerging, drawn as in its code",
    paper="arXiv:2310.02575",
    access=Access(test=UNLABELLED),
    needs=("classes",),
    footprint=Footprint(vectors=True),
)
def adamerging_fresh(
    experts: Experts,
    stream: Stream,
    *,
    granularity: Literal["layer", "task"] = "layer",
    steps: Natural = 500,
    lr: NonNegative = 1e-3,
    prior: float = 0.3,
    batch_size: Count = 16,
    batches_per_task: Count = 2,
    trim: bool = False,
    keep: Share = 0.2,
    clamp: bool = True,
    seed: int = 0,
) -> Merged:
    """AdaMerging whose batches are the first of a fresh shuffle in every step; keywords as ``adamerging``."""
    return adamerging(
        experts,
        cast(Stream, FreshStream(stream, batches_per_task)),
        granularity=granularity,
        steps=steps,
        lr=lr,
        prior=prior,
        batch_size=batch_size,
        batches_per_task=batches_per_task,
        trim=trim,
        keep=keep,
        clamp=clamp,
    )


class FreshStream:
    """A stream of which every ``count`` draws of a task are the first batches of a fresh shuffle."""

    def __init__(self, stream: Stream, count: int) -> None:
        self._stream, self._count = stream, count
        self._waiting: dict[str, list[Batch]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def draw(self, task: str, n: int, replace: bool = False, split: str | None = None) -> Batch:
        """The next ``n`` samples of the task's present shuffle."""
        waiting = self._waiting.setdefault(task, [])
        if not waiting:
            whole = self._stream.draw(task, n * self._count, True, split)
            waiting += [part(whole, slice(i, i + n)) for i in range(0, len(whole.index), n)]
        return waiting.pop(0)


def part(batch: Batch, rows: slice) -> Batch:
    """Some of a batch's samples."""
    labels = None if batch.labels is None else batch.labels[rows]
    return Batch(pick(batch.inputs, rows), batch.index[rows], labels)


def class_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions; classes are the second dimension where there are more than two."""
    logits = logits.float()
    return entropy(logits.movedim(1, -1) if logits.ndim > 2 else logits).mean()


def coefficient_trace(merge: Any) -> dict[str, object]:
    """Effective and raw coefficients ``[L, K]`` and the names of their rows, for a trace.

    ``merge`` is a :class:`LayerwiseMerge`, or another module with its ``coefficients()``, ``raw`` and ``names``.
    """
    effective = merge.coefficients().detach().cpu()
    rows = list(merge.names) if len(effective) > 1 else ["all"]
    return {"coefficients": effective, "raw_coefficients": merge.raw.detach().cpu(), "coefficient_rows": rows}
