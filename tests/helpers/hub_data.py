"""Tiny data sets in exactly the formats of the hub: parquet with its features, image folders, webdataset tars."""

from __future__ import annotations

import io
import tarfile
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


def parquet(
    folder: Path, splits: dict[str, int], names: list[str] | None, *, image: str = "image", label: str = "label",
    mode: str = "RGB", size: tuple[int, int] = (24, 32), extra: dict[str, Any] | None = None,
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


def web_dataset(folder: Path, splits: dict[str, int], classes: int) -> Path:
    """``wds/<split>/0.tar`` with ``s0000.png`` beside ``s0000.cls``."""
    for number, (split, n) in enumerate(splits.items()):
        path = folder / "wds" / split / "0.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for i, picture in enumerate(pictures(n, number)):
                buffer = io.BytesIO()
                picture.save(buffer, "PNG")
                for end, content in (("png", buffer.getvalue()), ("cls", str(i % classes).encode())):
                    entry = tarfile.TarInfo(f"s{i:04d}.{end}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder
