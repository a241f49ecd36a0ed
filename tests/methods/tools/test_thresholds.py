"""Thresholds over a whole task vector are exact order statistics."""

from __future__ import annotations

import pytest
import torch
from helpers.support import (
    golden_experts,
)

from methods.api import Experts
from methods.tools.vectors import order_statistic, thresholds, trim


def test_trimming_float64_checkpoints_keeps_the_entry_at_the_threshold() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        base = torch.randn(50, 40, generator=generator, dtype=torch.float64)
        tuned = {t: {"w": base + 0.01 * torch.randn(50, 40, generator=generator, dtype=torch.float64)} for t in "ab"}
        experts = Experts.from_state_dicts({"w": base}, tuned)
        kept = trim(experts.task_vectors("w"), thresholds(experts, 0.2)) != 0
        assert kept.sum((1, 2)).tolist() == [401, 401]  # of 2000: those from the 1600th in size on


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.5, 1.0])
def test_thresholds_are_the_exact_order_statistic_over_all_tensors(keep: float) -> None:
    experts = golden_experts()
    for k, limit in enumerate(thresholds(experts, keep).tolist()):
        flat = torch.cat([experts.task_vectors(n)[k].flatten() for n in experts.names]).abs()
        rank = len(flat) - int(len(flat) * keep)
        assert limit == (flat.kthvalue(rank).values.item() if rank else 0.0)


def test_order_statistic_survives_ties_and_zeros() -> None:
    values = torch.tensor([0.0, 0, 0, 1e-30, 1e-30, 3, 3, 3, 7])
    for k in range(1, 10):
        assert order_statistic([values[:4], values[4:]], k) == values.sort().values[k - 1].item()
