"""Multi-task learning: one encoder trained on all tasks together, wholly or partly shared. An upper bound, no merge.

Multitask Learning. Caruana, Machine Learning 28, 1997. Which layers to share: Rethinking Hard-Parameter Sharing in
Multi-Domain Learning. Zhang et al., arXiv:2107.11359.

    min over theta of  sum_k E_(x,y) L( h_k(f(x; theta)), y )

``shared="bottom"`` is hard-parameter sharing as usual (lower layers common, the rest per task), ``shared="top"`` the
paper's proposal (upper layers common). ``layers`` counts the shared stages: everything below the first numbered block
is one, every block is one, everything above the last is one; where blocks are not numbered, every module is one.
The experts give their heads only, which stay frozen (the paper trains heads). The encoder starts from the base.
Schedule of task arithmetic's fine-tuning: AdamW, 2,000 steps of 128 images, rate 1e-5 with warm-up and cosine; here a
step takes 128 images of every task, so that the budget of images equals what K experts had together. No augmentation.
Stored per task: its own layers, where not all are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from methods.api import (
    LABELLED,
    Access,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    Portion,
    Stream,
    method,
)
from methods.core.blocks import block_of
from methods.tools.multitask import train, trainable
from methods.tools.vectors import choice

_TOP = ("ln_post", "ln_final", "proj", "text_projection", "pooler", "norm", "fc", "head", "classifier")


@method(
    title="Joint training",
    paper="arXiv:2107.11359",
    access=Access(train=LABELLED),
    footprint=Footprint(adapting=(5, 0)),
)
def joint(
    experts: Experts,
    stream: Stream,
    *,
    shared: Literal["all", "bottom", "top"] = "all",
    layers: Natural | None = None,
    steps: Natural = 2000,
    lr: NonNegative = 1e-5,
    batch_size: Count = 128,
    warmup: Portion = 0.1,
    weight_decay: NonNegative = 0.1,
    seed: int = 0,
) -> Merged:
    """Train one encoder on the labelled training data of all tasks.

    Args:
        shared: ``"all"``, ``"bottom"`` or ``"top"``: which layers the tasks share.
        layers: how many stages are shared, from that end; ``None`` is half of them.
        steps: updates; each sees ``batch_size`` images of every task.
        lr: AdamW's peak rate; it rises over ``warmup * steps`` steps and falls along a cosine.
        seed: the stream's seed.
    """
    own = per_task(trainable(experts), choice("shared", shared, ("all", "bottom", "top")), layers)
    return train(
        experts,
        stream,
        None,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        warmup=warmup,
        weight_decay=weight_decay,
        own=own,
    )


def per_task(names: Sequence[str], shared: str, layers: int | None) -> tuple[str, ...]:
    """The tensors that are not shared."""
    if shared == "all":
        if layers is not None:
            raise MergingError(f"layers is {layers} with shared='all'; expected shared='bottom' or 'top' with it")
        return ()
    levels = stages(names)
    count = len(levels) // 2 if layers is None else layers
    if not 0 <= count <= len(levels):
        raise MergingError(f"layers is {layers}; this encoder has {len(levels)} stages, allowed: 0 .. {len(levels)}")
    apart = levels[count:] if shared == "bottom" else levels[: len(levels) - count]
    return tuple(n for stage in apart for n in stage)


def stages(names: Sequence[str]) -> list[list[str]]:
    """Tensors by depth, lowest first: stem, numbered blocks, top; one module each where blocks are not numbered."""
    places = {n: at for n in names if (at := block_of(n)) is not None}
    if not places:
        modules: dict[str, list[str]] = {}
        for name in names:
            modules.setdefault(name.rpartition(".")[0], []).append(name)
        return list(modules.values())
    order = sorted({(at.tower, at.number) for at in places.values()})
    blocks = [[n for n, at in places.items() if (at.tower, at.number) == key] for key in order]
    rest = [n for n in names if n not in places]
    top = [n for n in rest if any(part in _TOP for part in n.split("."))]
    return [stage for stage in ([n for n in rest if n not in top], *blocks, top) if stage]
