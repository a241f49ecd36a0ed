"""NYUv2 without its files: random encoders and decoders, images and truths in its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.budget.generated import FAMILY, NOTE, TEST, TRAIN
from benchmark.domains.dense import nyuv2
from benchmark.domains.dense.bench import DenseBench, channels
from benchmark.domains.dense.family import save_part, write_manifest
from benchmark.domains.dense.model import Decoder, Encoder, get_backbone
from benchmark.suites import Suite

SAMPLES = "images"


def write_family(folder: Path, backbone: str, suite: Suite) -> None:
    """Base, experts and decoders with random weights."""
    torch.manual_seed(0)
    shape, wide = get_backbone(backbone), channels(nyuv2.CLASSES)
    save_part(folder, "base", Encoder(shape), torch.float32)
    for task in suite.tasks:
        save_part(folder, task, Encoder(shape), torch.float32)
        head: nn.Module = Decoder(shape, wide[task], unit=task == "normals")
        save_part(folder, f"heads/{task}", head, torch.float32)
    write_manifest(folder, {"name": FAMILY, "backbone": backbone, "made": NOTE}, suite.tasks)


def write_data(root: Path, backbone: str, suite: Suite) -> None:
    """Random images with all truths in auto-lambda's layout, of the backbone's size."""
    rng, size = np.random.default_rng(0), get_backbone(backbone).size
    for folder, count in (("train", TRAIN), ("val", TEST)):
        for part in nyuv2.PARTS:
            (root / "nyuv2" / folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            normal = rng.normal(size=(*size, 3)).astype(np.float32)
            arrays = {
                "image": rng.random((*size, 3), np.float32),
                "label": rng.integers(-1, nyuv2.CLASSES, size).astype(np.float32),
                "depth": rng.uniform(0.5, 9.5, (*size, 1)).astype(np.float32),
                "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
            }
            for part, array in arrays.items():
                np.save(root / "nyuv2" / folder / part / f"{number}.npy", array)


class _Bench(DenseBench):
    counts = {"train": TRAIN, "val": TEST}


def open_bench(suite: Suite, backbone: str, folder: Path, device: Any, dtype: Any) -> DenseBench:
    """The real bench on what was written."""
    own = _Bench(
        suite, backbone, FAMILY, device, dtype, data_root=folder / "data", checkpoints=folder / "checkpoints"
    )  # fmt: skip
    return own
