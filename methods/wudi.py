"""WUDI-Merging, and its closed form: a merged matrix that interferes least with the span of each task vector.

Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors. Cheng, Xiong, Wei,
Zhu, Yuan, ICML 2025, arXiv:2503.08099.

    theta = theta0 + scale * M,    M = argmin sum_k || (M - tau_k) tau_k^T ||_F^2 / || tau_k ||_F^2 from sum_k tau_k

solver="adam" (the paper): nathanielyvo/WUDI-Merging vit/wudi_main.py. 300 steps at 1e-5 move an entry by 3e-3 at
most: as far as the minimum where experts are as gentle as the paper's, and for experts further from their base a start
that is left halfway. Only attention and MLP weights are merged, every other tensor
stays the base's; a task's zero vector has no term (FusionBench's port divides by zero). tensors="matrices" is
FusionBench's reading: every 2-D tensor, the others the mean. solver="closed_form" and "auto_rank": SWUDI and ASWUDI,
WalkerWorldPeace/MLLMerging LLaMA-Factory/swudi_aswudi.py. Gradient flow for ``time`` on the leading ceil(rank n)
eigenvectors of C = sum_k tau_k^T tau_k / ||tau_k||^2, or the minimum on the leading ceil((sum sqrt(lambda))^2 / sum
lambda). Every 2-D tensor is solved, others are the mean; norms, biases, embeddings and a language-model head stay the
base's (the code's exclusions without its "vision_model", which would leave a vision tower unmerged). Nothing is
stored per task.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Natural, NonNegative, Share, method
from methods.tools.interference import Moments, filtered, merge_parts, moments
from methods.tools.quadratic import descend
from methods.tools.spectral import significant, sum_vector
from methods.tools.vectors import ceiling, choice, fraction

SOLVERS = ("adam", "closed_form", "auto_rank")


@method(
    title="WUDI-Merging",
    paper="arXiv:2503.08099",
    needs=("matrices",),
    footprint=Footprint(products=(0, 2), step_products=(0.4, 0)),
)
def wudi(
    experts: Experts,
    *,
    steps: Natural = 300,
    lr: NonNegative = 1e-5,
    scale: float = 1.0,
    solver: Literal["adam", "closed_form", "auto_rank"] = "adam",
    time: NonNegative = 300.0,
    rank: Share = 0.65,
    tensors: Literal["blocks", "weights", "matrices"] | None = None,
) -> Merged:
    """Start from the sum of task vectors and remove what each would do to the others' inputs.

    Args:
        steps, lr: of Adam, for ``solver="adam"``.
        scale: coefficient of the merged vector.
        solver: ``"adam"``, ``"closed_form"`` or ``"auto_rank"``.
        time: of the gradient flow; ``rank``: share of eigenvectors it acts on, in (0, 1]; for ``solver="closed_form"``.
        tensors: ``"blocks"`` (attention and MLP weights; the default for Adam), ``"weights"`` (the default of the
            closed forms) or ``"matrices"``; see ``interference.merge_parts``.
    """
    choice("solver", solver, SOLVERS)
    fraction("rank", rank)
    part = tensors or ("blocks" if solver == "adam" else "weights")
    choice("tensors", part, ("blocks", "weights", "matrices"))

    def response(values: Tensor) -> Tensor:
        return flow(values, time, rank) if solver == "closed_form" else truncated(values)

    def solve(name: str) -> Tensor:
        start = sum_vector(experts, name)
        if solver == "adam":
            return descend(start, *task_moments(experts, name, start), steps, lr)
        start = start.double()
        return filtered(start, task_moments(experts, name, start), response).float()

    return Merged(experts, merge_parts(experts, part, scale, solve))


def task_moments(experts: Experts, name: str, start: Tensor) -> Moments:
    """The quadratic whose inputs and targets are the task vectors themselves, in the precision of ``start``."""
    base = experts.base_tensor(name)
    vectors = (experts.task_vector(name, task, base).to(start.dtype) for task in experts.tasks)
    return moments(start, ((v, v, v) for v in vectors))


def flow(values: Tensor, time: float, rank: float) -> Tensor:
    """Gradient flow on the leading ``ceil(rank n)`` directions: (1 - exp(-time lambda)) / lambda, 0 on null ones."""
    leading = torch.arange(len(values), device=values.device) < ceiling(rank * len(values))
    gone = -torch.expm1(-time * values)
    return torch.where(leading & determined(values), gone / values.clamp(min=torch.finfo(values.dtype).tiny), 0.0)


def truncated(values: Tensor) -> Tensor:
    """The minimum on as many directions as ``(sum sqrt(lambda))^2 / sum(lambda)`` counts, rounded up."""
    total = float(values.sum())
    count = ceiling(float(values.sqrt().sum()) ** 2 / total) if total > 0 else 0
    leading = (torch.arange(len(values), device=values.device) < count) & determined(values)
    return torch.where(leading, 1 / values.clamp(min=torch.finfo(values.dtype).tiny), 0.0)


def determined(values: Tensor) -> Tensor:
    """Which eigenvalues of C, float64, are more than the task vectors' own rounding: they are squared singular values
    of the vectors put above one another, and float32 knows these to its precision, not to its square."""
    return significant(values.sqrt())
