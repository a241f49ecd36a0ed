"""TSV-M and TSV-C: merging and compressing by task singular vectors.

Task Singular Vectors: Reducing Task Interference in Model Merging. Gargiulo, Crisostomi, Bucarelli, Scardapane,
Silvestri, Rodola, CVPR 2025, arXiv:2412.00081.

    TSV-M:  theta = theta0 + scale * P([U_1 .. U_K]) diag(S_1 .. S_K) P([V_1 .. V_K])^T, P the polar factor
    TSV-C:  theta(k) = theta0 + scale * U_k S_k V_k^T,   tau_k ~ U_k S_k V_k^T, the top r keep triplets (keep = 1/K)

Reference: AntoAndGar/task_singular_vectors src/utils/TSVM_utils.py and TSVC_utils.py, which we follow. TSV-M: 2-D
tensors but the text projection, every other tensor the mean; a layer of rank under K keeps int(r / K) = 0 triplets
and so stays at the base. The coefficient multiplies all tensors. TSV-C: every 2-D tensor is compressed and the others
are kept per task whole, so a task id is needed and the factors and small tensors of each task are stored. Departures:
triplets whose singular value is rounding noise (zero task vectors, low-rank experts) are left out; the code lets
their arbitrary directions take part in the polar factors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Share, method
from methods.tools.spectral import merge_matrices, orthogonal, significant, task_svd
from methods.tools.vectors import fraction


@method(
    title="TSV-M",
    paper="arXiv:2412.00081",
    grids={"scale": (0.1, 3.0, 30)},
    needs=("matrices",),
    footprint=Footprint(local=True, decompositions=(3, 1)),
)
def tsv_m(experts: Experts, *, scale: float = 1.0, keep: Share | None = None) -> Merged:
    """Merge the tasks' leading singular vectors after making them orthogonal.

    Args:
        scale: coefficient of the merged vector, on all tensors.
        keep: share of each matrix's rank that a task keeps, in (0, 1]; default 1/K.
    """
    if keep is not None:
        fraction("keep", keep)
    return Merged(experts, merge_matrices(experts, scale, lambda name: orthogonal_sum(experts, name, keep)))


@method(
    title="TSV-C",
    paper="arXiv:2412.00081",
    needs=("matrices",),
    footprint=Footprint(decompositions=(2, 1), factors=True, serves=(2, 0)),
)
def tsv_c(experts: Experts, *, scale: float = 1.0, keep: Share | None = None) -> Merged:
    """Each task's own low-rank task vector on the shared base.

    Args:
        scale: coefficient of the task's vector.
        keep: share of each matrix's rank that is kept, in (0, 1]; default 1/K.
    """
    if keep is not None:
        fraction("keep", keep)
    extra = {}
    for name in experts.names:
        base = experts.base_tensor(name)
        for task in experts.tasks:
            vector = experts.task_vector(name, task, base)
            if vector.ndim != 2 or not vector.numel():
                extra[f"{task}/vector/{name}"] = vector
                continue
            u, s, vh = task_svd(experts, name, task, triplets(vector.shape, len(experts), keep), vector=vector)
            extra[f"{task}/left/{name}"], extra[f"{task}/right/{name}"] = (u * s).contiguous(), vh.contiguous()
    return Merged(
        experts,
        extra=extra,
        state=compressed_state,
        declared=experts.nbytes(),
        needs_task=True,
        options={"scale": scale},
    )


def triplets(shape: torch.Size, tasks: int, keep: float | None = None) -> int:
    """How many triplets a task keeps of a matrix: ``int(r keep)``, or ``int(r / K)``."""
    return min(shape) // tasks if keep is None else int(min(shape) * keep)


def orthogonal_sum(experts: Experts, name: str, keep: float | None = None) -> Tensor:
    """``U* S V*^T`` of one tensor, ``[m, n]``."""
    base = experts.base_tensor(name)
    parts = []
    for task in experts.tasks:
        vector = experts.task_vector(name, task, base)
        u, s, vh = task_svd(experts, name, task, triplets(vector.shape, len(experts), keep), vector=vector)
        mask = significant(s)
        parts.append((u[:, mask], s[mask], vh[mask]))
    values = torch.cat([s for _, s, _ in parts])
    if not len(values):
        return torch.zeros_like(base)
    left = orthogonal(torch.cat([u for u, _, _ in parts], 1))
    right = orthogonal(torch.cat([v for _, _, v in parts], 0))
    return (left * values) @ right


def compressed_state(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The base plus the task's reconstructed vector."""
    experts, state = merged.experts, {}
    for name in experts.names:
        vector = merged.extra.get(f"{task}/vector/{name}")
        if vector is None:
            vector = merged.extra[f"{task}/left/{name}"] @ merged.extra[f"{task}/right/{name}"]
        state[name] = experts.base_tensor(name) + merged.options["scale"] * vector.to(experts.device)
    return state
