"""The seven corruptions of AdaMerging's robustness test, on uint8 images of any size.

Motion blur, impulse noise, Gaussian noise, pixelate, spatter, contrast and JPEG after Hendrycks and Dietterich
(arXiv:1903.12261), five severities. Their package needs images of 32 pixels or more, so the operations are written here
on scipy and Pillow; severities are this project's own, scaled to small images, and spatter is simplified to drops of
water. Nothing here is comparable with numbers on ImageNet-C.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmark.common.errors import unknown

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def corrupt(images: np.ndarray, name: str, severity: int = 3, seed: int = 0) -> np.ndarray:
    """Corrupted copies of ``images``, uint8 ``[N, H, W]`` or ``[N, H, W, 3]``; image i depends on ``seed`` and i alone.

    Raises :class:`UserError` for an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in range(1, 6):
        raise unknown("severity", str(severity), [str(level) for level in range(1, 6)])
    spoilt = np.empty_like(images)
    for place, image in enumerate(images):
        rng = np.random.default_rng([seed, place])
        changed = CORRUPTIONS[name](image.astype(np.float64) / 255, severity - 1, rng)
        spoilt[place] = np.round(255 * np.clip(changed, 0, 1)).astype(np.uint8)
    return spoilt


def _motion_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """The mean along a line of the given length, at a random angle within 45 degrees of the horizontal."""
    length = (3, 4, 5, 7, 9)[level] * image.shape[0] / 28
    angle = np.deg2rad(rng.uniform(-45, 45))
    steps = np.linspace(-length / 2, length / 2, int(np.ceil(length)) + 1)
    moved = [_shift(image, step * np.sin(angle), step * np.cos(angle)) for step in steps]
    return np.mean(moved, axis=0)


def _shift(image: np.ndarray, down: float, right: float) -> np.ndarray:
    return ndimage.shift(image, (down, right, 0)[: image.ndim], order=1, mode="nearest")


def _impulse_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Some values set to black or white."""
    chance = rng.random(image.shape)
    amount = (0.02, 0.04, 0.08, 0.14, 0.2)[level]
    return np.where(chance < amount / 2, 0.0, np.where(chance < amount, 1.0, image))


def _gaussian_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return image + rng.normal(scale=(0.06, 0.1, 0.15, 0.22, 0.3)[level], size=image.shape)


def _pixelate(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Shrunk by averaging, and enlarged again without interpolation."""
    share = (0.75, 0.6, 0.5, 0.4, 0.3)[level]
    height, width = image.shape[:2]
    small = _picture(image).resize((max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST), dtype=np.float64) / 255


def _spatter(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Drops: where smoothed noise is high, a pale grey covers the picture."""
    size = image.shape[:2]
    liquid = ndimage.gaussian_filter(rng.normal(size=size), sigma=1.2 * size[0] / 28)
    edge = np.quantile(liquid, 1 - (0.05, 0.1, 0.15, 0.2, 0.28)[level])
    cover = np.clip((liquid - edge) / max(liquid.max() - edge, 1e-9) * 3, 0, 0.8)
    cover = cover.reshape(*size, *[1] * (image.ndim - 2))
    return (1 - cover) * image + cover * 0.75


def _contrast(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Differences from the image's mean, shrunk."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * (0.6, 0.45, 0.3, 0.2, 0.12)[level] + mean


def _jpeg(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=(50, 35, 20, 12, 7)[level])
    return np.asarray(Image.open(file), dtype=np.float64) / 255


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(255 * image).astype(np.uint8))


CORRUPTIONS: dict[str, Corruption] = {
    "motion_blur": _motion_blur,
    "impulse_noise": _impulse_noise,
    "gaussian_noise": _gaussian_noise,
    "pixelate": _pixelate,
    "spatter": _spatter,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
