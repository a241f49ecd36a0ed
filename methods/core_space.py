"""Core Space: LoRA adapters merged as small matrices between two bases that all of them share.

Accurate and Efficient Low-Rank Model Merging in Core Space. Panariello, Marczak, Magistri, Porrello, Twardowski,
Bagdanov, Calderara, van de Weijer, NeurIPS 2025, arXiv:2509.17786.

    theta = theta0 + scale * U merged(M_1, .., M_K) V^T,    M_k = scale_k U^T B_k A_k V
    U the left singular vectors of [B_1 .. B_K], V^T the right ones of [A_1; ..; A_K]: nothing is lost

Reference: apanariello4/core-space-merging task_merger.py, MatrixPerLayerMerger, which we follow: layer by layer, in
float64; TIES trims each layer, and merges by the mean; TSV-M keeps int(dim / K) directions of a task; CART keeps
ceil(keep dim), and its own coefficient multiplies the sum. isotropic replaces the singular values of the merged core by
their mean, zeros counted. keep is the code's, 0.1 for TIES and 0.04 for CART, without a value here. The code merges
bare products B A; ours applies each adapter's own scale. Tensors without adapters stay the base's. Ours departs where
the code fills in arbitrary directions: null directions of a core are left out of a polar factor. One model is kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Share, method
from methods.tools.adapters import adapted, disjoint_mean, elected
from methods.tools.spectral import orthogonal, polar, significant, svd
from methods.tools.vectors import ceiling, choice, fraction


@method(
    title="Core Space",
    paper="arXiv:2509.17786",
    grids={"scale": (0.1, 9.9, 99)},
    needs=("adapters",),
    footprint=Footprint(local=True, decompositions=(1, 0)),
)
def core_space(
    experts: Experts,
    *,
    inner: Literal["ties", "tsv_m", "cart", "task_arithmetic"] = "ties",
    keep: Share | None = None,
    scale: float = 1.0,
    isotropic: bool = False,
    cart_scale: float = 0.1,
) -> Merged:
    """Merge LoRA adapters in the space that their factors span.

    Args:
        inner: the rule: ``"ties"``, ``"tsv_m"``, ``"cart"`` or ``"task_arithmetic"`` (the sum).
        keep: share of a layer's entries that TIES keeps (default 0.1), or of its directions that CART keeps (0.04).
        scale: coefficient of the merged vector.
        isotropic: give all singular values of the merged core their mean.
        cart_scale: coefficient of CART's low-rank parts.

    Raises:
        NotApplicable: these experts are no LoRA adapters.
    """
    choice("inner", inner, ("ties", "tsv_m", "cart", "task_arithmetic"))
    if keep is not None:
        fraction("keep", keep)
    merged = {}
    for name, factors in adapted(experts):
        left = torch.linalg.svd(torch.cat([b for _, b, _ in factors], 1), full_matrices=False).U
        right = torch.linalg.svd(torch.cat([a for a, _, _ in factors], 0), full_matrices=False).Vh
        cores = torch.stack([s * (left.T @ b) @ (a @ right.T) for a, b, s in factors])
        if inner == "ties":
            core = disjoint_mean(elected([cores], 0.1 if keep is None else keep)[0])
        elif inner == "tsv_m":
            core = orthogonal_sum(cores)
        elif inner == "cart":
            core = centred_sum(cores, 0.04 if keep is None else keep, cart_scale)
        else:
            core = cores.sum(0)
        if isotropic:
            factor, values = polar(core)
            core = factor * values.mean()
        base = experts.base_tensor(name)
        merged[name] = base + scale * (left @ core @ right).float().view_as(base)
    return Merged(experts, merged)


def orthogonal_sum(cores: Tensor) -> Tensor:
    """TSV-M of ``[K, p, q]``, ``[p, q]``."""
    parts = []
    for u, s, vh in map(svd, cores):
        mask = significant(s)
        mask[min(cores.shape[1:]) // len(cores) :] = False
        parts.append((u[:, mask], s[mask], vh[mask]))
    values = torch.cat([s for _, s, _ in parts])
    if not len(values):
        return torch.zeros_like(cores[0])
    left = orthogonal(torch.cat([u for u, _, _ in parts], 1))
    right = orthogonal(torch.cat([vh for _, _, vh in parts], 0))
    return (left * values) @ right


def centred_sum(cores: Tensor, keep: float, scale: float) -> Tensor:
    """CART of ``[K, p, q]``, ``[p, q]``."""
    mean = cores.mean(0)
    count = ceiling(keep * min(mean.shape))
    total = torch.zeros_like(mean)
    for u, s, vh in (svd(core - mean) for core in cores):
        total += (u[:, :count] * s[:count]) @ vh[:count]
    return mean + scale * total
