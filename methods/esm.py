"""Essential Subspace Merging: task vectors cut to the directions in which they move features.

Model Merging in the Essential Subspace. Li, Qi, Tian, Geng, CVPR 2026, arXiv:2602.20208.

    theta_l = theta0_l + scale * M_l (||M_l|| / mean ||M|| of the same weight in all blocks)^2,    M = 2 P(U) P(V)
    P(A) = mean(s_A) * polar factor of A;    U = [Q_k e_k],    e_k = (lambda_k / mean lambda_k)^0.15, over its mean
    Q_k, lambda_k: the r = int(out / K) principal directions [out, r] of X_k tau_k^T (uncentred), and their variances
    V = [e_k Q_k^T tau_k (||tau_k|| / mean_j ||tau_j||)^2],    V_c <- V_c (||V_c|| / mean ||V_c||)^2 per column

Reference: kiddo127/ESM ESM-ViT/essential_subspace_decomposition.py and src/utils/esm_utils.py, which we follow: X_k
are the inputs under expert k of its MLP weights and of the attention's packed in-projection; the exponents and the
factor 2 are hard-coded; every other 2-D tensor but the text projection is merged by TSV-M (attention output
projections take part in the scaling between blocks); the rest is the mean; the coefficient multiplies the
essential-subspace weights only, 1 elsewhere. Where the samples have fewer rows than the layer has outputs the code pads
Q with columns of the identity, which are not orthogonal to it: they have no variance, but count in ||tau_k||, which is
then ||[Q I]^T tau_k||, here too. Departure: zero task vectors have no part (the code gives NaN). ESM++ (a router with
low-rank experts) is not built. Nothing is stored per task.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, MergingError, Stream, method
from methods.tools.activations import by_name, layers, observe, per_task, samples
from methods.tools.interference import BLOCK, block_weights
from methods.tools.spectral import leading, mean_vector, polar, significant
from methods.tools.vectors import is_matrix
from methods.tsv import orthogonal_sum

NORM_POWER, EIGENVALUE_POWER, GAIN = 2, 0.15, 2.0
_ATTENTION_OUT = re.compile(r"attn\w*\.(out_)?proj\b|attn\.c_proj|attention\.(\w+\.)*(out_proj|output)|\bo_proj")
Factors = tuple[Tensor, Tensor, Tensor]


@method(
    title="Essential Subspace Merging",
    paper="arXiv:2602.20208",
    access=Access(val=UNLABELLED),
    grids={"scale": (0.1, 3.0, 30)},
    needs=("matrices",),
    footprint=Footprint(statistics="inputs", examples="proxies", decompositions=(3, 1)),
)
def esm(experts: Experts, stream: Stream, *, proxies: Count = 32, scale: float = 1.0) -> Merged:
    """Merge in the subspaces that move the features of a few unlabelled samples.

    Args:
        proxies: samples per task.
        scale: coefficient of the weights that have an essential subspace; 1 elsewhere.
    """
    wanted = essential_weights(experts)
    if not wanted:
        raise MergingError(
            "esm needs linear layers in numbered blocks (resblocks.0, layers.0, ...) and the encoder has none; "
            "tsv_m merges any 2-D tensor"
        )

    def inputs(task: str) -> dict[str, tuple[Tensor, int]]:
        chunks: dict[str, list[Tensor]] = {}
        batches = samples(stream, task, proxies)
        observe(experts, task, batches, wanted, lambda name, rows: chunks.setdefault(name, []).append(rows))
        summaries: dict[str, tuple[Tensor, int]] = {}
        for name in list(chunks):
            rows = torch.cat(chunks.pop(name))
            summaries[name] = compressed(rows), len(rows)
        return summaries

    return from_activations(experts, ((task, inputs(task)) for task in experts.tasks), scale=scale)


def from_activations(experts: Experts, activations: Any, scale: float = 1.0) -> Merged:
    """ESM from layer inputs computed elsewhere.

    Args:
        activations: ``{task: {module or tensor name: inputs [rows, in]}}``, or a list of the inner mappings in the
            order of tasks. In place of inputs ``(rows with the same Gram matrix, how many inputs there were)``.
    """
    parts: dict[str, list[Factors]] = {}
    for task, inputs in per_task(experts, activations):
        for name, rows in by_name(experts, inputs).items():
            rank = experts.base[name].shape[0] // len(experts)
            values, count = rows if isinstance(rows, tuple) else (rows, len(rows))
            parts.setdefault(name, []).append(
                essential(experts.task_vector(name, task), values.to(experts.device), rank, count)
            )
    vectors = {name: combined(parts.pop(name)) for name in list(parts)}
    essentials = set(vectors)
    for name in experts.names:
        if name not in essentials:
            shape = experts.base[name].shape
            vectors[name] = orthogonal_sum(experts, name) if is_matrix(name, shape) else mean_vector(experts, name)
    for group in roles(experts).values():
        norms = torch.stack([vectors[n].norm() for n in group])
        for name, ratio in zip(group, relative(norms), strict=True):
            vectors[name] *= ratio**NORM_POWER
    return Merged(
        experts, {n: experts.base_tensor(n) + (scale if n in essentials else 1.0) * vectors[n] for n in experts.names}
    )


def essential_weights(experts: Experts) -> tuple[str, ...]:
    """The linear weights of numbered blocks and the packed in-projections, without attention's output projections."""
    blocks = set(block_weights(experts))
    return tuple(
        n
        for kind in ("linear", "projection")
        for n in layers(experts, kind)
        if n in blocks and not _ATTENTION_OUT.search(n)
    )


