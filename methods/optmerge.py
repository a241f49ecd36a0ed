"""OptMerge: WUDI on denoised task vectors.

OptMerge: Unifying Multimodal LLM Capabilities and Modalities via Model Merging. Wei, Cheng, Jin, Yang, Shen, Hou, Du,
Yuan, Cao, Tao, ICLR 2026, arXiv:2505.19892.

    theta = theta0 + scale * M,   min over M of  sum_k || (M - T_k) L_k^T ||_F^2 / || tau_k ||_F^2
    L_k = S_r V_r^T of tau_k, r = int(min(m, n) / K)
    "internvl":  T_k = mean + SVD_r(tau_k - mean), from the sum, Adam 1e-5;             theta = theta0 + 0.1 M
    "qwen":      T_k = SVD_r(tau_k), from the mean, descent 1e-4 with momentum 0.9;     theta = theta0 + M

Reference: WalkerWorldPeace/MLLMerging, InternVL/internvl_chat/model_merging.py (full fine-tuning) and
LLaMA-Factory/model_merging.py (Qwen2-VL, LoRA); the two differ as shown, so a result must say which. Every 2-D
tensor is optimised and every other one is the mean; norms, biases, embeddings and a language-model head stay the
base's (the code's exclusions without its "vision_model"). The coefficient multiplies all merged tensors. Nothing is
stored per task. The gradient descent is linear, so its 300 steps are done at once in the eigenvectors of C; rounding
aside, the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, Natural, method
from methods.tools.interference import Term, filtered, merge_parts, moments
from methods.tools.quadratic import descend
from methods.tools.spectral import leading, mean_vector, sum_vector, task_svd
from methods.tools.vectors import choice


@method(
    title="OptMerge",
    paper="arXiv:2505.19892",
    needs=("matrices",),
    footprint=Footprint(local=True, decompositions=(2, 1), products=(0, 2), step_products=(0.4, 0)),
)
def optmerge(
    experts: Experts,
    *,
    variant: Literal["internvl", "qwen"] = "internvl",
    steps: Natural = 300,
    scale: float | None = None,
) -> Merged:
    """Optimise the merged matrix against the leading inputs of each task vector.

    Args:
        variant: ``"internvl"`` (Adam from the sum) or ``"qwen"`` (gradient descent with momentum from the mean).
        steps: of the optimiser.
        scale: coefficient of the merged vector; default 0.1 for internvl, 1.0 for qwen.
    """
    centred = choice("variant", variant, ("internvl", "qwen")) == "internvl"

    def solve(name: str) -> Tensor:
        start = sum_vector(experts, name) if centred else mean_vector(experts, name)
        interference = moments(start, terms(experts, name, centred))
        if centred:
            return descend(start, *interference, steps, lr=1e-5)
        return filtered(start, interference, lambda values: momentum(values, steps))

    factor = scale if scale is not None else (0.1 if centred else 1.0)
    return Merged(experts, merge_parts(experts, "weights", factor, solve))


def terms(experts: Experts, name: str, centred: bool) -> Iterator[Term]:
    """Vector, inputs ``S V^T [r, n]`` and low-rank target ``[m, n]`` of each task."""
    base, mean = experts.base_tensor(name), mean_vector(experts, name)
    for task in experts.tasks:
        vector = experts.task_vector(name, task, base)
        rank = min(vector.shape) // len(experts)
        u, s, vh = task_svd(experts, name, task, rank, vector=vector)
        inputs = s[:, None] * vh
        if centred:
            u, s, vh = leading(vector - mean, rank)
        target = (u * s) @ vh
        yield vector, inputs, target + mean if centred else target


def momentum(values: Tensor, steps: int, lr: float = 1e-4, beta: float = 0.9) -> Tensor:
    """What ``steps`` of descent with momentum multiply the start's residual by, in a direction of eigenvalue lambda."""
    wide = values.double()
    weight, speed = torch.zeros_like(wide), torch.zeros_like(wide)
    for _ in range(steps):
        speed = beta * speed + 2 * (wide * weight - 1)
        weight = weight - lr * speed
    return weight.to(values.dtype)
