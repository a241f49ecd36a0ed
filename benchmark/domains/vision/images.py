"""One encoded image as 8-bit pixels, upright; what gives none is `Damage` that says why, never a trace.

Orientation is decided as `datasets.Image` decides it: an orientation in the EXIF data is applied. Grey of more than
8 bits is scaled by the range of its type (PNG specification, "Sample depth scaling"), where Pillow would clip it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.common.damage import Damage

if TYPE_CHECKING:
    from PIL import Image


def picture(data: bytes) -> Image.Image:
    """The image in its own mode, except that grey of 16 or 32 bits and floats become 8-bit grey.

    Raises:
        Damage: no image, a part of one, one above Pillow's limit of pixels, or values outside of its type's range.
    """
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

    if not data:
        raise Damage("an empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
        most, unsigned = _range(image)
        if image.getexif().get(ExifTags.Base.Orientation) is not None:
            image = ImageOps.exif_transpose(image)
        return image if most is None else _eight_bits(image, most, unsigned)
    except UnidentifiedImageError:
        raise Damage(f"Pillow sees no image in it; it begins with {data[:12]!r}") from None
    except (Damage, MemoryError):
        raise
    except Exception as error:  # whatever a decoder meets in a foreign file
        raise Damage(f"{error or type(error).__name__}") from None


def _range(image: Any) -> tuple[float | None, bool]:
    """The most that a grey image of this kind holds, and whether its 32 bits have no sign; None: 8 bits, or colour."""
    if image.mode == "F":
        return 1.0, False
    if image.mode.startswith("I;16"):
        return 65535, False
    if image.mode != "I":
        return None, False
    if image.format != "TIFF":
        return 65535, False  # PGM above 8 bits, which Pillow brings to this range
    from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT

    bits, signed = int(image.tag_v2[BITSPERSAMPLE][0]), image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 2
    return 2.0 ** (bits - signed) - 1, bits == 32 and not signed


def _eight_bits(image: Any, most: float, unsigned: bool) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    # Pillow has no unsigned 32 bits and holds the same bits with a sign.
    values = (values.view(np.uint32) if unsigned else values).astype(np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= most):
        raise Damage(f"grey values from {low:g} to {high:g}, expected 0 to {most:g}")
    return Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))
