"""The image towers of the suites, by their open_clip names, and the one preprocessing they share.

``ViT-mini`` is open_clip's own CLIP in a tiny configuration; ``ViT-S-14`` a DINOv2-small written in open_clip's layout;
the other three are open_clip's published ones. Listing them imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmark.common.errors import nearest

if TYPE_CHECKING:
    import torch

    from benchmark.domains.vision.encoder import ImageEncoder

# OpenAI CLIP's channel statistics (open_clip.constants), and a plain [0, 1] -> [-1, 1] for the tiny tower
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """One architecture.

    ``mean`` and ``std`` are per channel, of pixels in [0, 1]; ``vision_cfg`` and ``text_cfg`` are as open_clip's, the
    latter empty where there is no text tower.
    ``quick_gelu`` is the activation that the usual weights were trained with (OpenAI's: ``True``); a checkpoint family
    may say otherwise.
    """

    name: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embed_dim: int
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    quick_gelu: bool

    @property
    def heads(self) -> int:
        """Attention heads of the image tower."""
        return self.vision_cfg["width"] // self.vision_cfg.get("head_width", 64)

    def at(self, image_size: int) -> Backbone:
        """The same tower for images of another size, in pixels: another number of tokens."""
        return replace(self, image_size=image_size, vision_cfg={**self.vision_cfg, "image_size": image_size})


def _openai(name: str, embed_dim: int, patch: int, width: int, layers: int, text_width: int) -> Backbone:
    return Backbone(
        name=name,
        image_size=224,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        embed_dim=embed_dim,
        quick_gelu=True,
        vision_cfg={"image_size": 224, "layers": layers, "width": width, "patch_size": patch},
        text_cfg={
            "context_length": 77,
            "vocab_size": 49408,
            "width": text_width,
            "heads": text_width // 64,
            "layers": 12,
        },
    )


BACKBONES: dict[str, Backbone] = {
    b.name: b
    for b in (
        Backbone(
            name="ViT-mini",
            image_size=28,
            mean=HALF,
            std=HALF,
            embed_dim=64,
            quick_gelu=False,
            vision_cfg={"image_size": 28, "layers": 4, "width": 96, "patch_size": 7, "head_width": 16},
            # vocab_size is the length of the base's own compact vocabulary; see benchmark.domains.vision.vocabulary
            text_cfg={"context_length": 24, "width": 64, "heads": 4, "layers": 2},
        ),
        Backbone(
            name="ViT-S-14",
            image_size=28,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            embed_dim=384,
            quick_gelu=False,
            # DINOv2 has no normalisation before its blocks, and transformers runs it with this epsilon
            vision_cfg={
                "image_size": 28,
                "layers": 12,
                "width": 384,
                "patch_size": 14,
                "no_ln_pre": True,
                "norm_kwargs": {"eps": 1e-6},
            },
            text_cfg={},
        ),
        _openai("ViT-B-32", embed_dim=512, patch=32, width=768, layers=12, text_width=512),
        _openai("ViT-B-16", embed_dim=512, patch=16, width=768, layers=12, text_width=512),
        _openai("ViT-L-14", embed_dim=768, patch=14, width=1024, layers=24, text_width=768),
    )
}


def get_backbone(name: str | Backbone) -> Backbone:
    """The backbone of this name. Raises ``ValueError`` with the nearest names."""
    if isinstance(name, Backbone):
        return name
    if name not in BACKBONES:
        close = nearest(name, BACKBONES, count=2, likeness=0.4)
        offer = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}.{offer}")
    return BACKBONES[name]


def create_encoder(
    backbone: str | Backbone,
    quick_gelu: bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ImageEncoder:
    """An image tower with fresh weights (on ``device="meta"``: shapes only).

    ``quick_gelu=None`` takes the backbone's own. ``dtype=None`` is float32.
    """
    from benchmark.domains.vision.encoder import ImageEncoder

    return ImageEncoder(get_backbone(backbone), quick_gelu=quick_gelu, device=device, dtype=dtype)


def preprocess(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    dtype: torch.dtype,
    size: int | None = None,
) -> torch.Tensor:
    """uint8 images ``[B, H, W]`` (grey) or ``[B, H, W, 3]`` -> normalised ``[B, 3, H, W]`` on ``device`` in ``dtype``.

    Bytes travel to the device and are normalised there in float32. Grey is repeated over the three channels. Images of
    another height than ``size`` (``None``: any) are resized to ``[size, size]``, bicubic with antialiasing.
    """
    import torch
    import torch.nn.functional as F

    from benchmark.suites.bench import constants, from_host

    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected uint8 [B, H, W] or [B, H, W, 3]")
    device = torch.device(device)
    x = from_host(images, device)
    x = x.unsqueeze(1).expand(-1, 3, -1, -1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    spread = constants(tuple(std), device)
    scale = spread.mul(255).reciprocal().view(1, 3, 1, 1)
    shift = (constants(tuple(mean), device) / spread).view(1, 3, 1, 1)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    out.copy_(x).mul_(scale).sub_(shift)
    if size is not None and out.shape[-2:] != (size, size):
        out = F.interpolate(out, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return out.to(dtype)


@dataclass(frozen=True)
class Preprocessing:
    """Makes uint8 images what a tower takes; see :func:`preprocess`. A function that another process can be handed."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype
    size: int | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return preprocess(images, self.mean, self.std, self.device, self.dtype, self.size)
