"""Model Stock: as far from the base towards the average as the angle between the task vectors says.

Model Stock: All we need is just a few fine-tuned models. Jang, Yun, Han, ECCV 2024, arXiv:2403.19522.

    theta = theta0 + t * mean_k tau_k,    t = K c / (1 + (K - 1) c),   c the mean cosine of two task vectors

Reference: arcee-ai/mergekit model_stock.py; the authors' repository (naver-ai/model-stock) holds a README. We follow
it: every floating tensor on its own, or with filterwise every row of its last dimension (a vector is one row); the
mean over all pairs is mergekit's reading of more than two models; the product of norms is at least 1e-6, so that short
vectors count as less alike than they are. t is not bounded: below 0 where the task vectors point apart, and without
bound as c nears -1 / (K - 1). Ours departs there: it refuses what the code divides by 0. One model is kept.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, NotApplicable, method

#: What the code raises products of norms to, and the least of the ratio's denominator that is no rounding noise.
LEAST = 1e-6


@method(title="Model Stock", paper="arXiv:2403.19522", footprint=Footprint(local=True))
def model_stock(experts: Experts, *, filterwise: bool = False) -> Merged:
    """Interpolate between base and average, tensor by tensor.

    Args:
        filterwise: a ratio for every row of the last dimension instead of one a tensor.

    Raises:
        NotApplicable: there is one expert, and no angle.
        MergingError: the task vectors of a tensor cancel, so that the ratio diverges.
    """
    if len(experts) < 2:
        raise NotApplicable("model_stock needs the angle between two or more experts, and these are one")
    merged = {}
    for name in experts.names:
        vectors = experts.task_vectors(name)
        apart = filterwise and vectors.ndim > 2
        rows = vectors.flatten(1, -2) if apart else vectors.reshape(len(vectors), 1, -1)
        ratio, denominator = ratios(rows)
        if bool((denominator.abs() < LEAST).any()):
            raise MergingError(
                f"the task vectors of {name} cancel each other and model_stock divides by 0 there; expected experts "
                "that agree in part"
            )
        merged[name] = experts.base_tensor(name) + (ratio * rows.mean(0)).view(vectors.shape[1:])
    return Merged(experts, merged)


def ratios(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``t [R, 1]`` of ``rows [K, R, n]``, and the denominator that it was divided by."""
    norms = rows.norm(dim=-1)
    cosines = [
        ((rows[i] * rows[j]).sum(-1) / (norms[i] * norms[j]).clamp(min=LEAST)).clamp(-1, 1)
        for i, j in combinations(range(len(rows)), 2)
    ]
    cosine = torch.stack(cosines).mean(0)[:, None]
    denominator = 1 + (len(rows) - 1) * cosine
    return len(rows) * cosine / denominator, denominator
