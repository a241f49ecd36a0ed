"""AdaRank: which singular components of the task vectors to keep, learned with the coefficients from entropy.

AdaRank: Adaptive Rank Pruning for Enhanced Model Merging. Lee et al., ICLR 2026, arXiv:2503.22178.

    theta_l = origin_l + sum_k w_kl U_kl diag(s_kl * 1[m_kl > 0]) V_kl^T,     tau_k = U_k diag(s_k) V_k^T
    min over w, m of  sum_k E_x H( softmax(h_k(f(x; theta))) )

Reference: david3684/AdaRank vision/src/models/merge_vit/adaptive.py, vision/runner.py. The step is straight-through:
m > 0 decides, the gradient is that of sigmoid(m / 10). m starts at +0.1 for the first int(r * rank) components and at
-0.1 beyond (``rank=0`` stands for 1/K). Masks are for the weights of attention and MLP; every other tensor has its
coefficient only; coefficients are not clamped. ``origin="base"`` is the paper's TA + AdaRank; ``origin="mean"`` is
CART + AdaRank: origin = mean of experts, tau_k = theta_k - mean. The authors' settings for ViT-B-32: base prior 0.3
(20 tasks: 0.05), rank 1; mean prior 2.3, 2.8, 2.4 for 8, 14, 20 tasks, rank 0.16 (14: 0.32); ``prior=None`` is 0.3 or
2.3. The code reports the best of the test accuracies it saw on the way; we return the last step.
Ours departs on encoders without attention or MLP weights (convolutional nets): there every weight of two or more
dimensions is decomposed as [first, rest]. Stored: the merged model alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.adamerging import class_entropy, coefficient_trace
from methods.api import (
    UNLABELLED,
    Access,
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
from methods.tools.adaptation import adapt_merge
from methods.tools.coefficients import combine
from methods.tools.spectral import task_svd
from methods.tools.vectors import choice, fraction

TEMPERATURE = 10.0
START = 0.1


@method(
    title="AdaRank",
    paper="arXiv:2503.22178",
    access=Access(test=UNLABELLED),
    needs=("classes", "matrices"),
    footprint=Footprint(spectra=True, decompositions=(2, 1)),
)
def adarank(
    experts: Experts,
    stream: Stream,
    *,
    origin: Literal["base", "mean"] = "base",
    prior: float | None = None,
    rank: Portion = 1.0,
    steps: Natural = 10000,
    lr: NonNegative = 1e-3,
    batch_size: Count = 16,
    seed: int = 0,
) -> Merged:
    """Learn binary masks over singular components, and coefficients, by entropy minimisation.

    Args:
        origin: ``"base"``, or ``"mean"`` (the mean of the experts, CART).
        prior: what every coefficient starts from; ``None`` is 0.3 for the base and 2.3 for the mean.
        rank: share of the components that are kept at first, in [0, 1]; 0 is 1/K.
        steps: Adam steps; each sees one batch of ``batch_size`` of every task.
        seed: the stream's seed.
    """
    choice("origin", origin, ("base", "mean"))
    fraction("rank", rank, zero=True)
    start = prior if prior is not None else (0.3 if origin == "base" else 2.3)
    merge = RankMerge(experts, centred=origin == "mean", prior=start, rank=rank or 1 / len(experts))
    trace = adapt_merge(
        experts,
        stream,
        merge,
        lambda task, outputs, batch: class_entropy(outputs),
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        split="test",
    )
    learned: Any = merge
    masks = {f"mask/{name}": mask.detach().cpu() for name, mask in merge.named_masks()}
    return Merged(experts, merge.merged(), trace={**trace, **coefficient_trace(learned), **masks})


class RankMerge(nn.Module):
    """``origin + sum_k w_k U_k diag(s_k [m_k > 0]) V_k^T`` per tensor; differentiable in ``raw`` [L, K] and the masks.

    ``masks`` holds one ``[K, r]`` per decomposed tensor, in the order of ``decomposed``.
    """

    def __init__(self, experts: Experts, *, centred: bool, prior: float, rank: float) -> None:
        super().__init__()
        self.names = experts.names
        self.raw = nn.Parameter(torch.full((len(self.names), len(experts)), float(prior), device=experts.device))
        chosen = decomposed(experts)
        self.base: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}
        self.factors: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self.decomposed = tuple(n for n in self.names if chosen(n))
        self.masks = nn.ParameterList()
        for name in self.names:
            self.base[name], vectors = experts.base_tensor(name), experts.task_vectors(name)
            if centred:
                mean = vectors.mean(0)
                self.base[name], vectors = self.base[name] + mean, vectors - mean
            if name not in self.decomposed:
                self.vectors[name] = vectors.reshape(len(experts), -1).contiguous()
                continue
            pairs = zip(experts.tasks, vectors.flatten(2), strict=True)
            left, values, right = zip(*(task_svd(experts, name, t, vector=v) for t, v in pairs), strict=True)
            s = torch.stack(values)
            self.factors[name] = (torch.cat(left, 1), s, torch.cat(right))
            mask = torch.full_like(s, -START)
            mask[:, : int(s.shape[1] * rank)] = START
            self.masks.append(nn.Parameter(mask))

    def named_masks(self) -> list[tuple[str, Tensor]]:
        """The learned mask values ``[K, r]`` by tensor name; positive is kept."""
        return list(zip(self.decomposed, self.masks, strict=True))

    def coefficients(self) -> Tensor:
        """``[L, K]``, as they are."""
        return self.raw

    def forward(self) -> dict[str, Tensor]:
        """The merged tensors, differentiable."""
        rows, masks, merged = dict(zip(self.names, self.raw.unbind(0), strict=True)), dict(self.named_masks()), {}
        for name in self.names:
            if name in self.vectors:
                merged[name] = combine(rows[name], self.base[name], self.vectors[name])
                continue
            u, s, v = self.factors[name]
            weights = rows[name].unsqueeze(1) * s * hard(masks[name])
            merged[name] = self.base[name] + ((u * weights.flatten()) @ v).view_as(self.base[name])
        return merged

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """The merged tensors as they stand."""
        return self.forward()


def hard(mask: Tensor) -> Tensor:
    """1 where ``mask`` is positive, else 0, with the gradient of ``sigmoid(mask / 10)``."""
    soft = (mask / TEMPERATURE).sigmoid()
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


def decomposed(experts: Experts) -> Callable[[str], bool]:
    """Which tensors are decomposed: attention and MLP weights, or every weight matrix where there are none."""
    shapes = {n: experts.base[n].shape for n in experts.names}
    matrices = {n for n, shape in shapes.items() if len(shape) >= 2 and shape.numel() > 0}
    named = {n for n in matrices if is_block_weight(n)}
    return (named or matrices).__contains__


def is_block_weight(name: str) -> bool:
    """A weight of attention or MLP, under the names of open_clip or of transformers' BERT family."""
    if "bias" in name or "ln" in name or "LayerNorm" in name:
        return False
    return any(part in name for part in ("attn", "mlp", "attention.", "intermediate.dense", "output.dense"))
