"""Localize-and-Stitch: each task's few most important entries are found, and only they are merged.

Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic. He, Hu, Lin, Zhang, Zhao, TMLR 2024,
arXiv:2408.13656.

    theta = theta0 + sum_k m_k tau_k / sum_k m_k,    0 where no mask is
    dataless:  m_k = [ |tau_k| > the int(keep N)-th largest of the whole task vector ]
    trained:   m_k = [ p_k > 0 ],   p_k = +-bias by that mask at first,  then in each epoch
               p_k <- p_k - s' (lr tau_k sum_batches dL/dtheta (theta0 + s tau_k) - l1 sign p_k),   s = sigmoid(p_k)

Reference: uiuctml/Localize-and-Stitch localize_utils.py, which we follow: the comparison is strict, so that one entry
fewer stays than keep says; the gradients of an epoch's batches are summed, not averaged; the l1 term pushes p away from
0, the opposite of a penalty. Text-side embeddings, projection, scale and last norm stay the base's (of the paper's
CLIP: positional_embedding outside the visual tower). keep=0.05 is the paper's without data; its trained masks start
from 1e-5. The script released for masks without data reads a keyword that it does not set: ours does what it means.
Masks are dropped after merging: one model is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from methods.api import (
    LABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    Share,
    Stream,
    method,
    pack_mask,
    unpack_mask,
)
from methods.tools.activations import samples
from methods.tools.losses import supervised_loss
from methods.tools.vectors import fraction, magnitudes, order_statistic

#: What stays the base's, beside the text tower's positional embedding.
FROZEN = ("text_projection", "logit_scale", "token_embedding", "ln_final")


@method(
    title="Localize-and-Stitch",
    paper="arXiv:2408.13656",
    access_if={("labels", True): Access(train=LABELLED)},
    footprint=Footprint(tensor=(1.6, 2.3), passes=3, steps="epochs", adapting=(5, 0)),
)
def localize_stitch(
    experts: Experts,
    stream: Stream | None = None,
    *,
    keep: Share = 0.05,
    labels: bool = False,
    examples: Count = 64,
    epochs: Natural = 10,
    lr: NonNegative = 1e7,
    l1: NonNegative = 1.0,
    bias: Annotated[float, "(0, inf)"] = 5.0,
    batch_size: Count = 128,
) -> Merged:
    """Merge the entries that each task's mask localizes, the mean where masks meet.

    Args:
        keep: share of each task vector's entries that is localized, in (0, 1].
        labels: train the masks on labelled training samples, ``examples`` of each task.
        epochs: over these samples, one update each.
        lr: of the gradient of the loss.
        l1: of the term in the mask's sign.
        bias: where the masks' logits start.
        batch_size: samples of one backward pass.
    """
    fraction("keep", keep)
    names = tuple(n for n in experts.names if merges(n))
    limits = {task: limit(experts, names, task, keep) for task in experts.tasks}
    masks: dict[str, dict[str, Tensor]] = {}
    if labels:
        assert stream is not None
        for task in experts.tasks:
            batches = list(samples(stream, task, examples, batch_size))
            logits = train(experts, names, task, batches, limits[task], epochs=epochs, lr=lr, l1=l1, bias=bias)
            masks[task] = {n: pack_mask(p > 0) for n, p in logits.items()}
    merged = {}
    for name in names:
        vectors = experts.task_vectors(name)
        if labels:
            chosen = [
                unpack_mask(masks[task].pop(name), vectors.shape[1:]).to(vectors.device) for task in experts.tasks
            ]
        else:
            chosen = [v.abs() > limits[task] for task, v in zip(experts.tasks, vectors, strict=True)]
        mask = torch.stack(chosen)
        merged[name] = experts.base_tensor(name) + (vectors * mask).sum(0) / mask.sum(0).clamp(min=1)
    return Merged(experts, merged)


def merges(name: str) -> bool:
    """Whether a tensor takes part."""
    text = "positional_embedding" in name and "visual" not in name
    return not text and not any(each in name for each in FROZEN)


def limit(experts: Experts, names: Sequence[str], task: str, keep: float) -> float:
    """The least of the ``int(keep N)`` largest magnitudes of a whole task vector."""
    parts = list(magnitudes(experts, task, names))
    total = sum(p.numel() for p in parts)
    count = int(keep * total)
    if not count:
        raise MergingError(f"keep is {keep!r}, less than one of {total} entries; expected more, such as keep=0.05")
    return order_statistic(parts, total - count + 1)


def train(
    experts: Experts,
    names: Sequence[str],
    task: str,
    batches: Sequence[Batch],
    threshold: float,
    *,
    epochs: int,
    lr: float,
    l1: float,
    bias: float,
) -> dict[str, Tensor]:
    """The logits ``{name: [*shape]}`` of one task's masks, trained on labelled batches."""
    base = experts.state()
    vectors = {n: experts.task_vector(n, task, base[n]) for n in names}
    logits = {n: torch.where(v.abs() > threshold, bias, -bias) for n, v in vectors.items()}
    head = experts.copy_head(task).eval().requires_grad_(False)
    for _ in range(epochs):
        state = {n: (base[n] + logits[n].sigmoid() * vectors[n]).requires_grad_(True) for n in names}
        for batch in batches:
            outputs = head(experts.forward({**base, **state}, task, batch.inputs))
            supervised_loss(experts.kind(task), outputs, batch.labels).backward()
        for name, weight in state.items():
            share = logits[name].sigmoid()
            gradient = 0.0 if weight.grad is None else lr * weight.grad * vectors[name]
            sign = torch.where(logits[name] > 0, 1.0, -1.0)
            logits[name] -= share * (1 - share) * (gradient - l1 * sign)
    return logits