def roles(experts: Experts) -> dict[str, list[str]]:
    """The weights that stand in the same place of every block."""
    groups: dict[str, list[str]] = {}
    for name in block_weights(experts):
        groups.setdefault(BLOCK.sub(r"\1\2.#.", name), []).append(name)
    return groups


def compressed(rows: Tensor, most: int = 1 << 22) -> Tensor:
    """Rows with the same Gram matrix; large ones as the triangular factor ``[in, in]``."""
    if rows.numel() <= most or len(rows) <= rows.shape[1]:
        return rows
    factor: Tensor = torch.linalg.qr(rows, mode="r").R
    return factor


def essential(vector: Tensor, rows: Tensor, rank: int, count: int | None = None) -> Factors:
    """``Q e [out, r]``, ``e Q^T tau [r, in]`` of one task, and the norm of its vector; null directions are 0.

    ``count``: how many inputs there were, where ``rows`` are fewer with the same Gram matrix.
    """
    count = min(len(rows) if count is None else count, len(vector))
    few = count < len(vector)
    if few:
        rows = compressed(rows, most=0)
    _, s, vh = leading(rows @ vector.T, min(len(rows), len(vector)) if few else rank)
    mask = significant(s)
    norm = vector.norm()
    if few:
        norm = torch.hypot((vh[mask] @ vector).norm(), vector[count:].norm())
    variances = F.pad(torch.where(mask, s, 0.0)[:rank], (0, max(0, rank - len(s)))).square()
    weight = relative(relative(variances) ** EIGENVALUE_POWER)
    directions = F.pad(vh[:rank], (0, 0, 0, max(0, rank - len(s)))).T * weight
    return directions, directions.T @ vector, norm


def combined(parts: list[Factors]) -> Tensor:
    """The merged vector of one weight, before the scaling between blocks."""
    ratios = relative(torch.stack([norm for _, _, norm in parts])) ** NORM_POWER
    left = torch.cat([u for u, _, _ in parts], 1)
    right = torch.cat([v * ratio for (_, v, _), ratio in zip(parts, ratios, strict=True)], 0)
    right = right * relative(right.norm(dim=0)) ** NORM_POWER
    return GAIN * (scaled_polar(left) @ scaled_polar(right))


def scaled_polar(matrix: Tensor) -> Tensor:
    """The orthogonal factor times the mean singular value."""
    factor, values = polar(matrix)
    return factor * (values.mean() if len(values) else 0.0)


def relative(values: Tensor) -> Tensor:
    """Values over their mean; zeros where all are."""
    mean = values.mean()
    return values / mean if len(values) and float(mean) > 0 else torch.zeros_like(values)
