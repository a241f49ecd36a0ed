"""Pictures without labels, as methods that adapt are handed them: every image below a folder, whatever folders say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.common import cache
from benchmark.common.errors import UserError, shown
from benchmark.domains.vision import layout
from benchmark.domains.vision.archives import image_suffixes
from benchmark.domains.vision.backbones import Preprocessing
from benchmark.domains.vision.encoders.pixels import Pixels
from benchmark.domains.vision.local import Sample
from benchmark.domains.vision.own.images import RECIPE, decoded, sum_of


class Unlabelled:
    """Images as a source: uint8 pixels mapped from the cache, normalised when they are asked for; no labels."""

    def __init__(self, images: Any, ready: Preprocessing) -> None:
        self.images, self.ready = images, ready

    def __len__(self) -> int:
        return len(self.images)

    def stored(self, index: Tensor) -> tuple[Tensor, None]:
        """uint8 images on the CPU."""
        return torch.from_numpy(self.images[index.numpy()]), None

    def __getitem__(self, index: Tensor) -> tuple[Tensor, None]:
        return self.ready(self.stored(index)[0]), None


def open_unlabelled(
    folder: Path, pixels: Pixels, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Unlabelled:
    """Every image below a folder, made ready for an encoder, in the order of their names.

    Raises UserError for no folder, a folder without images, and with the name of every image that cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {shown(folder)}", "Give a folder of images, in whatever folders.")
    try:
        names = sorted(name for name in layout.files_below(folder) if Path(name).suffix.lower() in image_suffixes())
        if not names:
            raise UserError(f"{shown(folder)} holds no images", "Give a folder of images, in whatever folders.")
        digest = sum_of(hashlib.sha256(json.dumps(names).encode()).hexdigest(), [folder / name for name in names])
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}", "Mend it.") from None

    def samples() -> Iterator[Sample]:
        return (Sample(name, folder / name, 0) for name in names)

    key = hashlib.sha256(json.dumps([digest, pixels.described, RECIPE], sort_keys=True).encode()).hexdigest()[:20]
    shape = (len(names), *pixels.size, 3)
    try:
        images, _ = cache.load(f"unlabelled-{key}", shape, lambda: decoded(samples, len(names), pixels, shown(folder)))
    except cache.CacheError as error:
        raise UserError(str(error)) from None
    return Unlabelled(images, Preprocessing(pixels.mean, pixels.std, torch.device(device), dtype))
