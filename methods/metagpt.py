"""MetaGPT: task arithmetic with coefficients that follow from the lengths of the task vectors.

MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic. Zhou, Song, Wang, Chen, EMNLP 2024,
arXiv:2406.11385.

    theta = theta0 + sum_k lambda_k tau_k,    lambda_k = |tau_k|^2 / sum_j |tau_j|^2

Reference: the port in IBM/STAR merger/metagpt.py; the authors' code was not to be had. The lengths are those of the
whole task vectors, every floating tensor counted, in float64. Departure: experts that are all equal to the base (0/0
there) give the base. Nothing is stored per task.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, method
from methods.tools.vectors import per_tensor


@method(title="MetaGPT", paper="arXiv:2406.11385", footprint=Footprint(tensor=(0, 4)))
def metagpt(experts: Experts) -> Merged:
    """Add the task vectors, each by its share of the sum of squared lengths."""
    sizes = torch.zeros(len(experts), dtype=torch.float64)
    for name in experts.names:
        sizes += experts.task_vectors(name).reshape(len(experts), -1).double().square().sum(1).cpu()
    coefficients = sizes / sizes.sum() if bool(sizes.any()) else sizes
    weights = coefficients.to(experts.device, torch.float32)

    def combine(vectors: Tensor) -> Tensor:
        return (weights.view(-1, *[1] * (vectors.ndim - 1)) * vectors).sum(0)

    return Merged(experts, per_tensor(experts, combine), trace={"coefficients": coefficients.float()})
