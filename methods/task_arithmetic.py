"""Task arithmetic and weight averaging.

Editing Models with Task Arithmetic. Ilharco et al., ICLR 2023, arXiv:2212.04089.
Model soups. Wortsman et al., ICML 2022, arXiv:2203.05482.

    Task Arithmetic:   theta = theta0 + scale * sum_k tau_k,    tau_k = theta_k - theta0
    Weight Averaging:  theta = theta0 + 1/K * sum_k tau_k

Every floating tensor is merged; integer buffers stay the base's (the authors' code drops int64 and uint8 as well).
Reference: mlfoundations/task_vectors src/task_vectors.py. No departures.
"""

from __future__ import annotations

from methods.api import Experts, Footprint, Merged, method
from methods.tools.vectors import per_tensor


@method(
    title="Task Arithmetic",
    paper="arXiv:2212.04089",
    grids={"scale": (0.05, 1.0, 20)},
    footprint=Footprint(local=True),
)
def task_arithmetic(experts: Experts, *, scale: float = 0.3) -> Merged:
    """Add the scaled sum of task vectors to the base.

    Args:
        scale: the one coefficient of all tasks; 0.3 is the paper's for eight tasks.
    """
    return Merged(experts, per_tensor(experts, lambda vectors: scale * vectors.sum(0)))


@method(title="Weight Averaging", paper="arXiv:2203.05482", footprint=Footprint(local=True))
def weight_average(experts: Experts) -> Merged:
    """The mean of the experts' weights."""
    return Merged(experts, per_tensor(experts, lambda vectors: vectors.mean(0)))
