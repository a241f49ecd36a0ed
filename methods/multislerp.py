"""Multi-SLERP: the task vectors' directions averaged on a sphere, at their mean length.

Goddard, Multi-SLERP (no paper, no arXiv): goddard.blog/posts/multislerp-wow-what-a-cool-idea.

    theta = theta0 + (sum_k w_k |tau_k|) u,    u the direction of sum_k w_k tau_k / |tau_k|

Reference: arcee-ai/mergekit multislerp.py, with the base as the sphere's origin, which we follow: every floating tensor
on its own, weights normalised to the sum 1. Its step in the tangent space of u adds the weighted mean of the tangents,
which is 0 there, so that it is left out. Where the directions cancel the code interpolates two models linearly, and
refuses more; so does ours. It refuses as well where no task vector has a length; ours leaves such a tensor at the base.
One model is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, NonNegative, method

#: A weighted mean of unit vectors that is shorter has no direction.
SHORT = 1e-8


@method(title="Multi-SLERP", paper="goddard.blog", footprint=Footprint(local=True, tensor=(0, 2)))
def multislerp(experts: Experts, *, weights: Sequence[NonNegative] | None = None) -> Merged:
    """Average the directions and the lengths of the task vectors.

    Args:
        weights: one per task, divided by their sum; default equal.

    Raises:
        MergingError: the weighted directions of a tensor cancel.
    """
    given = [1.0] * len(experts) if weights is None else list(weights)
    if len(given) != len(experts) or not all(w >= 0 for w in given) or not sum(given) > 0:
        raise MergingError(
            f"weights is {weights!r}; expected a list of {len(experts)} (one per task), none below 0 and not all 0"
        )
    shares = torch.tensor(given, device=experts.device) / sum(given)
    merged = {}
    for name in experts.names:
        vectors = experts.task_vectors(name)
        found = sphere_average(vectors.reshape(len(vectors), -1), shares)
        if found is None:
            raise MergingError(
                f"the task vectors of {name} cancel each other on the sphere; expected other weights, or experts that "
                "agree in part"
            )
        merged[name] = experts.base_tensor(name) + found.view(vectors.shape[1:])
    return Merged(experts, merged)


def sphere_average(vectors: Tensor, weights: Tensor) -> Tensor | None:
    """The average of ``vectors [K, n]``; ``None`` where the directions of more than two cancel."""
    norms = vectors.norm(dim=1)
    mean = weights @ (vectors / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None])
    length = mean.norm()
    if float(length) >= SHORT:
        return (norms @ weights) * mean / length
    return weights @ vectors if len(vectors) <= 2 or not bool((norms * weights).any()) else None
