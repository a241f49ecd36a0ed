"""Heads for a tower without a text tower: the class means of its own features stand for the class names."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.assets.training import generator
from benchmark.domains.vision.backbones import preprocess
from benchmark.domains.vision.encoder import ImageEncoder
from benchmark.domains.vision.heads import ClassificationHead


@torch.no_grad()
def features_of(encoder: ImageEncoder, images: np.ndarray, batch: int = 250) -> Tensor:
    """Unit features ``[N, D]`` of uint8 images."""
    b = encoder.backbone
    device = next(encoder.parameters()).device
    return torch.cat(
        [
            F.normalize(
                encoder(
                    preprocess(
                        torch.from_numpy(np.array(images[at : at + batch])),
                        b.mean,
                        b.std,
                        device,
                        torch.float32,
                        b.image_size,
                    )
                ),
                dim=-1,
            ).cpu()
            for at in range(0, len(images), batch)
        ]
    )


def class_mean_head(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    scale: float,
    shots: int | None = None,
    seed: tuple[object, ...] = (),
) -> ClassificationHead:
    """``weight[c] = scale * unit(mean of class c - mean of the class means)``, ``bias`` zero.

    Args:
        features: unit features of training images ``[N, D]``.
        labels: int64 ``[N]``.
        classes: C; each must have an image.
        scale: in the place of CLIP's logit scale.
        shots: images a class, drawn by ``seed``; ``None``: all.

    Raises:
        ValueError: a class without an image.
    """
    means = []
    for c in range(classes):
        own = (labels == c).nonzero()[:, 0]
        if not len(own):
            raise ValueError(f"class {c} has no training image; a class mean needs one")
        if shots is not None:
            own = own[torch.randperm(len(own), generator=generator(*seed, "shots", c))[:shots]]
        means.append(features[own].mean(dim=0))
    centred = torch.stack(means) - torch.stack(means).mean(dim=0)
    return ClassificationHead(scale * F.normalize(centred, dim=-1))
