"""Tiny data sets in exactly the formats of the hub: parquet with its features, image folders, webdataset tars."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image


def pictures(n: int, seed: int = 0, size: tuple[int, int] = (24, 32), mode: str = "RGB") -> list[Image.Image]:
    """Random smooth images ``(height, width)``."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(p).resize(size[::-1], Image.Resampling.BICUBIC).convert(mode) for p in small]


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def damaged_images() -> dict[str, bytes]:
    """Image files that give no image, by what is wrong with them."""
    good = encoded(pictures(1, size=(64, 64))[0])
    at = good.index(b"IDAT") - 4
    (size,) = struct.unpack(">I", good[at : at + 4])
    content = good[at + 8 : at + 8 + size]
    half = len(content) // 2
    first, second = _chunk(b"IDAT", content[:half]), _chunk(b"IDAT", content[half:])
    end = _chunk(b"IEND", b"")
    huge = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return {
        "garbled": good[:at] + first + second.replace(b"IDAT", b"\x01\x02\x03\x04") + end,
        "text": good[:at] + _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 3_000_000)) + good[at:],
        "bomb": good[:8] + _chunk(b"IHDR", huge) + _chunk(b"IDAT", zlib.compress(b"0")) + end,
        "empty": b"",
        "page": b"<html><body>404 not found</body></html>",
        "half": good[: len(good) // 2],
    }


def parquet(
    folder: Path,
    splits: dict[str, int],
    names: list[str] | None,
    *,
    image: str = "image",
    label: str = "label",
    mode: str = "RGB",
    size: tuple[int, int] = (24, 32),
    extra: dict[str, Any] | None = None,
) -> Path:
    """``data/<split>-00000-of-00001.parquet`` as the hub's converter writes them; labels go round."""
    classes = len(names) if names else 3
    features = Features({image: ImageFeature(), label: ClassLabel(names=names) if names else Value("int64")})
    for number, (split, n) in enumerate(splits.items()):
        rows = {image: pictures(n, number, size, mode), label: [i % classes for i in range(n)]}
        for column, value in (extra or {}).items():
            features[column] = Value("int64")
            rows[column] = [value] * n
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return folder


def image_folder(folder: Path, splits: dict[str, int], names: list[str]) -> Path:
    """``<split>/<class>/<n>.png``."""
    for number, (split, n) in enumerate(splits.items()):
        for i, picture in enumerate(pictures(n, number)):
            path = folder / split / names[i % len(names)] / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return folder


def web_dataset(folder: Path, splits: dict[str, int], classes: int, name: str = "s{:04d}") -> Path:
    """``wds/<split>/0.tar`` with ``s0000.png`` beside ``s0000.cls``."""
    for number, (split, n) in enumerate(splits.items()):
        path = folder / "wds" / split / "0.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for i, picture in enumerate(pictures(n, number)):
                for end, content in (("png", encoded(picture)), ("cls", str(i % classes).encode())):
                    entry = tarfile.TarInfo(f"{name.format(i)}.{end}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder


def zip_folder(folder: Path, splits: dict[str, int], names: list[str]) -> Path:
    """``<split>.zip`` of what :func:`image_folder` writes below a split, with what an operating system adds."""
    image_folder(folder, splits, names)
    for split in splits:
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            archive.writestr(f"__MACOSX/{names[0]}/._00000.png", b"Mac OS X")
            for path in sorted((folder / split).rglob("*.png")):
                archive.write(path, path.relative_to(folder / split))
                path.unlink()
        for inner in (folder / split).iterdir():
            inner.rmdir()
        (folder / split).rmdir()
    return folder
