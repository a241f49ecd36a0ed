"""Fisher-weighted averaging: each parameter is the mean of the experts', weighted by how sharply each expert needs it.

Merging Models with Fisher-Weighted Averaging. Matena, Raffel, NeurIPS 2022, arXiv:2111.09832.

    theta = sum_k w_k theta_k / sum_k w_k,    w_k = (F_k + floor) / (|| F_k || + floor)
    F_k = E_x E_y~p(y | x; theta_k) (d log p(y | x; theta_k) / d theta)^2, the diagonal of the Fisher information

References: FusionBench fusion_bench/method/fisher_merging (normalise="model", floor 1e-6, the defaults here),
bloomberg/dataless-model-merging src/model_merge/avg_merger.py (normalise=None, floor 1e-10); the authors'
mmatena/model_merging (TensorFlow) takes max(F, floor). Every tensor is merged. As in the paper, y is the expert's own
prediction, so no labels are needed; the expectation over classes is estimated without bias from one backward pass per
sample (``tools.fisher_information``) where the references take one per class. Departure: a model or tensor
without any information has no weight beyond its floor, and where all weights are 0 the plain mean takes over (the
code gives NaN). Nothing is stored per task.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, MergingError, NonNegative, Stream, method
from methods.tools.activations import per_task
from methods.tools.fisher_information import fisher_information
from methods.tools.vectors import choice


@method(
    title="Fisher Merging",
    paper="arXiv:2111.09832",
    access=Access(train=UNLABELLED),
    footprint=Footprint(statistics="gradients"),
)
def fisher(
    experts: Experts,
    stream: Stream,
    *,
    examples: Count = 256,
    floor: NonNegative = 1e-6,
    normalise: Literal["model", "param"] | None = "model",
) -> Merged:
    """Average the experts with the diagonal of their Fisher information as weights.

    Args:
        examples: unlabelled training samples per task; one backward pass each.
        floor: added to every Fisher value.
        normalise: divide each expert's Fisher values by their norm over the whole ``"model"``, over each ``"param"``
            (tensor), or ``None``.
    """
    return from_fisher(experts, fisher_information(experts, stream, examples), floor=floor, normalise=normalise)


def from_fisher(experts: Experts, fisher: Any, floor: float = 1e-6, normalise: str | None = "model") -> Merged:
    """Fisher merging from values computed elsewhere.

    Args:
        fisher: ``{task: {name: [*shape]}}``, or a list of the inner mappings in the order of tasks.
    """
    if normalise is not None:
        choice("normalise", normalise, ("model", "param"))
    if not floor >= 0:
        raise MergingError(f"floor is {floor!r}; expected a number that is not negative, such as floor=1e-6")
    weights = {n: torch.zeros_like(experts.base_tensor(n)) for n in experts.names}
    weighted = {n: torch.zeros_like(t) for n, t in weights.items()}
    for task, values in per_task(experts, fisher):
        missing = [n for n in experts.names if n not in values]
        if missing:
            raise MergingError(
                f"no Fisher values of {task!r} for {missing[0]} and {len(missing) - 1} more tensors; expected all"
            )
        norms = {n: float(torch.linalg.vector_norm(values[n], dtype=torch.float64)) for n in experts.names}
        whole = sum(v * v for v in norms.values()) ** 0.5
        for name in experts.names:
            norm = {"model": whole, "param": norms[name], None: 1.0}[normalise]
            length = norm + floor if normalise and norm > 0 else 1.0
            weight = (values[name].to(experts.device, torch.float32) + floor) / length
            weights[name] += weight
            weighted[name].addcmul_(weight, experts.task_vector(name, task))
    return Merged(
        experts, {n: experts.base_tensor(n) + average(experts, n, weighted[n], weights[n]) for n in experts.names}
    )


def average(experts: Experts, name: str, weighted: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean task vector; the plain mean where there is no weight."""
    mean = weighted / weight.where(weight > 0, 1.0)
    if bool((weight > 0).all()):
        return mean
    return torch.where(weight > 0, mean, experts.task_vectors(name).mean(0))
