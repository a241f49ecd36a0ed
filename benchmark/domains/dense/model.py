"""Encoders and decoders of dense prediction: a dilated ResNet, which is merged, and an ASPP decoder for each task.

Set-up of NYUv2 in the literature: torchvision's ResNet with strides replaced by dilation, DeepLab's head for each task
(tanganke/fusion_bench docs/modelpool/nyuv2.md; lorenmt/auto-lambda create_network.py). Tensor names are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import ASPP

from benchmark.common.errors import unknown
from benchmark.suites.bench import constants, from_host

RUNNING = ("running_mean", "running_var")


@dataclass(frozen=True)
class Backbone:
    """Shape of encoder and decoders.

    Attributes:
        layers: blocks in each of the four stages.
        dilated: whether a stage (the second to the fourth) dilates in place of striding.
        narrow: channels of the stages are those of ResNet-50 divided by this.
        rates: dilations of the decoder's ASPP.
        width: channels of the decoder.
        size: height and width of the images.
    """

    name: str
    layers: tuple[int, int, int, int]
    dilated: tuple[bool, bool, bool]
    narrow: int
    rates: tuple[int, ...]
    width: int
    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def features(self) -> int:
        """Channels of the encoder's features."""
        return 512 // self.narrow * Bottleneck.expansion

    @property
    def stride(self) -> int:
        """Image pixels to a position of the features, along one side."""
        return int(4 * 2 ** self.dilated.count(False))


BACKBONES = {
    b.name: b
    for b in (
        Backbone("ResNet-mini", (2, 2, 2, 2), (False, True, True), 8, (1, 2, 4), 32, (48, 64)),
        Backbone("ResNet-50", (3, 4, 6, 3), (False, True, True), 1, (12, 24, 36), 256, (288, 384)),
    )
}


def get_backbone(name: str) -> Backbone:
    """The backbone of this name. Raises :class:`UserError` with the nearest names."""
    if name not in BACKBONES:
        raise unknown("dense backbone", name, BACKBONES)
    return BACKBONES[name]


class Encoder(ResNet):
    """torchvision's ResNet up to its last stage: images ``[B, 3, H, W]`` to features ``[B, D, H / s, W / s]``."""

    def __init__(self, shape: Backbone) -> None:
        self.narrow = shape.narrow
        super().__init__(Bottleneck, list(shape.layers), replace_stride_with_dilation=list(shape.dilated))
        del self.avgpool, self.fc

    def _make_layer(self, block: Any, planes: int, *rest: Any, **more: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // self.narrow, *rest, **more)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Decoder(nn.Module):
    """Features to predictions ``[B, channels, H, W]``: DeepLab's head, enlarged bilinearly; normals are unit vectors.

    The layers are those of torchvision's ``DeepLabHead``, whose width is fixed to 256.
    """

    LAST = "layers.4."

    def __init__(self, shape: Backbone, channels: int, unit: bool = False) -> None:
        super().__init__()
        width = shape.width
        self.stride, self.unit, self.channels = shape.stride, unit, channels
        self.layers = nn.Sequential(
            ASPP(shape.features, list(shape.rates), width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.layers(features)
        out = F.interpolate(out, scale_factor=self.stride, mode="bilinear", align_corners=False)
        return F.normalize(out, dim=1) if self.unit else out


def running_statistics(encoder: nn.Module) -> tuple[str, ...]:
    """Names of the running means and variances of an encoder."""
    return tuple(n for n in encoder.state_dict() if n.rpartition(".")[2] in RUNNING)


@dataclass(frozen=True)
class Normalisation:
    """Makes uint8 images ``[n, H, W, 3]`` what the encoder takes, ``[n, 3, H, W]`` on ``device`` in ``dtype``.

    A function that another process can be handed.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> Tensor:
        images = from_host(images, self.device).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (constants(tuple(v), self.device).view(3, 1, 1) for v in (self.mean, self.std))
        return ((images - mean) / std).to(self.dtype)
