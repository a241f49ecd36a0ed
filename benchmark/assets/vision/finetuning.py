"""Experts: the base's image tower fine-tuned on one task under its frozen prompt-built head; and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmark.assets.training import Schedule, epoch_indices, generator, shift, train
from benchmark.domains.vision.backbones import Backbone, create_encoder, get_backbone, preprocess
from benchmark.domains.vision.encoder import ImageEncoder
from benchmark.domains.vision.heads import ClassificationHead

SEED = 0
SHIFT = 2  # pixels of random translation
SCHEDULE = Schedule(steps=600, lr=1e-3, warmup=60, batch=128, weight_decay=0.0)


def finetune(
    base: Mapping[str, torch.Tensor],
    head: ClassificationHead,
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor,
    *,
    task: str,
    backbone: str | Backbone = "ViT-mini",
    schedule: Schedule = SCHEDULE,
    seed: int = SEED,
    pixels: int = SHIFT,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    stop_at: int | None = None,
) -> tuple[ImageEncoder, list[float]]:
    """Fine-tune every weight of the image tower with cross-entropy; the head stays as it is.

    Args:
        base: state dict, keys ``visual.*``, any floating dtype; trained in float32.
        head: the task's head, frozen.
        images: uint8 ``[N, H, W]`` or ``[N, H, W, 3]``; labels int64 ``[N]``.
        task: names the run: order of samples and augmentation are drawn from (seed, task, step).
        pixels: how far an image is moved at random, at most; 0 trains on the images as they are.
        checkpoint, stop_at: as in :func:`benchmark.assets.training.train`.

    Returns:
        the expert in float32, and the loss of every step.
    """
    backbone = get_backbone(backbone)
    encoder = load_encoder(base, backbone, device)
    images, labels = torch.from_numpy(np.array(images)), torch.as_tensor(np.array(labels), device=device)
    head = head.to(device)
    for parameter in head.parameters():
        parameter.requires_grad_(False)

    def loss_at(step: int) -> torch.Tensor:
        chosen = epoch_indices(len(images), schedule.batch, step, seed, task)
        batch = shift(images[chosen], pixels, generator(seed, task, "shift", step))
        x = preprocess(batch, backbone.mean, backbone.std, device, torch.float32, backbone.image_size)
        return F.cross_entropy(head(encoder(x)), labels[chosen.to(device)])

    losses = train(
        encoder,
        loss_at,
        schedule,
        title=f"expert {task}",
        checkpoint=checkpoint,
        stop_at=stop_at,
        identity={"task": task, "seed": seed},
    )
    return encoder, losses


def load_encoder(
    state: Mapping[str, torch.Tensor], backbone: str | Backbone = "ViT-mini", device: torch.device | str = "cpu"
) -> ImageEncoder:
    """A float32 encoder with these weights, in evaluation mode."""
    encoder = create_encoder(backbone, device=device)
    encoder.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    return encoder.eval()


def average(states: list[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of the experts' weights, in float32: the one merge that the choice of base and experts looks at."""
    return {k: torch.stack([s[k].float() for s in states]).mean(dim=0) for k in states[0]}


@torch.no_grad()
def accuracy(
    encoder: ImageEncoder,
    head: ClassificationHead,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    batch: int = 250,
) -> float:
    """Top-1 accuracy in per cent."""
    encoder, head = encoder.to(device).eval(), head.to(device)
    b = encoder.backbone
    right = 0
    for start in range(0, len(images), batch):
        x = preprocess(
            torch.from_numpy(np.array(images[start : start + batch])),
            b.mean,
            b.std,
            device,
            torch.float32,
            b.image_size,
        )
        predicted = head(encoder(x)).argmax(dim=-1).cpu()
        right += int((predicted == torch.from_numpy(np.array(labels[start : start + batch]))).sum())
    return 100.0 * right / len(images)
