"""A tiny root in NYUv2's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.domains.dense import nyuv2
from helpers.dense import SHAPE

COUNTS, SIZE = {"train": 12, "val": 4}, SHAPE.size


def write_root(root: Path) -> Path:
    """A root of 12 and 4 random images of 16 x 16 with invalid pixels, in the published types."""
    random = np.random.default_rng(0)
    for folder, count in COUNTS.items():
        for part in nyuv2.PARTS:
            (root / folder / part).mkdir(parents=True)
        for number in range(count):
            label = random.integers(-1, nyuv2.CLASSES, SIZE).astype(np.float64)
            depth = random.uniform(0.5, 9.9, (*SIZE, 1)).astype(np.float32)
            normal = random.normal(size=(*SIZE, 3))
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            depth[:2], normal[:2] = 0, 0
            for part, array in (
                ("image", random.random((*SIZE, 3))), ("label", label), ("depth", depth), ("normal", normal)
            ):  # fmt: skip
                np.save(root / folder / part / f"{number}.npy", array)
    return root
