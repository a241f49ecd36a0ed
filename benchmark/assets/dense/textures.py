"""The textures of the scenes: squares cut out of CC0 photographs of scikit-image's package, grey, 64 x 64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.assets.dense.design import TEXTURES

SIDE = 64
# Photograph and the square cut out of it (left, top, right, bottom), for each name of TEXTURES.
CUTS = {
    "brick": ("brick.png", (0, 0, 256, 256)),
    "brick 2": ("brick.png", (200, 200, 456, 456)),
    "gravel": ("gravel.png", (0, 0, 256, 256)),
    "gravel 2": ("gravel.png", (256, 256, 512, 512)),
    "grass": ("grass.png", (0, 0, 256, 256)),
    "grass 2": ("grass.png", (256, 256, 512, 512)),
    "fur": ("chelsea.png", (90, 20, 350, 280)),
    "cup": ("coffee.png", (150, 30, 480, 360)),
    "cameraman": ("camera.png", (120, 20, 380, 280)),
    "eye": ("retina.jpg", (150, 150, 1250, 1250)),
}


def make(photographs: Path) -> np.ndarray:
    """The atlas uint8 ``[T, 64, 64]`` from the folder ``skimage/data``; grey levels stretched from 1 to 99 percent."""
    textures = []
    for name in TEXTURES:
        file, box = CUTS[name]
        grey = Image.open(photographs / file).convert("RGB").convert("L").crop(box)
        values = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=float)
        low, high = np.percentile(values, [1, 99])
        textures.append(np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8))
    return np.stack(textures)


def save(atlas: np.ndarray, path: Path) -> None:
    """Side by side in one picture."""
    Image.fromarray(atlas.transpose(1, 0, 2).reshape(SIDE, -1)).save(path, optimize=True)
