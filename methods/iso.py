"""Iso-C and Iso-CTS: merged task matrices with a flat spectrum.

No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces. Marczak, Magistri, Cygert,
Twardowski, Bagdanov, van de Weijer, ICML 2025, arXiv:2502.04959.

    Iso-C:    theta = theta0 + scale * mean(S) * U V^T,    sum_k tau_k = U S V^T
    Iso-CTS:  theta = theta0 + scale * mean(S) * P(U) P(V)^T, P the polar factor,
              U, S, V the top c triplets of the sum and t/K triplets of each (I - U_c U_c^T) tau_k, c + t = r

Reference: danielm1405/iso-merging src/utils/iso.py, which we follow: 2-D tensors but the text projection (positional
embeddings and the output projection included); every other tensor is the mean; the residuals are projected from the
left only; t is rounded to a multiple of K and the common space grows by what is left. The coefficient multiplies all
tensors; the paper chooses it on labelled validation data out of 0.1 .. 3.0 (scale=val; about 1.3 to 1.5 on its suites)
and has no value without: 1 is ours. Departures: the factor U V^T leaves out null directions of a rank-deficient sum
(the code fills them in arbitrarily), and t never exceeds r. Nothing is stored per task. The reference decomposes by
LAPACK in full; see ``spectral`` for what is done instead and how exact that is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Portion, method
from methods.tools.spectral import leading, merge_matrices, polar, significant, sum_vector, svd
from methods.tools.vectors import fraction


@method(
    title="Iso-C",
    paper="arXiv:2502.04959",
    grids={"scale": (0.1, 3.0, 30)},
    needs=("matrices",),
    footprint=Footprint(local=True, decompositions=(1, 0)),
)
def iso_c(experts: Experts, *, scale: float = 1.0) -> Merged:
    """The sum of task vectors with every singular value replaced by their mean.

    Args:
        scale: coefficient of the merged vector, on all tensors.
    """
    return Merged(experts, merge_matrices(experts, scale, lambda name: flattened(sum_vector(experts, name))))


@method(
    title="Iso-CTS",
    paper="arXiv:2502.04959",
    grids={"scale": (0.1, 3.0, 30)},
    needs=("matrices",),
    footprint=Footprint(local=True, decompositions=(3, 0)),
)
def iso_cts(experts: Experts, *, scale: float = 1.0, common_fraction: Portion = 0.8) -> Merged:
    """The common space of the sum, enriched with directions of each task, under a flat spectrum.

    Args:
        scale: coefficient of the merged vector, on all tensors.
        common_fraction: share of the rank kept for the common space, in [0, 1].
    """
    fraction("common_fraction", common_fraction, zero=True)
    return Merged(experts, merge_matrices(experts, scale, lambda name: enriched(experts, name, common_fraction)))


def flattened(matrix: Tensor) -> Tensor:
    """``mean(S) U V^T`` of a matrix ``[m, n]``."""
    factor, values = polar(matrix)
    return factor.mul_(values.mean())


def shares(rank: int, tasks: int, common_fraction: float) -> tuple[int, int]:
    """How many directions are common, and how many each task adds."""
    each = min(round((rank - int(rank * common_fraction)) / tasks), rank // tasks)
    return rank - tasks * each, each


def enriched(experts: Experts, name: str, common_fraction: float) -> Tensor:
    """The Iso-CTS matrix of one tensor, ``[m, n]``."""
    total = sum_vector(experts, name)
    common, each = shares(min(total.shape), len(experts), common_fraction)
    if not each:
        return flattened(total)
    left, values, right = svd(total)
    base = experts.base_tensor(name)
    directions = min(common, int(significant(values).sum()))  # null directions of the sum are arbitrary
    parts = [residual(experts.task_vector(name, task, base), left, directions, each) for task in experts.tasks]
    u = torch.cat([p[0] for p in parts] + [left[:, :common]], 1)
    v = torch.cat([p[2] for p in parts] + [right[:common]], 0)
    s = torch.cat([p[1] for p in parts] + [values[:common]])
    mask = significant(s)
    return (polar(u[:, mask])[0] @ polar(v[mask])[0]).mul_(s.mean())


def residual(vector: Tensor, left: Tensor, common: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The top triplets of ``(I - U_c U_c^T) vector``, U_c the first ``common`` columns of ``left``.

    Where ``left`` is square its other columns span the complement, and the decomposition is one of ``[m - c, n]``.
    """
    if left.shape[0] == left.shape[1]:
        rest = left[:, common:]
        u, s, v = leading(rest.T @ vector, rank)
        return rest @ u, s, v
    space = left[:, :common]
    return leading(vector - space @ (space.T @ vector), rank)
