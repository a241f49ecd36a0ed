"""Tiny stand-ins for the three published towers, and families of random experts on them."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmark.checkpoints.families import describe_files, save_json, save_state
from benchmark.domains.vision.backbones import BACKBONES, CLIP_MEAN, CLIP_STD, Backbone, create_encoder

CONTEXT, VOCABULARY = 77, 49408


def tiny(name: str) -> Backbone:
    """A tower of the named one's patch size and structure, with few pixels, blocks and channels."""
    published = BACKBONES[name]
    patch = published.vision_cfg["patch_size"]
    return Backbone(
        name=name, image_size=2 * patch, mean=CLIP_MEAN, std=CLIP_STD, embed_dim=published.embed_dim // 32,
        quick_gelu=published.quick_gelu,
        vision_cfg={"image_size": 2 * patch, "layers": 2 if name.startswith("ViT-B") else 3,
                    "width": published.vision_cfg["width"] // 16, "patch_size": patch, "head_width": 8},
        text_cfg={"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2},
    )  # fmt: skip


def random_state(backbone: Backbone, seed: int, base: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """A random image tower ``visual.*``, or ``base`` a small step away."""
    generator = torch.Generator().manual_seed(seed)
    state = base or create_encoder(backbone).state_dict()
    step = 0.01 if base else 0.05
    return {k: v + step * torch.randn(v.shape, generator=generator) for k, v in state.items()}


def write_family(
    folder: Path, backbone: Backbone, classes: dict[str, list[str]], name: str = "local", seed: int = 0, **more: object
) -> Path:
    """A whole family folder of random weights; ``more`` goes into the manifest."""
    base = random_state(backbone, seed)
    save_state(folder / "base.safetensors", base)
    for number, (task, names) in enumerate(classes.items(), 1):
        save_state(folder / f"{task}.safetensors", random_state(backbone, seed + number, base))
        weight = torch.nn.functional.normalize(torch.randn(len(names), backbone.embed_dim), dim=-1) * 100
        save_state(folder / f"heads/{task}.safetensors", {"weight": weight, "bias": torch.zeros(len(names))})
    files = ["base.safetensors", *(f"{t}.safetensors" for t in classes), *(f"heads/{t}.safetensors" for t in classes)]
    about = {"name": name, "backbone": backbone.name, "quick_gelu": True, "classes": classes,
             "files": describe_files(folder, files), **more}  # fmt: skip
    save_json(folder / "manifest.json", about)
    return folder
