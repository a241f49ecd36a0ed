"""ACE-Merging: each task's input covariance is read from its task vector, and the merge is the regression under it.

ACE-Merging: Data-Free Model Merging with Adaptive Covariance Estimation. Xu, Wu, Lin, Huang, Zhu, Shu, Qin, CVPR 2026,
arXiv:2603.02945.

    theta = theta0 + scale * W,    W = (sum_k C_k P_k) (sum_k P_k + 1 c^T)^-1,   P_k = G_k + floor I,  G_k = C_k^T C_k
    C_k = tau_k less its mean over output rows;  c the mean of the rows of sum_k G_k, added to every row
    where tasks differ much in size:  G_k / tr G_k and floor / tr G_k,  c / mean_k |tau_k|^2,  and  W += mean(S) U V^T
    of the leading int(fraction * r) triplets of  sum_k tau_k (G_k - mean_j P_j) + W

Reference: unravel-xu/ACE-Merging src/merge/strategy.py, which we follow: 2-D tensors but text projections, every other
tensor the mean; tasks differ much where the variance of log |tau_k|^2 is above 0.3 of its mean's square, which hangs
on the unit of the weights and explodes where that mean is near 0. floor is the code's for every model; the paper has
1e-5 for ViTs. Ours departs where the code gives NaN: a matrix too small for one triplet gets none.
One model is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, NonNegative, Portion, method
from methods.tools import vectors
from methods.tools.spectral import leading, merge_matrices

TINY = 1e-12
#: Tasks differ much in size above this.
HETEROGENEITY = 0.3


@method(
    title="ACE-Merging",
    paper="arXiv:2603.02945",
    needs=("matrices",),
    footprint=Footprint(local=True, tensor=(5, 3), decompositions=(1, 0), products=(2, 3)),
)
def ace(experts: Experts, *, floor: NonNegative = 1e-2, fraction: Portion = 0.3, scale: float = 1.0) -> Merged:
    """Merge each matrix by the regression under covariances that the task vectors tell.

    Args:
        floor: added to the diagonal of each covariance.
        fraction: share of the rank that is refined where tasks differ much, in [0, 1].
        scale: coefficient of the merged vector, on all tensors.
    """
    vectors.fraction("fraction", fraction, zero=True)

    def combine(name: str) -> Tensor:
        return regression(experts.task_vectors(name), floor, fraction)

    return Merged(experts, merge_matrices(experts, scale, combine))


def heterogeneity(sizes: Tensor) -> float:
    """The variance of log |tau_k|^2 over its mean's square, from ``|tau_k|^2 [K]``; NaN for one task."""
    logs = (sizes + TINY).log()
    return float(logs.var() / (logs.mean().square() + TINY)) if len(logs) > 1 else float("nan")


def regression(tasks: Tensor, floor: float, fraction: float) -> Tensor:
    """The merged vector ``[m, n]`` of the task vectors ``[K, m, n]`` of one matrix."""
    sizes = tasks.square().sum((1, 2))
    differ = heterogeneity(sizes) > HETEROGENEITY
    eye = torch.eye(tasks.shape[-1], device=tasks.device)
    covariances, total, weighted = [], torch.zeros_like(eye), torch.zeros_like(tasks[0])
    for vector in tasks:
        centred = vector - vector.mean(0, keepdim=True)
        covariance = centred.T @ centred
        trace = covariance.trace() + TINY if differ else 1.0
        covariance = covariance / trace
        regular = covariance + floor / trace * eye
        covariances.append(covariance)
        weighted.addmm_(centred, regular)
        total = total + regular
    row = torch.stack(covariances).sum(0).mean(0)
    if differ:
        row = row / (sizes.mean() + TINY)
    merged = right_quotient(weighted, total + row)
    return merged.add_(refinement(tasks, covariances, total, merged, fraction)) if differ else merged


def right_quotient(matrix: Tensor, divisor: Tensor) -> Tensor:
    """``matrix divisor^-1``, by the pseudo-inverse where that does not exist; ``[m, n]``, ``[n, n]``."""
    inverse, failed = torch.linalg.inv_ex(divisor)
    if int(failed):
        inverse = torch.linalg.pinv(divisor)
    return matrix @ inverse


def refinement(tasks: Tensor, covariances: Sequence[Tensor], total: Tensor, merged: Tensor, fraction: float) -> Tensor:
    """``mean(S) U V^T`` of the leading triplets of what the covariances' mean leaves out, and ``merged``."""
    rest = merged.clone()
    for vector, covariance in zip(tasks, covariances, strict=True):
        rest.addmm_(vector, covariance - total / len(tasks))
    count = int(min(rest.shape) * fraction)
    if not count:
        return torch.zeros_like(rest)
    u, s, vh = leading(rest, count)
    return (u @ vh).mul_(s.mean())
