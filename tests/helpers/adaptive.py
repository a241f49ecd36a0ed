"""Short runs of the methods that adapt, route or train, on tiny experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import methods
from helpers.support import random_stream
from methods.api import Access, Experts, Merged

QUICK: dict[str, dict[str, Any]] = {
    "adarank": {"steps": 2},
    "surgery": {"steps": 2},
    "prob_surgery": {"steps": 2, "rank": 8},
    "joint": {"steps": 2},
    "pcgrad": {"steps": 2},
    "pcgrad_weighted": {"steps": 2},
    "cagrad": {"steps": 2},
    "nash_mtl": {"steps": 2},
    "taps": {"steps": 2},
    "supermerge": {"steps": 2},
    "wemoe": {"steps": 2},
    "twin": {"steps": 2},
}
JOINT = {"joint", "pcgrad", "pcgrad_weighted", "cagrad", "nash_mtl"}
ACCESS = {name: Access(train="labelled") for name in (*JOINT, "taps")}
ACCESS |= {name: Access(val="labelled") for name in ("supermerge", "twin")}


def merge(name: str, experts: Experts, **keywords: Any) -> Merged:
    stream = random_stream(experts.tasks, classes=5 if name in ACCESS else None)
    found: Merged = methods.get(name)(experts, stream, **{**QUICK[name], **keywords})
    return found


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(7))


def with_states(
    experts: Experts, tuned: dict[str, dict[str, Tensor]], base: dict[str, Tensor] | None = None
) -> Experts:
    return Experts(base or experts.base, tuned, heads=experts.heads, encoder=experts.encoder)


def small_net_experts(tasks: int = 2) -> Experts:
    """A convolutional encoder with 16 features and experts near each other."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16))
    generator = torch.Generator().manual_seed(0)

    def near(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in state.items()}

    base = near({n: torch.zeros_like(t) for n, t in net.state_dict().items()})
    tuned = {f"t{k}": near(base) for k in range(tasks)}
    return Experts(base, tuned, heads={t: nn.Linear(16, 5) for t in tuned}, encoder=net)


def assert_reads_back(merged: Merged, experts: Experts, path: Path) -> None:
    merged.save(path / "merged.safetensors")
    again = Merged.load(path / "merged.safetensors", experts)
    for task in experts.tasks:
        with torch.no_grad():
            assert torch.equal(merged.model(task)(images()), again.model(task)(images()))
    assert again.storage == merged.storage
