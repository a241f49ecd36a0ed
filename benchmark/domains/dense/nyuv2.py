"""NYUv2 in the layout of auto-lambda: ``ROOT/{train,val}/{image,label,depth,normal}/<number>.npy``.

795 training and 654 test images of 288 x 384 (``val`` is the literature's test split). ``image`` ``[288, 384, 3]`` in
0 .. 1; ``label`` ``[288, 384]``, one of 13 classes, -1 where there is none; ``depth`` ``[288, 384, 1]`` in metres, 0
where there is none; ``normal`` ``[288, 384, 3]``, a unit vector, 0 where there is none. Source of the layout:
lorenmt/auto-lambda create_dataset.py.
Files are read one by one when they are asked for; arrays are numpy's own, without pickles.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.common import damage, facts
from benchmark.common.errors import Missing, UserError
from benchmark.common.files import open_regular
from benchmark.domains.dense.scenes import DenseSplit

CLASSES = 13
SIZE = (288, 384)
COUNTS = {"train": 795, "val": 654}
PARTS = ("image", "label", "depth", "normal")
CHANNELS = {"image": 3, "label": 0, "depth": 1, "normal": 3}
EXPECTED = (
    "Expected ROOT/train and ROOT/val, each with image/, label/, depth/ and normal/ holding 0.npy, 1.npy, ... "
    "(the preprocessed files linked by lorenmt/auto-lambda; or, from the hub's tanganke/nyuv2: "
    "symerge-bench assets data convert nyuv2 FROM ROOT). "
    "To check them: symerge-bench assets data check nyuv2 --root ROOT"
)
# The deepest plausible value in metres: the sensor ends at ten.
DEEPEST = 20.0
# Every tenth training image stands for validation; experts have seen them.
VALIDATION_EVERY = 10


@dataclass(frozen=True)
class Nyuv2:
    """A checked root. ``counts`` are images by folder; ``size`` is height and width."""

    root: Path
    counts: dict[str, int]
    size: tuple[int, int]

    def numbers(self, split: str) -> np.ndarray:
        """The file numbers of ``train``, ``val`` (every tenth of the training images) or ``test``."""
        if split == "test":
            return np.arange(self.counts["val"])
        every = np.arange(self.counts["train"])
        return every[::VALIDATION_EVERY] if split == "val" else every

    def read(self, split: str, index: np.ndarray) -> DenseSplit:
        """The images at ``index`` of a split, checked. Images become uint8, others float32 or integers.

        Raises:
            UserError: a damaged file among them; the message names every one of the split's.
        """
        try:
            return self._stack(split, index)
        except UserError as error:
            lines = self.damaged(split, np.arange(len(self.numbers(split)))) or [error.message]
            raise damage.error(f"NYUv2, split {split!r}", lines, EXPECTED, "file") from None

    def _stack(self, split: str, index: np.ndarray) -> DenseSplit:
        folder, numbers = self._folder(split), self.numbers(split)[index]
        rows = {part: np.stack([self._one(folder, part, int(n)) for n in numbers]) for part in PARTS}
        image = np.rint(rows["image"] * 255).astype(np.uint8)
        return DenseSplit(image, rows["label"], rows["depth"][..., 0], rows["normal"])

    def damaged(self, split: str, index: np.ndarray) -> list[str]:
        """What is wrong with each damaged file of the images at ``index`` of a split, by its name."""
        lines = []
        for number in self.numbers(split)[index]:
            for part in PARTS:
                try:
                    self._one(self._folder(split), part, int(number))
                except UserError as error:
                    lines.append(error.message)
        return lines

    def _folder(self, split: str) -> Path:
        return self.root / ("val" if split == "test" else "train")

    def _one(self, folder: Path, part: str, number: int) -> np.ndarray:
        path = folder / part / f"{number}.npy"
        array = load(path)
        wanted = (*self.size, CHANNELS[part]) if CHANNELS[part] else self.size
        if array.shape != wanted:
            raise UserError(f"{shown(path)} has the shape {list(array.shape)}, expected {list(wanted)}", EXPECTED)
        if why := problem(part, array):
            raise UserError(f"{shown(path)}: {why}", EXPECTED)
        return array.astype(np.int64 if part == "label" else np.float32)


def open_root(root: str | Path, *, size: tuple[int, int] | None = None, counts: dict[str, int] | None = None) -> Nyuv2:
    """The data under ``root``. Raises :class:`UserError` for missing folders or files, or other numbers of images.

    Args:
        size, counts: of the published preprocessing; other ones for tests.
    """
    root, wanted = Path(root).expanduser(), counts or COUNTS
    if not root.is_dir():
        raise Missing(f"no folder {root}", EXPECTED)
    for folder, count in wanted.items():
        for part in PARTS:
            where = root / folder / part
            if not where.is_dir():
                raise UserError(f"{root} has no folder {folder}/{part}", EXPECTED)
            names = {name for name in os.listdir(where) if name.endswith(".npy")}
            missing = [n for n in range(count) if f"{n}.npy" not in names]
            if missing or len(names) != count:
                some = ", ".join(f"{n}.npy" for n in missing[:3])
                lacks = f"; {len(missing)} of 0.npy .. {count - 1}.npy are missing: {some}" if missing else ""
                raise UserError(f"{folder}/{part} holds {len(names)} files, expected {count}{lacks}", EXPECTED)
    return Nyuv2(root, dict(wanted), size or SIZE)


def folder(root: Path) -> Path:
    """``root`` itself where it holds the splits, else its folder ``nyuv2``."""
    return root if (root / "train").is_dir() else root / "nyuv2"


def load(path: Path) -> np.ndarray:
    """One array, without pickles. Raises :class:`UserError` for a missing, truncated or other file."""
    try:
        with open_regular(path) as file:
            return np.asarray(np.load(file, allow_pickle=False))
    except Exception as error:  # a foreign file: also a broken zip, or a header that asks for all memory
        raise UserError(f"{shown(path)} cannot be read: {str(error) or type(error).__name__}", EXPECTED) from None


def problem(part: str, array: np.ndarray) -> str | None:
    """What is wrong with the values of one array, or None."""
    if array.dtype.kind not in "fiu":
        return f"its type is {array.dtype}, numbers were expected"
    if not np.isfinite(array).all():
        return f"{int((~np.isfinite(array)).sum())} values are NaN or infinite"
    low, high = float(array.min()), float(array.max())
    if part == "image" and not (low >= 0 and high <= 1):
        return f"values from {low:g} to {high:g}, expected 0 to 1"
    if part == "label" and not (low >= -1 and high < CLASSES and (array == np.rint(array)).all()):
        return f"values from {low:g} to {high:g}, expected whole numbers from -1 (none) to {CLASSES - 1}"
    if part == "depth" and not (low >= 0 and high <= DEEPEST):
        return f"values from {low:g} to {high:g}, expected metres from 0 (none) to {DEEPEST:g}"
    if part == "normal":
        length = np.sqrt((array.astype(np.float64) ** 2).sum(-1))
        if bool(((length > 1e-6) & (np.abs(length - 1) > 0.05)).any()):
            return f"lengths up to {length.max():.3g}, expected unit vectors or 0 (none)"
    return None


def check(root: str | Path, *, size: tuple[int, int] | None = None, counts: dict[str, int] | None = None) -> list[str]:
    """Read every file; lines that say what was found. Raises :class:`UserError` that names every damaged file."""
    data = open_root(root, size=size, counts=counts)
    lines: list[str] = []
    damaged: list[str] = []
    for split in ("train", "test"):
        count = len(data.numbers(split))
        pixels = count * data.size[0] * data.size[1]
        classes = np.zeros(CLASSES, dtype=np.int64)
        deep = upright = 0
        far = 0.0
        for part in _chunks(count):
            try:
                got = data._stack(split, part)
            except UserError:
                damaged += data.damaged(split, part)
                continue
            classes += np.bincount(got.label[got.label >= 0], minlength=CLASSES)
            deep += int((got.depth > 0).sum())
            upright += int((got.normal != 0).any(-1).sum())
            far = max(far, float(got.depth.max()))
        lines.append(
            f"{split}: {count} images of {data.size[0]} x {data.size[1]}; labelled {_share(classes.sum(), pixels)}, "
            f"{int((classes > 0).sum())} of {CLASSES} classes; depth known {_share(deep, pixels)}, up to {far:.2f} m; "
            f"normals known {_share(upright, pixels)}"
        )
        if not damaged and not (deep and upright and classes.sum()):
            raise UserError(f"{split}: no pixel has a label, depth or normal at all", EXPECTED)
    if damaged:
        raise UserError(damage.message("NYUv2", damaged, "file"), EXPECTED)
    return lines


def fingerprint(data: Nyuv2, split: str, part: str) -> str:
    """A hash of names and contents of every file of a part of a split, read once (`benchmark.common.facts`)."""
    names = [f"{part}/{number}" for number in data.numbers(split)]
    paths = [data.root / ("val" if split == "test" else "train") / f"{name}.npy" for name in names]

    def read() -> str:
        digest = hashlib.sha256()
        for name, path in zip(names, paths, strict=True):
            with open_regular(path) as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    return str(facts.remembered(f"nyuv2 {split} {part}", paths, read))


def shown(path: Path) -> str:
    """The last three parts of a path: split, part and file."""
    return "/".join(path.parts[-3:])


def _chunks(count: int, size: int = 16) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(count, start + size))


def _share(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %"
