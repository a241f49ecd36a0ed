"""open_clip's vision transformer as an image encoder: images in, features out."""

from __future__ import annotations

from functools import partial

import torch
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from torch import nn

from benchmark.domains.vision.backbones import Backbone


class ImageEncoder(nn.Module):
    """An image tower. Its state-dict keys are ``visual.*``, as in open_clip's ``CLIP``."""

    def __init__(
        self,
        backbone: Backbone,
        quick_gelu: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.quick_gelu = backbone.quick_gelu if quick_gelu is None else quick_gelu
        cfg = backbone.vision_cfg
        with torch.device(device if device is not None else "cpu"):
            self.visual = VisionTransformer(
                image_size=cfg["image_size"],
                patch_size=cfg["patch_size"],
                width=cfg["width"],
                layers=cfg["layers"],
                heads=backbone.heads,
                mlp_ratio=cfg.get("mlp_ratio", 4.0),
                output_dim=backbone.embed_dim,
                act_layer=QuickGELU if self.quick_gelu else nn.GELU,
                no_ln_pre=cfg.get("no_ln_pre", False),
                norm_layer=partial(LayerNorm, **cfg.get("norm_kwargs", {})),
            )
        if dtype is not None:
            self.to(dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images ``[B, 3, H, W]`` -> features ``[B, embed_dim]``, not L2-normalised."""
        return self.visual(images)
