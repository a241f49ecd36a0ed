"""DELLA: entries of the task vectors are dropped at random, small ones more often, and the rest merged by its sign.

DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling. Deep, Bhardwaj, Poria,
arXiv:2406.11617.

    theta = theta0 + scale * mean_k of the tau^_k of the elected sign,    s = sign(sum_k tau^_k), 0 counted as +
    tau^_k = m_k tau_k |tau_k|_1 / |m_k tau_k|_1,   m_k ~ Bernoulli(p),   p from density - epsilon to density + epsilon
    by the rank of |tau_k| along the second dimension (of a vector: in all of it)

Reference: arcee-ai/mergekit sparsify.py and generalized_task_arithmetic.py, which we follow where they depart from the
paper: what stays is rescaled to the tensor's L1 length and not by 1 / p. linear=True is its della_linear: the sum of
all tau^_k, without election and undivided. density=1, its default, drops nothing; otherwise density - epsilon and
density + epsilon lie within (0, 1). Ours departs in the random stream (a generator per seed, task and tensor: compare
by masks, see from_masks), in signs, which are of sums in float64, and where the code fails: an entry alone in its row,
or a scalar, is kept with the probability density.
Every floating tensor is merged; one model is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, NonNegative, Portion, method
from methods.core.stream import derive
from methods.tools.activations import per_task
from methods.tools.vectors import fraction, total

#: Lengths below this are not rescaled.
SHORT = 1e-7


@method(title="DELLA", paper="arXiv:2406.11617", footprint=Footprint(local=True, tensor=(1, 2.2)))
def della(
    experts: Experts,
    *,
    density: Portion = 1.0,
    epsilon: NonNegative = 0.15,
    scale: float = 1.0,
    linear: bool = False,
    seed: int = 0,
) -> Merged:
    """Drop entries by their magnitude's rank, rescale, elect signs, merge.

    Args:
        density: share of each row's entries that stays; 1 keeps all.
        epsilon: how much likelier than density the largest entry of a row stays, and the smallest does not.
        scale: coefficient of the merged vector.
        linear: add all vectors up instead of the mean of those that agree.
        seed: of the random masks.
    """
    fraction("density", density, zero=True)
    if not 0 < density < 1:
        return _merge(experts, lambda name, vectors: vectors * density, scale, linear)
    if not epsilon >= 0 or density + epsilon >= 1 or density - epsilon <= 0:
        raise MergingError(
            f"density={density!r}, epsilon={epsilon!r}; expected density - epsilon and density + epsilon within "
            "(0, 1), such as density=0.5, epsilon=0.15, or density=1"
        )

    def sparse(name: str, vectors: Tensor) -> Tensor:
        masks = []
        for task, vector in zip(experts.tasks, vectors, strict=True):
            generator = torch.Generator().manual_seed(derive(seed, task, name))
            masks.append(torch.bernoulli(probabilities(vector, density, epsilon).cpu(), generator=generator))
        return rescaled(vectors, torch.stack(masks).to(vectors))

    return _merge(experts, sparse, scale, linear)


def from_masks(experts: Experts, masks: Any, *, scale: float = 1.0, linear: bool = False) -> Merged:
    """DELLA with given masks, true where an entry stays.

    Args:
        masks: ``{task: {name: bool [*shape]}}``, or a list of the inner mappings in the order of tasks.
    """
    by_task = dict(per_task(experts, masks))

    def sparse(name: str, vectors: Tensor) -> Tensor:
        return rescaled(vectors, torch.stack([by_task[task][name] for task in experts.tasks]).to(vectors))

    return _merge(experts, sparse, scale, linear)


def _merge(experts: Experts, sparse: Callable[[str, Tensor], Tensor], scale: float, linear: bool) -> Merged:
    """The merge of what ``sparse(name, [K, *shape])`` leaves of the task vectors."""
    combine = summed if linear else elected_mean
    return Merged(
        experts,
        {n: experts.base_tensor(n) + scale * combine(sparse(n, experts.task_vectors(n))) for n in experts.names},
    )


def summed(vectors: Tensor) -> Tensor:
    """The sum over tasks, ``[K, *shape] -> [*shape]``."""
    return vectors.sum(0)


def elected_mean(vectors: Tensor) -> Tensor:
    """The mean over the entries that have the sign of their sum, 0 counted as positive."""
    agree = vectors.sign() == torch.where(total(vectors) >= 0, 1.0, -1.0).to(vectors)
    return (vectors * agree).sum(0).div_(agree.sum(0).clamp_(min=1))


def probabilities(vector: Tensor, density: float, epsilon: float) -> Tensor:
    """How likely each entry of one task vector stays, ``[*shape]``."""
    rows = vector.reshape(1, -1) if vector.ndim < 2 else vector
    ranks = rows.abs().argsort(dim=1, stable=True).argsort(dim=1).to(torch.float32)
    count = rows.shape[1]
    shares = ranks / (count - 1) if count > 1 else torch.full_like(ranks, 0.5)
    return (density - epsilon + 2 * epsilon * shares).view_as(vector)


def rescaled(vectors: Tensor, masks: Tensor) -> Tensor:
    """``vectors [K, *shape]`` under ``masks``, each at the L1 length that it had."""
    kept = vectors * masks
    before, after = (each.abs().reshape(len(each), -1).sum(1) for each in (vectors, kept))
    factors = (before / after).where((before >= SHORT) & (after >= SHORT), 1.0)
    return kept * factors.view(-1, *[1] * (kept.ndim - 1))
