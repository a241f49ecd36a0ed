"""From a picture to what an encoder takes: size and crop of its pixels, once, and their normalisation, each time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.common.errors import UserError, unknown

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
NORMAL = 1 / 255


@dataclass(frozen=True)
class Pixels:
    """How pictures become pixels: resized, cropped to the middle, scaled to [0, 1] and normalised.

    Attributes:
        size: height and width that the encoder takes.
        resize: the shorter side before the crop; None: height and width are brought to ``size``, whatever the ratio.
        mean, std: per channel, of values in [0, 1].
        first: which pixel begins a middle that lies between two: the first, as in transformers, or the even one.
    """

    size: tuple[int, int]
    resize: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    first: bool = False

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """A picture -> RGB uint8 ``[H, W, 3]``."""
        from torchvision.transforms import functional as F
        from torchvision.transforms.functional import InterpolationMode

        image: Any = picture.convert("RGB")
        how = InterpolationMode(self.interpolation)
        if self.resize is None:
            image = F.resize(image, list(self.size), how)
        else:
            image = F.resize(image, [self.resize], how)
            (width, height), (high, wide) = image.size, self.size
            if self.first and height >= high and width >= wide:
                image = F.crop(image, (height - high) // 2, (width - wide) // 2, high, wide)
            else:
                image = F.center_crop(image, [high, wide])
        return np.asarray(image)

    @property
    def described(self) -> dict[str, Any]:
        """What decides the pixels, as JSON."""
        about = dataclasses.asdict(self)
        return {**about, "size": list(self.size), "mean": list(self.mean), "std": list(self.std)}

    def line(self) -> str:
        """For people."""
        height, width = self.size
        shape = f"{height}" if height == width else f"{height} x {width}"
        how = "brought to" if self.resize is None else f"shorter side {self.resize}, crop"
        return f"{how} {shape}, {self.interpolation}"


def changed(pixels: Pixels | None, said: Mapping[str, Any]) -> Pixels:
    """``pixels`` with what the user ``said`` of them; with None all of it must be said.

    Args:
        said: ``size`` (a number, or height and width), ``resize``, ``crop`` (false: no ratio is kept), ``mean``,
            ``std``, ``interpolation``; absent or None: as the model says.

    Raises :class:`UserError` where something is neither said nor known.
    """
    given = {key: value for key, value in said.items() if value is not None}
    if pixels is None and (lacking := [key for key in ("size", "mean", "std") if key not in given]):
        raise UserError(
            f"nothing says how pictures are made ready for this model: {', '.join(lacking)}",
            "Put its preprocessor_config.json beside it, or write preprocessing: {size: 224, mean: [0.5, 0.5, 0.5], "
            "std: [0.5, 0.5, 0.5], interpolation: bicubic}",
        )
    size = pixels.size if pixels else (0, 0)
    resize = pixels.resize if pixels else None
    if "size" in given:
        size = pair(given["size"])
        resize = None if pixels and pixels.resize is None else min(size)
    if given.get("crop") is False:
        resize = None
    elif given.get("crop") is True or pixels is None:
        resize = resize or min(size)
    resize = given.get("resize", resize)
    interpolation = given.get("interpolation", pixels.interpolation if pixels else "bicubic")
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", str(interpolation), INTERPOLATIONS)
    if resize is not None and resize < min(size):
        raise UserError(f"pictures of shorter side {resize} have no middle of {size}", "Write a larger resize.")
    mean, std = (tuple(map(float, given.get(key, getattr(pixels, key, ())))) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise UserError(f"mean {list(mean)} and std {list(std)}: three numbers each, std above 0", "Write them so.")
    return Pixels(size, resize, mean, std, interpolation, pixels.first if pixels else False)


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a number or two."""
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


def named(interpolation: Any) -> str:
    """The name of Pillow's number of an interpolation, or of any library's name of it. Raises :class:`UserError`."""
    if isinstance(interpolation, int) and not isinstance(interpolation, bool):
        from PIL import Image

        interpolation = Image.Resampling(int(interpolation)).name
    word = str(getattr(interpolation, "value", interpolation)).lower().rpartition(".")[2]
    if word not in INTERPOLATIONS:
        raise unknown("interpolation", word, INTERPOLATIONS)
    return word
