"""SuperMerge: coefficients bounded by tanh, trained on a few labelled samples.

SuperMerge: An Approach For Gradient-Based Model Merging. Yang et al., arXiv:2412.10416.

    theta_l = theta0_l + sum_k tanh(w_kl) tau_kl,      min over w of  sum_k E_(x,y) L( h_k(f(x; theta)), y )

There is no published code. What the paper leaves open, and our choice: "layer" is one tensor (``granularity``); w
starts so that every coefficient is 1/K, the average of the experts (w = 0 would start at the base); Adam at
AdaMerging's rate 1e-3, 500 steps, each on 16 labelled validation samples of every task; heads frozen, each task its
own. The paper's hierarchical form (merge groups, then merge the results, to save memory) is left out. Every floating
tensor is merged; one model is stored.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from methods.adamerging import coefficient_trace
from methods.api import (
    LABELLED,
    Access,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    Stream,
    method,
)
from methods.core.blocks import block_of
from methods.tools.adaptation import adapt_merge
from methods.tools.coefficients import LayerwiseMerge
from methods.tools.losses import supervised_loss
from methods.tools.vectors import choice


@method(title="SuperMerge", paper="arXiv:2412.10416", access=Access(val=LABELLED), footprint=Footprint(vectors=True))
def supermerge(
    experts: Experts,
    stream: Stream,
    *,
    steps: Natural = 500,
    lr: NonNegative = 1e-3,
    granularity: Literal["tensor", "block", "task"] = "tensor",
    prior: Annotated[float, "(-1, 1)"] | None = None,
    batch_size: Count = 16,
    seed: int = 0,
) -> Merged:
    """Learn one bounded coefficient per task and tensor from labelled validation samples.

    Args:
        steps: Adam steps; each sees one batch of ``batch_size`` of every task.
        granularity: ``"tensor"``, ``"block"`` (one per numbered block, and one for all outside) or ``"task"``.
        prior: the coefficient all start from, inside (-1, 1); ``None`` is 1/K (0.99 for one expert).
        seed: the stream's seed.
    """
    choice("granularity", granularity, ("tensor", "block", "task"))
    start = min(0.99, 1 / len(experts)) if prior is None else float(prior)
    if not -1 < start < 1:
        raise MergingError(f"prior is {prior}; expected a number between -1 and 1, such as prior=0.3")
    rows, index = groups(experts, granularity)
    merge = LayerwiseMerge(experts, prior=math.atanh(start), transform=lambda raw: raw.tanh()[index])
    merge.raw = nn.Parameter(merge.raw.detach()[:rows].clone())
    trace = adapt_merge(
        experts,
        stream,
        merge,
        lambda task, outputs, batch: supervised_loss(experts.kind(task), outputs, batch.labels),
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        split="val",
    )
    return Merged(experts, merge.merged(), trace={**trace, **coefficient_trace(merge)})


def groups(experts: Experts, granularity: str) -> tuple[int, Tensor]:
    """How many coefficients a task has, and which of them each tensor takes (int64 ``[L]``)."""
    if granularity == "tensor":
        keys: list[object] = list(experts.names)
    elif granularity == "block":
        places = [block_of(n) for n in experts.names]
        keys = [None if at is None else (at.tower, at.number) for at in places]
    else:
        keys = [None] * len(experts.names)
    order = list(dict.fromkeys(keys))
    return len(order), torch.tensor([order.index(k) for k in keys], dtype=torch.int64, device=experts.device)
