"""KnOTS: LoRA adapters are turned into one basis by a joint SVD, and merged there by another rule.

Model merging with SVD to tie the Knots. Stoica, Ramesh, Ecsedi, Choshen, Hoffman, ICLR 2025, arXiv:2410.19735.

    theta = theta0 + scale * U merged(S V_1, .., S V_K)
    [Delta_1 .. Delta_K] = U S [V_1 .. V_K],   Delta_k = scale_k B_k A_k

Reference: gstoica27/KnOTS task_merger.py, SVDMerger, which we follow: the decomposition in float64, directions of
singular values up to 1e-5 dropped, and the rule applied to all layers together as one vector of a task, so that TIES
trims once over the whole adapter; the coefficient multiplies every vector before the rule's mean or sum. The code
merges bare products B A (its adapters have alpha = r) and decomposes them; ours applies each adapter's own scale and
works the decomposition out of the factors. Defaults: its vision configurations'. Tensors without adapters stay the
base's. Signs are of sums in float64. One model is kept.
"""

from __future__ import annotations

from typing import Literal

from methods.api import Experts, Footprint, Merged, Share, method
from methods.tools.adapters import adapted, disjoint_mean, elected, joint_svd
from methods.tools.vectors import choice, fraction

#: Directions of a singular value up to this are dropped.
NULL = 1e-5


@method(
    title="KnOTS",
    paper="arXiv:2410.19735",
    grids={"scale": (0.1, 2.0, 20)},
    needs=("adapters",),
    footprint=Footprint(holds=(1, 1)),
)
def knots(
    experts: Experts,
    *,
    inner: Literal["ties", "task_arithmetic"] = "ties",
    keep: Share = 0.2,
    scale: float = 0.6,
    merge: Literal["mean", "sum"] = "mean",
) -> Merged:
    """Merge LoRA adapters in the basis of a joint SVD.

    Args:
        inner: ``"ties"`` (trim, elect) or ``"task_arithmetic"`` (everything).
        keep: share of each task's entries that TIES keeps, in (0, 1].
        scale: coefficient of every task.
        merge: ``"mean"`` over the entries that are not 0, or ``"sum"``.

    Raises:
        NotApplicable: these experts are no LoRA adapters.
    """
    choice("inner", inner, ("ties", "task_arithmetic"))
    fraction("keep", keep)
    choice("merge", merge, ("mean", "sum"))
    bases, vectors = {}, {}
    for name, factors in adapted(experts):
        u, s, v = joint_svd(factors)
        kept = s > NULL
        bases[name] = u[:, kept].float()
        vectors[name] = s[kept, None].float() * v[:, kept].float()
    if inner == "ties" and vectors:
        vectors = dict(zip(vectors, elected(list(vectors.values()), keep), strict=True))
    merged = {}
    for name, stack in vectors.items():
        vector = disjoint_mean(stack) if merge == "mean" else stack.sum(0)
        base = experts.base_tensor(name)
        merged[name] = base + scale * (bases[name] @ vector).view_as(base)
    return Merged(experts, merged)
