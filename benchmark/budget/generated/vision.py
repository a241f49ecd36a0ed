"""A vision suite without its files: random towers and heads, a few generated JPEGs of each data set's size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.budget.generated import FAMILY, NOTE, TEST, TRAIN
from benchmark.checkpoints.families import checkpoint_folder, describe_files, save_json, save_state
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import create_encoder, get_backbone
from benchmark.domains.vision.bench import VisionBench
from benchmark.domains.vision.family import Family, load_family
from benchmark.suites import Suite

SAMPLES = "images"
# (height, width) of a typical image, for the time that decoding takes.
SIZES = {
    "MNIST": (28, 28), "KMNIST": (28, 28), "FashionMNIST": (28, 28), "EMNIST": (28, 28), "SVHN": (32, 32),
    "CIFAR10": (32, 32), "CIFAR100": (32, 32), "FER2013": (48, 48), "GTSRB": (50, 50), "EuroSAT": (64, 64),
    "PCAM": (96, 96), "STL10": (96, 96), "RESISC45": (256, 256), "RenderedSST2": (448, 448),
}  # fmt: skip
PHOTO = (375, 500)


def write_family(folder: Path, backbone: str, suite: Suite) -> None:
    """Base, experts and heads with random weights."""
    torch.manual_seed(0)
    base = create_encoder(backbone).state_dict()
    save_state(folder / "base.safetensors", base)
    classes = {task: full.info(task).classes for task in suite.tasks}
    for task in suite.tasks:
        # A fine-tuned tensor lies a few per cent of its own size from the base's.
        tuned = {n: t + 0.02 * t.std().nan_to_num() * torch.randn_like(t) for n, t in base.items()}
        save_state(folder / f"{task}.safetensors", tuned)
        weight = 100 * torch.nn.functional.normalize(
            torch.randn(len(classes[task]), get_backbone(backbone).embed_dim), dim=-1
        )
        head = {"weight": weight, "bias": torch.zeros(len(weight))}
        save_state(folder / "heads" / f"{task}.safetensors", head)
    names = ["base", *suite.tasks, *(f"heads/{task}" for task in suite.tasks)]
    save_json(
        folder / "manifest.json",
        {
            "name": FAMILY,
            "backbone": backbone,
            "quick_gelu": get_backbone(backbone).quick_gelu,
            "classes": classes,
            "files": describe_files(folder, [f"{name}.safetensors" for name in names]),
            "made": NOTE,
        },
    )


def write_data(root: Path, backbone: str, suite: Suite) -> None:
    """A few generated JPEGs per data set, of its size, as the hub's parquet files with its class names."""
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    for task in suite.tasks:
        about, (height, width) = full.info(task), SIZES.get(task, PHOTO)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=about.classes)})
        for split, n in ((about.splits["train"], TRAIN), (about.splits["test"], TEST)):
            coarse = rng.integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)
            images = [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in coarse]
            rows = {"image": images, "label": rng.integers(len(about.classes), size=n).tolist()}
            path = root / about.folder / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def open_bench(suite: Suite, backbone: str, folder: Path, device: Any, dtype: Any) -> VisionBench:
    """The real bench on what was written; sizes of test splits are not compared, files are not hashed again."""

    class Bench(VisionBench):
        def _load_family(self, checkpoints: str | os.PathLike | None) -> Family:
            where = checkpoint_folder(FAMILY, backbone, checkpoints)
            return load_family(where, backbone, suite.tasks, verify=False)

        def _split(self, task: str, split: str) -> Any:
            size = get_backbone(backbone).image_size
            return full.load_split(task, split, root=folder / "data", image_size=size, counted=False)

    place = {"data_root": folder / "data", "checkpoints": folder / "checkpoints"}
    return Bench(suite, backbone, FAMILY, device, dtype, **place)
