"""DARE: drop entries of each task vector at random, rescale the rest, then merge.

Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch. Yu et al., ICML 2024,
arXiv:2311.03099.

    theta = inner({tau^_k}),    tau^_k = m_k * tau_k / (1 - drop),  m_k ~ Bernoulli(1 - drop)

Reference: yule-BUAA/MergeLM model_merging_methods/mask_weights_utils.py. No departure of code from paper;
select="magnitude" drops the int(n * drop) smallest entries of each tensor instead (the paper's ablation). Ours
departs in the random stream (a generator per seed, task and tensor, so that masks do not depend on the order of
reading; the code draws from torch's global one: compare by masks, see from_masks), and where the code fails: a
tensor with n * drop < 1 loses nothing to magnitude. drop=1 leaves the base, as in the code. drop=0.9 is the paper's
for language models; for ViT-B 0.2 to 0.5 are in use. Every floating tensor is merged; what is kept is the inner
method's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, MethodName, Portion, method
from methods.core.states import Edit
from methods.core.stream import derive
from methods.tools.activations import per_task
from methods.tools.inner import run_edited
from methods.tools.vectors import choice, fraction


@method(
    title="DARE",
    paper="arXiv:2311.03099",
    grids={"scale": (0.1, 1.0, 10)},
    footprint=Footprint(local=True, passes=0),
)
def dare(
    experts: Experts,
    *,
    drop: Portion = 0.9,
    scale: float = 0.3,
    select: Literal["random", "magnitude"] = "random",
    rescale: bool = True,
    inner: MethodName = "task_arithmetic",
    seed: int = 0,
) -> Merged:
    """Sparsify the task vectors, then merge them with another method.

    Args:
        drop: share of entries that is dropped, in [0, 1].
        scale: coefficient of the inner method.
        select: ``"random"``, or ``"magnitude"`` (drop the smallest of each tensor).
        rescale: divide what stays by ``1 - drop``.
        inner: the method that merges the sparsified vectors (without data).
        seed: of the random masks.
    """
    fraction("drop", drop, zero=True)
    choice("select", select, ("random", "magnitude"))

    def mask(name: str, task: str, vector: Tensor) -> Tensor:
        if select == "magnitude":
            return _largest(vector, drop)
        generator = torch.Generator().manual_seed(derive(seed, task, name))
        return torch.empty(vector.shape, dtype=torch.bool).bernoulli_(1 - drop, generator=generator)

    return _merge(experts, mask, drop=drop, scale=scale, rescale=rescale, inner=inner)


def from_masks(
    experts: Experts,
    masks: Any,
    *,
    drop: float = 0.9,
    scale: float = 0.3,
    rescale: bool = True,
    inner: str = "task_arithmetic",
) -> Merged:
    """DARE with given masks, true where an entry stays; the rest as :func:`dare`.

    Args:
        masks: ``{task: {name: bool [*shape]}}``, or a list of the inner mappings in the order of tasks.
    """
    by_task = dict(per_task(experts, masks))
    missing = [f"{t}/{n}" for t in experts.tasks for n in experts.names if n not in by_task[t]]
    if missing:
        raise MergingError(
            f"masks are missing for {', '.join(missing[:4])} ({len(missing)} in all); expected "
            "{task: {name: mask}} for every task and merged tensor"
        )
    fraction("drop", drop, zero=True)
    return _merge(experts, lambda n, task, _: by_task[task][n], drop=drop, scale=scale, rescale=rescale, inner=inner)


def _merge(experts: Experts, mask: Edit, *, drop: float, scale: float, rescale: bool, inner: str) -> Merged:
    """The inner merge of the vectors under their masks."""
    size = 1 / (1 - drop) if rescale and drop < 1 else 1.0

    def edit(name: str, task: str, vector: Tensor) -> Tensor:
        return vector.mul_(size).masked_fill_(~mask(name, task, vector).to(vector.device, torch.bool), 0.0)

    return run_edited(inner, experts, edit, outer="dare", scale=scale)


def _largest(vector: Tensor, drop: float) -> Tensor:
    """True but for the ``int(n * drop)`` smallest magnitudes (and those equal to the largest of them)."""
    size = vector.abs()
    count = int(size.numel() * drop)
    if not count:
        return torch.ones_like(size, dtype=torch.bool)
    return size > size.reshape(-1).kthvalue(count).values
