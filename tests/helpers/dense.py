"""A tiny dilated ResNet with one decoder for each of the three dense tasks, and experts near each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.domains.dense.model import Backbone, Decoder, Encoder, running_statistics
from methods.api import Experts

SHAPE = Backbone("tiny", (1, 1, 1, 1), (True, True, True), 32, (1, 2), 4, (16, 16))
CLASSES = 4
KINDS = {"segmentation": "segmentation", "depth": "depth", "normals": "normals"}
CHANNELS = {"segmentation": CLASSES, "depth": 1, "normals": 3}


def tiny_experts(merge_statistics: bool = False, spread: float = 0.05, **keywords: Any) -> Experts:
    """Three experts around one base; running statistics of their own; heads are the tasks' decoders."""
    torch.manual_seed(0)
    encoder = Encoder(SHAPE).eval()

    def near(state: dict[str, Tensor], by: float) -> dict[str, Tensor]:
        return {n: t + by * torch.rand(t.shape) if t.is_floating_point() else t.clone() for n, t in state.items()}

    base = near(encoder.state_dict(), 0.01)
    experts = {task: near(base, spread) for task in KINDS}
    heads = {task: Decoder(SHAPE, CHANNELS[task], unit=task == "normals").eval() for task in KINDS}
    statistics = () if merge_statistics else running_statistics(encoder)
    return Experts.from_state_dicts(
        base,
        experts,
        heads=heads,
        encoder=encoder,
        kinds=KINDS,
        adaptable={"head": (Decoder.LAST,)},
        statistics=statistics,
        **keywords,
    )


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, *SHAPE.size, generator=torch.Generator().manual_seed(seed))


def labels(task: str, count: int = 6, seed: int = 1) -> Tensor:
    """Random truth with invalid pixels in the first row."""
    generator = torch.Generator().manual_seed(seed)
    if task == "segmentation":
        found = torch.randint(CLASSES, (count, *SHAPE.size), generator=generator)
        found[:, 0] = -1
    elif task == "depth":
        found = torch.rand(count, 1, *SHAPE.size, generator=generator) + 0.5
        found[:, :, 0] = 0
    else:
        found = torch.nn.functional.normalize(torch.randn(count, 3, *SHAPE.size, generator=generator), dim=1)
        found[:, :, 0] = 0
    return found


class DenseSource:
    """Random images and truth of one task."""

    def __init__(self, task: str, count: int = 6, seed: int = 0) -> None:
        self.images, self.labels = images(count, seed), labels(task, count, seed + 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]
