"""open_clip's image towers, timm's models and torchvision's, by name or by the configuration beside their weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.checkpoints.kinds import OPEN_CLIP_CONFIG
from benchmark.common.errors import UserError, some, unknown
from benchmark.domains.vision.encoders import Encoder, configuration, lacks
from benchmark.domains.vision.encoders.names import Renamed, aligned
from benchmark.domains.vision.encoders.pixels import Pixels, named, pair


def open_clip_settings(source: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a CLIP of open_clip, ``model_cfg`` and ``preprocess_cfg``: by its name, or beside its weights."""
    library = _library("open_clip", "open_clip_torch")
    if not name:
        content = configuration(source / OPEN_CLIP_CONFIG)
        model, images = content.get("model_cfg"), content.get("preprocess_cfg") or {}
        if not isinstance(model, dict) or not isinstance(images, dict) or "vision_cfg" not in model:
            raise UserError(
                f"{source / OPEN_CLIP_CONFIG} has no model_cfg with a vision_cfg", "Write encoder: open_clip/NAME"
            )
        return model, images
    if name not in library.list_models():
        raise unknown("model of open_clip", name, library.list_models())
    return dict(library.get_model_config(name)), {}


def _open_clip(source: Path, stored: Mapping[str, Any], name: str) -> Encoder:
    model, images = open_clip_settings(source, name)
    from open_clip import model as parts

    with torch.random.fork_rng(devices=[]):
        try:
            tower = parts._build_vision_tower(model["embed_dim"], model["vision_cfg"], model.get("quick_gelu", False))
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{source}: no image tower of open_clip: {error}", "Mend its model_cfg.") from None
    whole = nn.Module()
    whole.add_module("visual", tower)
    size = getattr(tower, "image_size", None) or model["vision_cfg"].get("image_size", 224)
    about = {"library": "open_clip", "vision_cfg": model["vision_cfg"], "embed_dim": model["embed_dim"],
             "quick_gelu": bool(model.get("quick_gelu", False))}  # fmt: skip
    return Encoder(
        name=name or _size_of(tower),
        module=_named(whole, stored, source, _visual, "an image tower of open_clip"),
        head=None,
        pixels=_open_clip_pixels(size, images),
        about=about,
    )


def _open_clip_pixels(size: Any, said: Mapping[str, Any]) -> Pixels:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    height, width = pair(said.get("size") or size)
    mode = said.get("resize_mode") or "shortest"
    if mode == "longest":
        raise UserError("open_clip's resize_mode longest pads pictures, which is not done here",
                        "Write preprocessing: {crop: true}, or {crop: false}, whichever is meant.")  # fmt: skip
    mean, std = said.get("mean") or OPENAI_DATASET_MEAN, said.get("std") or OPENAI_DATASET_STD
    resize = None if mode == "squash" else min(height, width)
    return Pixels((height, width), resize, tuple(mean), tuple(std), named(said.get("interpolation") or "bicubic"))


def _size_of(tower: nn.Module) -> str:
    return f"{type(tower).__name__} of {sum(p.numel() for p in tower.parameters()) / 1e6:.1f} M"


def _visual(model: nn.Module, images: Tensor) -> Tensor:
    features: Any = model.get_submodule("visual")(images)
    return features[0] if isinstance(features, tuple) else features


def _timm(source: Path, stored: Mapping[str, Any], name: str) -> Encoder:
    timm = _library("timm", "timm")
    said = {} if name else configuration(source / "config.json")
    kind = name or str(said.get("architecture") or said.get("model_name") or "")
    if not timm.is_model(kind):
        raise unknown("model of timm", kind, timm.list_models())
    options = {key: said[key] for key in ("global_pool",) if key in said} | dict(said.get("model_args") or {})
    with torch.random.fork_rng(devices=[]):
        try:
            model = timm.create_model(kind, pretrained=False, **options)
        except (TypeError, RuntimeError) as error:
            raise UserError(f"{source}: timm builds no {kind} of {options}: {error}", "Mend its config.json.") from None
    own = {**model.pretrained_cfg, **(said.get("pretrained_cfg") or {})}
    head = own.get("classifier")
    model.reset_classifier(0)
    data = importlib.import_module("timm.data").resolve_data_config({}, pretrained_cfg=own)
    about = {"library": "timm", "architecture": kind, "options": {k: str(v) for k, v in options.items()}}
    return Encoder(
        name=kind,
        module=_named(model, stored, source, _run, f"a {kind} of timm"),
        head=head if isinstance(head, str) else None,
        pixels=_timm_pixels(data),
        about=about,
    )


def _timm_pixels(data: Mapping[str, Any]) -> Pixels:
    _, height, width = data["input_size"]
    squash = data.get("crop_mode") == "squash"
    resize = None if squash else int(min(height, width) / float(data.get("crop_pct") or 1.0))
    return Pixels((height, width), resize, tuple(data["mean"]), tuple(data["std"]), named(data["interpolation"]))


def _torchvision(source: Path, stored: Mapping[str, Any], name: str) -> Encoder:
    models = _library("torchvision.models", "torchvision")
    if name not in models.list_models(module=models):
        raise unknown("model of torchvision", name, models.list_models(module=models))
    with torch.random.fork_rng(devices=[]):
        model = models.get_model(name, weights=None)
    layers = [path for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not layers:
        raise UserError(f"{name} of torchvision ends in no linear layer", "Choose another model.")
    above, _, last = layers[-1].rpartition(".")
    setattr(model.get_submodule(above), last, nn.Identity())
    steps = models.get_model_weights(name).DEFAULT.transforms()
    (size,) = steps.crop_size
    pixels = Pixels(
        pair(size), int(steps.resize_size[0]), tuple(steps.mean), tuple(steps.std), named(steps.interpolation)
    )
    about = {"library": "torchvision", "architecture": name}
    return Encoder(name, _named(model, stored, source, _run, f"a {name} of torchvision"), layers[-1], pixels, about)


def _run(model: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = model(images)
    return features.flatten(1)


def _named(
    model: nn.Module, stored: Mapping[str, Any], source: Path, read: Callable[[nn.Module, Tensor], Tensor], what: str
) -> Renamed:
    wanted = list(model.state_dict())
    pairs = aligned(wanted, stored)
    if not pairs:
        missing = sorted(set(wanted) - set(stored)) or wanted
        raise UserError(
            f"{source} is not {what}: it lacks {some(missing)}; it has {some(stored)}",
            "Write the architecture that the weights are of: encoder: LIBRARY/NAME",
        )
    return Renamed(model.eval().requires_grad_(False), pairs, read)


def _library(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise lacks(name.partition(".")[0], error, package) from None


BUILDERS: dict[str, Callable[[Path, Mapping[str, Any], str], Encoder]] = {
    "open_clip": _open_clip,
    "timm": _timm,
    "torchvision": _torchvision,
}
