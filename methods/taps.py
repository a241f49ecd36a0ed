"""TAPS: every task trains changes to the layers that need them, and shares the base's weights in the others.

Task Adaptive Parameter Sharing for Multi-Task Learning. Wallingford et al., CVPR 2022, arXiv:2203.16708.

    W_kl = W0_l + 1[I_kl >= threshold] D_kl
    min over D_k, I_k of  E_(x,y) L( h_k(f(x; W_k)), y ) + sparsity / L sum_l |I_kl|

Reference: MattWallingford/TAPS models/taps_net.py (which calls itself unofficial). We follow it: I is one number per
layer, starts at 0.15 and gets its gradient straight through the step; D starts at 0; SGD with Nesterov momentum 0.9 at
rate 0.01; no penalty during the first 2 of 30 epochs (``warmup``). Ours departs where it is bound to ResNet-50: its
division by 52 is by the number of layers L; a layer is any convolution, linear map or attention projection, its bias
moving with its weight; norms are each task's own (weight and bias; running statistics stay the base's, in evaluation
mode); embedding tables stay the base's. Gradients are not accumulated over 8 small batches: a step takes the whole.
The experts give frozen heads only; the encoder starts from the base. Stored per task: its active layers and its norms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.api import (
    LABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    Natural,
    NonNegative,
    Portion,
    Stream,
    method,
)
from methods.tools.losses import supervised_loss
from methods.tools.multitask import descend, layered, trainable

START = 0.15


@method(title="TAPS", paper="arXiv:2203.16708", access=Access(train=LABELLED), footprint=Footprint(adapting=(3, 3)))
def taps(
    experts: Experts,
    stream: Stream,
    *,
    threshold: float = 0.1,
    sparsity: NonNegative = 1.0,
    steps: Natural = 2000,
    lr: NonNegative = 1e-2,
    batch_size: Count = 128,
    warmup: Portion = 0.07,
    seed: int = 0,
) -> Merged:
    """Train, for every task, changes to as few layers of the base as its loss allows.

    Args:
        threshold: a layer is a task's own where its score is at least this.
        sparsity: weight of the mean absolute score.
        steps: updates; each sees ``batch_size`` images of every task.
        lr: peak rate of SGD; it falls along a cosine.
        warmup: share of the steps without the penalty.
        seed: the stream's seed.
    """
    groups, norms = layers(experts)
    base = {n: experts.base_tensor(n) for n in experts.names}
    changes = {t: {n: nn.Parameter(torch.zeros_like(base[n])) for g in groups for n in g} for t in stream.tasks}
    own = {t: {n: nn.Parameter(base[n].clone()) for n in norms} for t in stream.tasks}
    scores = {t: nn.Parameter(torch.full((len(groups),), START, device=experts.device)) for t in stream.tasks}
    heads = {t: experts.copy_head(t).eval().requires_grad_(False) for t in stream.tasks}
    done = 0

    def weights(task: str) -> dict[str, Tensor]:
        on = active(scores[task], threshold).unbind(0)
        return {n: base[n] + on[i] * changes[task][n] for i, names in enumerate(groups) for n in names}

    def loss(task: str, batch: Batch) -> Tensor:
        features = experts.forward({**base, **own[task], **weights(task)}, task, batch.inputs)
        value = supervised_loss(experts.kind(task), heads[task](features), batch.labels)
        return value + (sparsity * scores[task].abs().mean() if done >= warmup * steps else 0.0)

    def finish() -> None:
        nonlocal done
        done += 1

    trained = [p for part in (changes, own) for t in part.values() for p in t.values()] + list(scores.values())
    optimiser = torch.optim.SGD(trained, lr=lr, momentum=0.9, nesterov=True)
    trace = descend(stream, optimiser, loss, steps=steps, batch_size=batch_size, warmup=0.0, finish=finish)
    on = {t: (scores[t] >= threshold).tolist() for t in scores}
    chosen = {t: {n for g, active in zip(groups, on[t], strict=True) if active for n in g} for t in scores}
    with torch.no_grad():
        tensors = {t: {**own[t], **{n: v for n, v in weights(t).items() if n in chosen[t]}} for t in own}
    needed = {n: v for n, v in base.items() if any(n not in tensors[t] for t in tensors)}
    counts = {t: sum(on[t]) for t in on}
    return layered(experts, needed, tensors, {**trace, "active_layers": counts, "layers": len(groups)})


def active(scores: Tensor, threshold: float) -> Tensor:
    """1 where a score reaches the threshold, else 0; the gradient passes as if it were the score itself."""
    return (scores >= threshold).to(scores.dtype) + (scores - scores.detach())


def layers(experts: Experts) -> tuple[list[list[str]], list[str]]:
    """The encoder's layers (a weight of two or more dimensions with its bias), and the tensors of its norms."""
    names = trainable(experts)
    assert experts.encoder is not None
    norm = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    within = tuple(f"{n}." for n, m in experts.encoder.named_modules() if isinstance(m, norm))
    norms = [n for n in names if n.startswith(within)] if within else []
    groups = []
    for name in names:
        if name in norms or experts.base[name].ndim < 2 or "embedding" in name:
            continue
        bias = name.removesuffix("weight") + "bias"
        groups.append([name, bias] if name.endswith("weight") and bias in names else [name])
    return groups, norms
