"""AWD: take a redundant vector out of all task vectors, so that they are nearer to orthogonal.

Multi-Task Model Merging via Adaptive Weight Disentanglement. Xiong et al., arXiv:2411.18729.

    theta = inner({tau_k - delta})
    delta = argmin  mean_{i != j} |cos(tau_i - delta, tau_j - delta)| + alpha * |delta|

No reference code: the authors' repository (FarisXiong/AWD) holds a README only. Decisions, all ours:
- delta is found tensor by tensor, and |delta| is its length over the mean length of the task vectors, so that alpha
  has no unit.
- delta = sum_k a_k tau_k. Every gradient of the loss lies in the span of task vectors and delta, so gradient descent
  from 0 never leaves it; in the K numbers a the loss needs only the K x K inner products, and all tensors are solved
  at once.
- a starts at 0; Adam, steps and lr as given; of all steps each tensor keeps the a of least loss, so that the loss
  never ends above its start.
- a zero vector has cosine 0 with every other. With one task delta is 0.
Every floating tensor is merged. What is kept is the inner method's.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, MethodName, Natural, NonNegative, Stream, method
from methods.tools.inner import run_edited

TINY = 1e-12


@method(title="AWD", paper="arXiv:2411.18729", grids={"scale": (0.05, 1.0, 20)}, footprint=Footprint(holds=(2, 0)))
def awd(
    experts: Experts,
    stream: Stream | None = None,
    *,
    inner: MethodName = "task_arithmetic",
    alpha: NonNegative = 0.1,
    steps: Natural = 300,
    lr: Annotated[float, "(0, inf)"] = 1e-2,
    scale: float = 0.3,
) -> Merged:
    """Subtract the redundant vector from every task vector, then merge with another method.

    Args:
        inner: the method that merges what is left: ``"task_arithmetic"``, ``"adamerging"`` or any other.
        alpha: weight of the redundant vector's length.
        steps: Adam steps.
        lr: Adam's rate, in units of the coefficients ``a``.
        scale: coefficient of the inner method, where it has one.
    """
    if alpha < 0 or steps < 0 or lr <= 0:
        raise MergingError(
            f"alpha={alpha!r}, steps={steps!r}, lr={lr!r}; expected alpha and steps of 0 or more and lr "
            "above 0, such as alpha=0.1, steps=300, lr=0.01"
        )
    if not experts.names:
        return Merged(experts)
    grams = torch.stack([inner_products(experts.task_vectors(n)) for n in experts.names])
    weights = disentangle(grams, alpha=alpha, steps=steps, lr=lr)
    redundant = {
        n: weighted(a.to(experts.device, torch.float32), experts.task_vectors(n))
        for n, a in zip(experts.names, weights, strict=True)
    }
    merged = run_edited(
        inner, experts, lambda name, task, vector: vector.sub_(redundant[name]), stream, outer="awd", scale=scale
    )
    before, after = interference(grams).mean(), interference(without(grams, weights)).mean()
    merged.trace.update(
        redundant_weights=weights.float(),
        redundant_rows=list(experts.names),
        mean_cosine_before=float(before),
        mean_cosine_after=float(after),
    )
    return merged


def inner_products(vectors: Tensor) -> Tensor:
    """``[K, *shape]`` to float64 ``[K, K]`` on the CPU."""
    flat = vectors.reshape(len(vectors), -1)
    with torch.autocast(flat.device.type, enabled=False):
        return (flat @ flat.t()).to("cpu", torch.float64)


def weighted(weights: Tensor, vectors: Tensor) -> Tensor:
    """``sum_k weights[k] vectors[k]``: ``[K]``, ``[K, *shape]`` to ``[*shape]``, float32 whatever autocast says."""
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.tensordot(weights, vectors, 1)


def without(grams: Tensor, weights: Tensor) -> Tensor:
    """Inner products ``[L, K, K]`` of the vectors less ``delta = sum_k weights[:, k] tau_k``."""
    change = torch.eye(grams.shape[-1], dtype=grams.dtype) - weights.unsqueeze(1)
    return change @ grams @ change.transpose(1, 2)


def interference(grams: Tensor) -> Tensor:
    """``mean_{i != j} |cos_ij|`` of every tensor, ``[L]``, from inner products ``[L, K, K]``."""
    count = grams.shape[-1]
    lengths = grams.diagonal(dim1=1, dim2=2).clamp(min=TINY).sqrt()
    cosines = grams / (lengths.unsqueeze(1) * lengths.unsqueeze(2))
    return (cosines.abs() * (1 - torch.eye(count, dtype=grams.dtype))).sum((1, 2)) / max(1, count * (count - 1))


def disentangle(grams: Tensor, *, alpha: float, steps: int, lr: float) -> Tensor:
    """The weights of the redundant vector of every tensor, float64 ``[L, K]``, from inner products ``[L, K, K]``."""
    size = grams.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    grams = grams / size.where(size > 0, 1.0)
    reach = grams.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().mean(1).clamp(min=TINY)
    weights = torch.zeros(grams.shape[:2], dtype=grams.dtype, requires_grad=True)
    best, least = weights.detach().clone(), torch.full(grams.shape[:1], torch.inf, dtype=grams.dtype)
    optimiser = torch.optim.Adam([weights], lr=lr)
    for step in range(steps + 1):
        length = (weights.unsqueeze(1) @ grams @ weights.unsqueeze(2)).flatten().clamp(min=0).add(TINY).sqrt() / reach
        loss = interference(without(grams, weights)) + alpha * length
        better = loss.detach() < least
        least = loss.detach().where(better, least)
        best = weights.detach().where(better[:, None], best)
        if step < steps:
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
    return best
