"""DOGE: task vectors modified by projected gradient descent, then merged with task-aware coefficients.

Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent. Wei, Tang, Shen, Hu, Yuan, Cao, ICML 2025,
arXiv:2501.01230.

    theta = theta0 + sum_k lambda_k (tau_k + Delta) [ |tau_k| in the top keep of the task's entries ]
    lambda_k = scale / ||tau_k||_F per tensor
    min over Delta of  sum_k || rowsum( tau_k * (tau_k - sum_j lambda_j (tau_j + Delta)) ) ||^2  by Adam from 0, the
    gradient projected off the shared subspace (the top r / subspace left singular directions of all tasks)

Reference: the authors' repository was not available; FusionBench's fusion_bench/method/doge_ta/doge_ta.py (co-author
Tang's framework), which we follow: the mask is taken from tau and applied to tau + Delta, its threshold is global per
task over the merged tensors; only the linear weights of the encoder's blocks are merged, all else stays the base's
(without numbered blocks: every 2-D tensor). Departure: a zero task vector has coefficient 0 (infinite in the code).
coefficients="adamerging" learns them as AdaMerging does (500 steps, two batches of 16 per task, entropy); that they
start from the fixed ones is our decision. Nothing is stored per task.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from methods.adamerging import class_entropy, coefficient_trace
from methods.api import (
    UNLABELLED,
    Access,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    NotApplicable,
    Share,
    Stream,
    method,
)
from methods.tools.adaptation import adapt_merge
from methods.tools.coefficients import LayerwiseMerge
from methods.tools.interference import block_weights
from methods.tools.spectral import leading, significant, task_svd
from methods.tools.vectors import choice, fraction, thresholds

ADAMERGING: dict[str, Any] = {"steps": 500, "lr": 1e-3, "batch_size": 16, "draws": 2}


@method(
    title="DOGE",
    paper="arXiv:2501.01230",
    access_if={("coefficients", "adamerging"): Access(test=UNLABELLED)},
    needs=("matrices",),
    footprint=Footprint(tensor=(7.2, 2), vectors=True, steps=500, batch=16, batches=2, decompositions=(2, 1)),
)
def doge(
    experts: Experts,
    stream: Stream | None = None,
    *,
    subspace: Annotated[float, "[1, inf)"] = 6,
    keep: Share = 0.3,
    scale: float = 0.07,
    steps: Natural = 400,
    lr: NonNegative = 1e-4,
    coefficients: Literal["fixed", "adamerging"] = "fixed",
) -> Merged:
    """Modify the task vectors towards less conflict, keep their largest entries, and add them up.

    Args:
        subspace: the shared subspace has 1/subspace of each matrix's rank.
        keep: share of each task's entries that is merged, in (0, 1].
        scale: norm that every task's vector is given in each tensor.
        steps, lr: of Adam on the modification, per tensor.
        coefficients: ``"fixed"``, or ``"adamerging"``: learned on unlabelled test samples.
    """
    choice("coefficients", coefficients, ("fixed", "adamerging"))
    fraction("keep", keep)
    if not subspace >= 1:
        raise MergingError(f"subspace is {subspace!r}; expected a number of at least 1, such as subspace=6")
    names = block_weights(experts) or tuple(n for n in experts.names if experts.base[n].ndim == 2)
    limits = thresholds(experts, keep, names)
    modified, weights = {}, {}
    for name in names:
        vectors = experts.task_vectors(name)
        norms = vectors.flatten(1).norm(dim=1)
        weights[name] = torch.where(norms > 0, scale / norms, 0.0)
        change = modification(vectors, weights[name], shared_subspace(experts, name, vectors, subspace), steps, lr)
        mask = vectors.abs() >= limits.view(-1, *[1] * (vectors.ndim - 1))
        modified[name] = vectors.add_(change).mul_(mask)
        if coefficients == "fixed":
            modified[name] = torch.tensordot(weights[name], modified[name], 1)
    if coefficients == "fixed":
        return Merged(experts, {n: vector + experts.base_tensor(n) for n, vector in modified.items()})
    assert stream is not None
    if why := experts.lacks_part("classes"):
        raise NotApplicable(f"doge with coefficients='adamerging' {why}")
    merge = LayerwiseMerge(experts, vectors=modified, skip=tuple(set(experts.names) - set(names)))
    merge.raw.data.copy_(torch.stack([weights[n] for n in merge.names]))
    trace = adapt_merge(experts, stream, merge, lambda task, outputs, batch: class_entropy(outputs), **ADAMERGING)
    return Merged(experts, merge.merged(), trace={**trace, **coefficient_trace(merge)})


def shared_subspace(experts: Experts, name: str, vectors: Tensor, subspace: float) -> Tensor:
    """The leading ``int(r / subspace)`` left directions of all tasks' top ``int(r / K)``, orthonormal ``[m, .]``."""
    rank = min(vectors.shape[1:])
    parts = []
    for task, vector in zip(experts.tasks, vectors, strict=True):
        u, s, _ = task_svd(experts, name, task, rank // len(experts), vector=vector)
        parts.append(u[:, significant(s)])
    u, s, _ = leading(torch.cat(parts, 1), int(rank / subspace))
    return u[:, significant(s)]


def modification(vectors: Tensor, weights: Tensor, shared: Tensor, steps: int, lr: float) -> Tensor:
    """Delta ``[m, n]`` for ``vectors [K, m, n]`` of one tensor and their coefficients ``[K]``.

    With t_k a row of task k, d the same row of Delta and w the sum of coefficients, the row's residual is
    ``t_k . (t_k - sum_j lambda_j t_j) - w t_k . d``, and the gradient in d is ``-2 w sum_k residual_k t_k``.
    """
    rows = vectors.transpose(0, 1).contiguous()
    total = torch.tensordot(weights, vectors, 1)
    start = torch.stack([(v * (v - total)).sum(1) for v in vectors], 1)
    weight = float(weights.sum())
    change = torch.zeros_like(total).requires_grad_(True)
    optimiser = torch.optim.Adam([change], lr=lr)
    for _ in range(steps):
        residual = start - weight * torch.bmm(rows, change.detach()[:, :, None])[:, :, 0]
        gradient = torch.bmm(residual[:, None, :], rows)[:, 0, :].mul_(-2.0 * weight)
        change.grad = gradient - shared @ (shared.T @ gradient)
        optimiser.step()
    return change.detach()
