"""Arcee Fusion: of one expert, the changes that matter most to the distribution that a row of weights makes.

Arcee Fusion in arcee-ai/mergekit (arcee.ai; no paper, no arXiv).

    theta = theta0 + tau [ I >= median(I) + 1.5 (q3 - q1) ],    I = |tau| * KL(softmax(theta_1) || softmax(theta0))
    softmax and divergence along the last dimension, medians and quartiles of each tensor on its own

Reference: arcee-ai/mergekit arcee_fusion.py, which we follow: 1e-8 is added to the probabilities; the quantile q of n
entries is the int(q (n - 1))-th from 0; tensors of more than a million entries are measured on a million of them, drawn
at random. All in float32, as there: the divergence of two near rows is all rounding in its last digits, and an entry
next to the threshold may fall on either side of it on another processor. Ours departs in the random stream: a generator
per seed, task and tensor, with replacement. A scalar is a row of one entry, without divergence, and keeps its change.
It fuses one expert into its base. One model is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, method
from methods.core.stream import derive

#: The most entries that quartiles are taken of, and what is added to probabilities.
SAMPLE, TINY = 1_000_000, 1e-8


@method(title="Arcee Fusion", paper="mergekit", needs=("single",), footprint=Footprint(local=True))
def arcee_fusion(experts: Experts, *, seed: int = 0) -> Merged:
    """Keep the most important changes of one expert.

    Args:
        seed: of the entries that large tensors are measured on.
    """
    (task,) = experts.tasks
    merged = {}
    for name in experts.names:
        base, tuned = experts.base_tensor(name), experts.expert_tensor(name, task)
        scores = importance(tuned, base)
        generator = torch.Generator().manual_seed(derive(seed, task, name))
        merged[name] = base + (tuned - base) * (scores >= threshold(scores, generator))
    return Merged(experts, merged)


def importance(tuned: Tensor, base: Tensor) -> Tensor:
    """What each change does to its row, ``[*shape]``."""
    p, q = tuned.softmax(-1) + TINY, base.softmax(-1) + TINY
    return (tuned - base).abs() * (p * (p / q).log()).sum(-1, keepdim=base.ndim > 0)


def threshold(scores: Tensor, generator: torch.Generator) -> Tensor:
    """The median and 1.5 times the distance of the quartiles."""
    flat = scores.reshape(-1)
    if flat.numel() > SAMPLE:
        chosen = torch.randint(flat.numel(), (SAMPLE,), generator=generator)
        flat = flat[chosen.to(flat.device)]
    ordered = flat.sort().values
    low, middle, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return middle + 1.5 * (high - low)
