"""A user's own suite in a folder: tiny random models that the library itself saved, images, and the YAML."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

CLASSES = {"pets": ["cat", "dog", "fish"], "shapes": ["circle", "square"], "food": ["bread", "cheese", "rice", "soup"]}
SIZE = 28
SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
    "patch_size": 14,
}  # fmt: skip


def perturbed(module: nn.Module, seed: int, size: float = 0.05) -> nn.Module:
    """A copy whose floating weights are a little off, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(size * torch.randn(value.shape, generator=generator))
    return other


def vit(classes: Sequence[str], seed: int = 0) -> Any:
    """A ViT of transformers with a classifier of these classes."""
    import transformers

    torch.manual_seed(seed)
    names = dict(enumerate(classes))
    config = transformers.ViTConfig(**SMALL, id2label=names, label2id={name: i for i, name in names.items()})
    return transformers.ViTForImageClassification(config).eval()


def save_processor(folder: Path) -> None:
    """How images are made ready, as the library writes it beside a model."""
    import transformers

    size = {"height": SIZE, "width": SIZE}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def picture(seed: int, label: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A noisy picture whose colour tells its class."""
    noise = np.random.default_rng(seed).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    noise[..., label % 3] = np.minimum(255, noise[..., label % 3].astype(int) + 60 + 20 * label).astype(np.uint8)
    return Image.fromarray(noise)


def class_folders(folder: Path, classes: Sequence[str], each: int, seed: int = 0) -> Path:
    """``folder/CLASS/NUMBER.png``."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture(1000 * seed + 100 * label + number, label).save(folder / name / f"{number}.png")
    return folder


def split_folders(folder: Path, classes: Sequence[str], train: int = 10, test: int = 6) -> Path:
    """``folder/train/CLASS/...`` and ``folder/test/CLASS/...``."""
    class_folders(folder / "train", classes, train, seed=1)
    class_folders(folder / "test", classes, test, seed=2)
    return folder


def write_models(root: Path, classes: Mapping[str, Sequence[str]] = CLASSES) -> dict[str, Any]:
    """``root/base`` and ``root/TASK``, as transformers saves them: ``{name: model}``."""
    base = vit(["a", "b"])
    models = {"base": base}
    for seed, (task, names) in enumerate(classes.items(), 1):
        expert = vit(names, seed)
        expert.vit.load_state_dict(perturbed(base.vit, seed).state_dict())
        models[task] = expert
    for name, model in models.items():
        model.save_pretrained(root / name)
    save_processor(root / "base")
    return models


def write_suite(root: Path, **more: Any) -> Path:
    """The whole suite; ``more``: keys of the YAML, or with ``tasks`` keys of single tasks (None removes one)."""
    write_models(root)
    for task, names in CLASSES.items():
        split_folders(root / "data" / task, names)
    return write_yaml(root, **more)


def write_yaml(root: Path, *, name: str = "suite.yaml", tasks: Mapping[str, Any] | None = None, **more: Any) -> Path:
    """``root/suite.yaml`` alone."""
    content: dict[str, Any] = {
        "name": "tiny",
        "title": "three tiny tasks",
        "base": "base",
        "tasks": {task: {"expert": task, "data": f"data/{task}"} for task in CLASSES},
        "methods": ["task_arithmetic"],
        **more,
    }
    for task, changed in (tasks or {}).items():
        kept = {**content["tasks"].get(task, {}), **changed}
        content["tasks"][task] = {key: value for key, value in kept.items() if value is not None}
    path = root / name
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return path
