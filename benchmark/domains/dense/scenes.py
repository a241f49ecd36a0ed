"""The embedded scenes of ``dense-mini``: read and checked (``assets.dense.render`` makes them).

Files: ``<split>-<part>.npy.xz`` (xz with a delta filter), the atlas of textures ``textures.png``, and
``manifest.json`` with the sha256 of every array.
"""

from __future__ import annotations

import functools
import hashlib
import io
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common.errors import UserError
from benchmark.common.files import read_object, read_regular
from benchmark.common.project import DATA

FOLDER = DATA / "scenes"
SPLITS = ("train", "val", "test")
# The part's type in the files, and the distance of the delta filter that packs it well.
PARTS: dict[str, tuple[str, int]] = {
    "image": ("uint8", 3),
    "label": ("int8", 1),
    "depth": ("float16", 2),
    "normal": ("float16", 2),
}
MEND = "To restore it: git checkout -- benchmark/data/mini/scenes"


@dataclass(frozen=True)
class DenseSplit:
    """Images and truth of one split.

    Attributes:
        image: uint8 ``[n, H, W, 3]``.
        label: ``[n, H, W]`` integers, -1 where there is none.
        depth: metres ``[n, H, W]``, 0 where there is none.
        normal: unit vectors in camera axes ``[n, H, W, 3]``, 0 where there is none.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, index: np.ndarray) -> DenseSplit:
        """The images at ``index``."""
        return DenseSplit(self.image[index], self.label[index], self.depth[index], self.normal[index])


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """What the folder says of itself. Raises :class:`UserError`."""
    try:
        return read_object(folder / "manifest.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.name}/manifest.json cannot be read: {error}", MEND) from None


@functools.lru_cache(maxsize=6)
def load_split(split: str, folder: Path = FOLDER) -> DenseSplit:
    """One split, checked against the manifest. Raises :class:`UserError` for a missing, damaged or altered file."""
    splits = manifest(folder)["splits"]
    if split not in splits:
        raise UserError(f"no split {split!r} of the scenes; there are {', '.join(splits)}", MEND)
    arrays = {}
    for part in PARTS:
        path = part_file(folder, split, part)
        try:
            raw = lzma.decompress(read_regular(path), lzma.FORMAT_XZ)
            arrays[part] = np.load(io.BytesIO(raw), allow_pickle=False)
        except (OSError, lzma.LZMAError, ValueError, EOFError) as error:
            raise UserError(f"{path.name} cannot be read: {error}", MEND) from None
        if (sha256 := digest(arrays[part])) != splits[split][part]:
            raise UserError(
                f"{path.name} holds an array of sha256 {sha256[:12]}, expected {splits[split][part][:12]}", MEND
            )
    return DenseSplit(**arrays)


def part_file(folder: Path, split: str, part: str) -> Path:
    """Where a part of a split lies."""
    return folder / f"{split}-{part}.npy.xz"
