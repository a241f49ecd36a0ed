"""The tiny benches on another device than the CPU, with samples that lie on the CPU until they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.suites.bench import from_host
from helpers.tiny import TinyBench, TinySource
from helpers.tiny_text import TinyTextBench
from methods.api import Experts


def moved(experts: Experts, device: torch.device) -> Experts:
    """The experts with encoder and heads on the device, as a bench makes them; their tensors stay where they are."""
    assert experts.encoder is not None
    experts.device = device
    experts.encoder.to(device)
    for head in experts.heads.values():
        head.to(device)
    return experts


@dataclass(frozen=True)
class Placing:
    """What a source does to its inputs when they are asked for."""

    device: torch.device

    def __call__(self, inputs: Tensor) -> Tensor:
        return from_host(inputs, self.device)


class PlacedSource(TinySource):
    """Random images that are put on a device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__(seed)
        self.ready = Placing(device)

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return super().__getitem__(index)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.stored(index)
        return self.ready(images), labels


class TinyBenchOn(TinyBench):
    """Three tasks of random images on a device."""

    def __init__(self, device: torch.device, **overrides: Any) -> None:
        super().__init__(**overrides)
        self.device = device

    def experts(self) -> Experts:
        return moved(super().experts(), self.device)

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> PlacedSource:
        return PlacedSource(10 * int(task[1:]) + len(split), self.device)


class TinyTextBenchOn(TinyTextBench):
    """Four tasks of random rows on a device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def experts(self) -> Experts:
        return moved(super().experts(), self.device)
