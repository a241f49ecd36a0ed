"""Families written in exactly the formats of the public ones, on tiny towers."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from checkpoints.make import ClassificationHead, ImageEncoder, pickled_as
from torch import nn

from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import Backbone
from benchmark.importers import get


def encoder(backbone: Backbone, seed: int = 0, quick_gelu: bool = True) -> ImageEncoder:
    """A random ``ImageEncoder`` of this backbone, its text side small."""
    torch.manual_seed(seed)
    text = {**backbone.text_cfg, "vocab_size": 20, "context_length": 8}
    clip = open_clip.CLIP(backbone.embed_dim, dict(backbone.vision_cfg), text, quick_gelu=quick_gelu)
    return ImageEncoder(clip, open_clip.image_transform(backbone.image_size, is_train=False))


def tuned(base: nn.Module, seed: int, part: str = "") -> Any:
    """A copy in which the parameters with ``part`` in their name have moved."""
    made = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if part in name:
                value.add_(0.01 * torch.randn(value.shape, generator=generator))
    return made


def save(value: Any, path: Path, layout: str = "zip") -> None:
    """As ``torch.save`` of now or before 1.6, or ``pickle.dump``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "plain":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=layout == "zip")


def open_clip_family(
    folder: Path, family: str, backbone: Backbone, tasks: Sequence[str], layout: str = "zip", heads: bool = True
) -> dict[str, dict[str, torch.Tensor]]:
    """The files of ``task-arithmetic``, ``tint`` (whole modules) or ``tall`` (state dicts); ``{file: state dict}``."""
    about = get(family)
    pickled_as("src.models.modeling" if family == "tall" else "src.modeling")
    root = folder / about.fill(about.folders[1 if family == "tall" else 0], backbone.name)
    base = encoder(backbone)
    models = {about.base[-1]: base}
    for number, task in enumerate(tasks, 1):
        models[about.fill(about.expert, "", task)] = tuned(base, number, "visual")
    for name, model in models.items():
        save(model.state_dict() if family == "tall" else model, root / name, layout)
    for task in tasks if heads else ():
        weight = torch.randn(len(full.info(task, family).classes), backbone.embed_dim)
        save(ClassificationHead(True, weight), root / about.fill(about.head or "", "", task), layout)
    return {name: model.state_dict() for name, model in models.items()}


def hub_config(backbone: Backbone, act: str = "quick_gelu") -> Any:
    """The transformers configuration of a backbone."""
    from transformers import CLIPConfig

    def tower(cfg: Mapping[str, Any], heads: int) -> dict[str, Any]:
        return {"hidden_size": cfg["width"], "intermediate_size": 4 * cfg["width"], "hidden_act": act,
                "num_hidden_layers": cfg["layers"], "num_attention_heads": heads}  # fmt: skip

    vision, text = backbone.vision_cfg, backbone.text_cfg
    return CLIPConfig(
        projection_dim=backbone.embed_dim,
        vision_config={**tower(vision, backbone.heads), "image_size": vision["image_size"],
                       "patch_size": vision["patch_size"]},
        text_config={**tower(text, text["heads"]), "vocab_size": text["vocab_size"],
                     "max_position_embeddings": text["context_length"]},
    )  # fmt: skip


def random_model(made: Any, seed: int = 0) -> Any:
    """``made`` with all weights random: norms and biases too, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def hub_family(folder: Path, backbone: Backbone, tasks: Sequence[str]) -> dict[str, Any]:
    """FusionBench's models as the hub has them, ``OWNER/NAME`` folders; ``{repository: model}``."""
    from transformers import CLIPModel, CLIPVisionModel

    about, config = get("fusionbench"), hub_config(backbone)
    base = random_model(CLIPModel(config))
    expert = CLIPVisionModel(config.vision_config)
    expert.load_state_dict({n.removeprefix("vision_model."): v for n, v in base.vision_model.state_dict().items()})
    made = {about.fill(about.base[0], backbone.name): base}
    for number, task in enumerate(tasks, 1):
        made[about.fill(about.expert, backbone.name, task)] = tuned(expert, number)
    for name, model in made.items():
        model.save_pretrained(folder / name)
    return made


def without_text(backbone: Backbone) -> Backbone:
    """The backbone with a vocabulary of 120, for tests that read no prompts."""
    return dataclasses.replace(backbone, text_cfg={**backbone.text_cfg, "vocab_size": 120})
