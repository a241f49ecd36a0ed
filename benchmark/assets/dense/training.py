"""Training of a base and of experts for dense prediction: seeded, resumable, the same code at both scales.

An expert is the base's encoder and a fresh decoder, trained together on one task (cross-entropy; L1 where depth is
known; one minus the cosine where a normal is known). The small base learns, before, to paint a scene without its light
(its albedo), which is none of the three tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.assets.training import Schedule, epoch_indices, generator, train
from benchmark.common.seeds import training_seed
from benchmark.domains.dense.model import Backbone, Decoder, Encoder
from methods.tools.losses import supervised_loss

Fetch = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Settings:
    """How base and experts are trained. Images are mirrored at random, with what belongs to them."""

    base: Schedule
    expert: Schedule
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """For a manifest."""
        return {"base": asdict(self.base), "expert": asdict(self.expert), "seed": self.seed, "mirrored": "at random"}


class Pair(nn.Module):
    """Encoder and decoder, trained together."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.decoder(self.encoder(images))
        return outputs


def mirror(images: Tensor, truth: Tensor, kind: str, flip: Tensor) -> tuple[Tensor, Tensor]:
    """The samples where ``flip [B]`` is set, mirrored left to right; the x of normals changes its sign."""
    images, truth = images.clone(), truth.clone()
    images[flip], truth[flip] = images[flip].flip(-1), truth[flip].flip(-1)
    if kind == "normals":
        truth[flip, 0] = -truth[flip, 0]
    return images, truth


def train_pair(
    shape: Backbone,
    fetch: Fetch,
    count: int,
    *,
    kind: str,
    channels: int,
    schedule: Schedule,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
    device: str = "cpu",
    title: str = "training",
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    stop_at: int | None = None,
) -> Pair:
    """Train an encoder and a decoder on one task.

    Args:
        fetch: indices ``[B]`` to normalised images and truth; ``count`` is how many samples there are.
        kind: a task's kind, or ``"albedo"`` for the base.
        start: the encoder's weights to start from; random ones without.
        identity: hashes of the data and the start, so that a checkpoint of another run is refused.
    """
    torch.manual_seed(training_seed(seed, title, "weights"))
    pair = Pair(Encoder(shape), Decoder(shape, channels, unit=kind == "normals"))
    if start is not None:
        pair.encoder.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in start.items()})
    pair = pair.to(device).to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        index = epoch_indices(count, schedule.batch, step, seed, title)
        images, truth = fetch(index)
        flip = torch.rand(len(index), generator=generator(seed, title, "flip", step)) < 0.5
        images, truth = mirror(images.to(device), truth.to(device), kind, flip.to(device))
        torch.manual_seed(training_seed(seed, title, "dropout", step))
        outputs = pair(images.contiguous(memory_format=torch.channels_last))
        return F.l1_loss(outputs, truth) if kind == "albedo" else supervised_loss(kind, outputs, truth)

    train(
        pair,
        loss_at,
        schedule,
        title=title,
        checkpoint=checkpoint,
        identity={"kind": kind, "seed": seed, **(identity or {})},
        stop_at=stop_at,
    )
    return pair.to(memory_format=torch.contiguous_format).eval()
