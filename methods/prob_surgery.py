"""ProbSurgery: the bias of the merged features as a distribution, learned per task (or once for all tasks).

Representation Surgery in Model Merging with Probabilistic Modeling. Wei et al., ICML 2025 (PMLR 267:66015-66032).

    f^ = f - mu,   trained as f^ = f - z by  min E_x | f^(x) - f_k(x) |_1 + kl * KL( N(mu, var) || N(0, 1) )
    h = relu(W1 f),  mu = W2 h,  log var = W3 h,  z = mu + eps exp(log var / 2)

f: features of a frozen merge (``inner``); f_k: those of expert k. Reference: 1998v7/ProbSurgery
code/src_ours/merging_model.py. We follow its code: rank 128, no biases, W1 from U(-1/sqrt(d), 1/sqrt(d)), W2 and W3
zero, KL summed over features and averaged over the batch with weight 1e-4, one Adam update per task in turn. It loads
100 batches per task and repeats them; ours goes on drawing from the stream. ``shared=True`` is its one module for all
tasks. Stored: W1 and W2 (W3 is not needed at inference), per task unless shared; then no task id is needed for them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.api import (
    UNLABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    MethodName,
    Natural,
    NonNegative,
    Stream,
    method,
)
from methods.surgery import Correction, Frozen, features_last, inner_merge, on_top
from methods.tools.adaptation import adapt


@method(
    title="ProbSurgery",
    paper="PMLR 267:66015-66032",
    access=Access(test=UNLABELLED),
    footprint=Footprint(passes=0, teacher=True, frozen=True),
)
def prob_surgery(
    experts: Experts,
    stream: Stream,
    *,
    inner: MethodName = "task_arithmetic",
    rank: Count = 128,
    steps: Natural = 500,
    lr: NonNegative = 1e-3,
    kl: NonNegative = 1e-4,
    shared: bool = False,
    batch_size: Count = 16,
    seed: int = 0,
) -> Merged:
    """Fit a distribution of the features' bias to the expert's features; use its mean.

    Args:
        inner: the method whose merge is corrected, with its defaults.
        rank: width of the bottleneck.
        steps: rounds over all tasks, one update per task and round.
        kl: weight of the divergence from the standard normal.
        shared: one module for all tasks.
        seed: the stream's seed, and that of W1 and of the noise.
    """
    merged = inner_merge(experts, stream, "prob_surgery", inner)
    frozen = Frozen(experts, stream, merged, steps=steps, batch_size=batch_size, draws=1)
    generator = torch.Generator().manual_seed(seed)
    owners = ("all",) if shared else experts.tasks
    modules = {o: Distribution(frozen.width, rank, generator).to(experts.device) for o in owners}

    def loss(task: str, batch: Batch) -> Tensor:
        module = modules["all" if shared else task]
        ours = features_last(frozen.ours(task, batch))
        mean, log_variance = module.moments(ours)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        sampled = ours - (mean + noise * (0.5 * log_variance).exp())
        bias = F.l1_loss(sampled, features_last(frozen.theirs(task, batch)))
        return bias + kl * divergence(mean, log_variance)

    trained = [p for m in modules.values() for p in m.parameters()]
    trace = adapt(stream, trained, loss, steps=steps, lr=lr, batch_size=batch_size, split="test")
    return on_top(merged, {o: m.state_dict() for o, m in modules.items()}, trace, needs_task=not shared)


class Distribution(Correction):
    """Surgery's module, whose output is the mean, and a second output for the logarithm of the variance."""

    def __init__(self, width: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__(width, rank, generator)
        self.spread = nn.Parameter(torch.zeros(width, rank))

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the bias, ``[..., d]`` each."""
        hidden = F.linear(rows, self.down).relu()
        return F.linear(hidden, self.up), F.linear(hidden, self.spread)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of ``N(mean, exp(log_variance))`` from the standard normal: summed over features, averaged over the rest."""
    return (-0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)).mean()
