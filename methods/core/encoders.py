"""The state that an encoder is run in: evaluation, statistics of the batch, and tensors that its layers can take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode (no dropout, fixed batch statistics), and its parts in their own afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisations use the mean and variance of their batch, and keep their running ones as they are."""
    aside = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    statistics = [(m.running_mean, m.running_var) for m in aside]
    for each in aside:
        each.running_mean = each.running_var = None
    try:
        yield
    finally:
        for each, (mean, variance) in zip(aside, statistics, strict=True):
            each.running_mean, each.running_var = mean, variance


def valid(name: str, value: Tensor) -> Tensor:
    """``value``; of running statistics without gradient, which normalisations have no rule for, and a variance not
    below 0: arithmetic over experts' variances can leave their range."""
    if name.endswith("running_var"):
        return value.detach().clamp(min=0)
    return value.detach() if name.endswith("running_mean") else value
