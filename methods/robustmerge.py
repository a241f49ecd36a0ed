"""RobustMerge: merge LoRA adapters by pruning, scaling of weak directions and normalisation across tasks.

RobustMerge: Parameter-Efficient Model Merging for MLLMs with Direction Robustness. Zeng et al., NeurIPS 2025,
arXiv:2502.17159.

    theta = theta0 + scale * B A,    A = sum_k weight * A'_k,   B = (sum_k weight * B'_k diag(s_k)) / (sum_k s_k)
    A'_k, B'_k: the largest `keep` share of entries of each factor, the others 0
    s_k = rowsum |A_k| / rowsum |A'_k|, raised to its (1 - clamp) order statistic over the r directions of the task

Reference: AuroraZengfh/RobustMerge llava/model/builder.py, load_and_merge_pretrained_model. We follow the code where
it departs from the paper: its mask_ratio 0.2 is the share that is kept (the paper's prune rate reads the other way),
A is a sum and not a mean (so B A carries weight^2), and the clamp lifts the smaller s. Ours departs where the code
divides by 0: a direction of A that is pruned whole takes the task's largest finite s (1 if none). The adapters' own
scale (alpha / r): the code merges bare factors and applies the one of the base's configuration; ours applies the
mean of the tasks' scales, with each B_k brought to it first, which is the same where all are equal. A module that
some tasks do not adapt is merged from those that do. Tensors without adapters stay the base's. One model is kept;
the merged factors are in `extra` under MODULE.lora_A.weight and MODULE.lora_B.weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Merged, MergingError, Share, method
from methods.tools.vectors import fraction


@method(title="RobustMerge", paper="arXiv:2502.17159", needs=("adapters",))
def robustmerge(experts: Experts, *, keep: Share = 0.2, clamp: Share = 0.2, weight: float = 2.0) -> Merged:
    """Merge the LoRA adapters of all tasks into one adapter, and that into the base.

    Args:
        keep: share of each factor's entries, the largest, that stays.
        clamp: share of a task's directions whose scale stays its own; smaller ones are raised to the least of these.
        weight: fusing weight of every task.

    Raises:
        NotApplicable: these experts are no LoRA adapters.
    """
    fraction("keep", keep)
    fraction("clamp", clamp)
    adapters = [experts.lora(task) for task in experts.tasks]
    shared, extra = {}, {}
    for name in (n for n in experts.names if any(n in modules for modules in adapters)):
        factors = [modules[name] for modules in adapters if name in modules]
        if len({a.shape[0] for a, _, _ in factors}) > 1:
            raise MergingError(
                f"adapters of {name} have the ranks {[a.shape[0] for a, _, _ in factors]}; robustmerge expects one rank"
            )
        scale = sum(s for _, _, s in factors) / len(factors)
        a = torch.stack([a for a, _, _ in factors]).to(experts.device, torch.float32)
        b = torch.stack([b.float() if s == scale else b.float() * (s / scale if scale else 1.0) for _, b, s in factors])
        a, b = fuse(a, b.to(experts.device), keep, clamp, weight)
        base = experts.base_tensor(name)
        shared[name] = base + scale * (b @ a).reshape(base.shape)
        module = name.removesuffix(".weight")
        extra[f"{module}.lora_A.weight"], extra[f"{module}.lora_B.weight"] = a, b
    # The factors are already in the merged weights: nobody needs to keep them too.
    return Merged(experts, shared, extra=extra, declared=-sum(t.numel() * t.element_size() for t in extra.values()))


def fuse(a: Tensor, b: Tensor, keep: float, clamp: float, weight: float) -> tuple[Tensor, Tensor]:
    """The merged factors of one module, ``[r, in]`` and ``[out, r]``, from ``a [K, r, in]`` and ``b [K, out, r]``."""
    sparse = prune(a, keep)
    sizes = a.abs().sum(-1) / sparse.abs().sum(-1)
    finite = sizes.isfinite()
    largest = sizes.where(finite, 0.0).amax(-1, keepdim=True)
    sizes = sizes.where(finite, largest.where(largest > 0, 1.0))
    rank = sizes.shape[-1]
    floor = sizes.sort(-1).values[:, min(int(rank * (1 - clamp)), rank - 1)]
    sizes = sizes.clamp(min=floor[:, None]).unsqueeze(1)
    return (weight * sparse).sum(0), (weight * sizes * prune(b, keep)).sum(0) / sizes.sum(0)


def prune(factors: Tensor, keep: float) -> Tensor:
    """Each task's entries below its ``int(n * (1 - keep))``-th smallest magnitude become 0: ``[K, *shape]``."""
    size = factors.abs().flatten(1)
    limits = size.kthvalue(max(1, int(size.shape[1] * (1 - keep))), dim=1).values
    return factors * (size >= limits[:, None]).view_as(factors)
