"""LOT Merging: the layer-wise optimal task vector, nearest to all experts in the features that it makes.

Towards Minimizing Feature Drift in Model Merging: Layer-wise Task Vector Fusion for Adaptive Knowledge Integration.
Sun, Li, Wang, Liu, Geng, Li, NeurIPS 2025, arXiv:2505.23859.

    theta = theta0 + T,    in linear layers  T = (sum_k tau_k G_k) (sum_k G_k)^+,  G_k = X_k^T X_k
    linear:  T = argmin sum_k || X_k T^T - X_k tau_k^T ||_F^2,    X_k the layer's inputs under expert k (Eq. 9)
    norm:    t_i = sum_k ||x_ki||^2 tau_ki / sum_k ||x_ki||^2, x the normalised input that the weight scales (Eq. 12)
    others:  the mean task vector

The authors' code could not be had: written from the paper. Decisions: X_k are the inputs under expert k on its own
task (not under the merged network so far); the packed in-projection of attention is a linear layer whose input is the
block's; biases and shifts, embeddings, convolutions and the output projection are the mean (for a bias the
minimiser); every layer norm takes the norm rule, the last one too; feature dimensions that no sample excites take the
mean; there is no coefficient. Directions that no exemplar has stay at the base: eigenvalues below 1e-10 of the
largest count as none. Nothing is stored per task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, Stream, method
from methods.tools.activations import grams, layers, least_squares, per_task
from methods.tools.spectral import mean_vector


@method(
    title="LOT Merging",
    paper="arXiv:2505.23859",
    access=Access(train=UNLABELLED),
    needs=("matrices",),
    footprint=Footprint(statistics="grams"),
)
def lot(experts: Experts, stream: Stream, *, examples: Count = 32) -> Merged:
    """Merge linear and norm layers by least squares on the features of a few samples, everything else by the mean.

    Args:
        examples: unlabelled training samples per task; the paper uses 16 to 64.
    """
    wanted = [n for kind in ("linear", "projection", "norm") for n in layers(experts, kind)]
    return from_grams(experts, grams(experts, stream, examples, wanted))


def from_grams(experts: Experts, grams: Any) -> Merged:
    """LOT Merging from Gram matrices computed elsewhere.

    Args:
        grams: ``{task: {tensor name: X^T X}}``: ``[in, in]`` for a weight ``[out, in]``, ``[d, d]`` or its diagonal
            ``[d]`` for a norm's weight ``[d]``; or a list of the inner mappings in the order of tasks.
    """
    energies: dict[str, list[Tensor]] = {}
    fitted = least_squares(experts, split(experts, grams, energies))
    merged = {}
    for name in experts.names:
        if name in fitted:
            vector = fitted.pop(name)
        elif name in energies:
            vector = weighted_mean(experts.task_vectors(name), torch.stack(energies.pop(name)))
        else:
            vector = mean_vector(experts, name)
        merged[name] = vector.add_(experts.base_tensor(name))
    return Merged(experts, merged)


def split(
    experts: Experts, grams: Any, energies: dict[str, list[Tensor]]
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The Gram matrices of linear weights, one task at a time; those of norms go to ``energies`` as their diagonals."""
    for task, matrices in per_task(experts, grams):
        linear = {}
        for name, gram in matrices.items():
            if name in experts.base and experts.base[name].ndim == 1:
                energies.setdefault(name, []).append((gram.diagonal() if gram.ndim == 2 else gram).to(experts.device))
            else:
                linear[name] = gram
        yield task, linear


def weighted_mean(vectors: Tensor, energy: Tensor) -> Tensor:
    """``[K, d]`` vectors weighted by ``[K, d]`` energies; the plain mean where there is none."""
    total = energy.sum(0)
    mean = (vectors * energy).sum(0) / total.where(total > 0, 1.0)
    return torch.where(total > 0, mean, vectors.mean(0, dtype=mean.dtype)).float()
