"""The embedded vision tasks (`vision-mini-8/14/20`): manifest, parquet, and a memory-mapped uint8 cache.

The committed files are `mini/manifest.json` and `mini/<Task>/<split>.parquet` (PNG images and class labels, readable
with `datasets.load_dataset("parquet", data_files=...)`). A split is decoded once (`common.cache`), keyed by the
parquet's sha256; later loads map that file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.common import cache, facts
from benchmark.common.cache import arrays_sha256 as arrays_sha256
from benchmark.common.cache import cache_dir as cache_dir
from benchmark.common.files import read_object, read_regular
from benchmark.common.project import DATA as MINI

SPLITS = ("train", "validation", "test")
SUITES = {"vision-mini-8": 8, "vision-mini-14": 14, "vision-mini-20": 20}
MEND = "git checkout -- benchmark/data/mini   (or: symerge-bench assets data build vision-mini-20)"


class DataError(ValueError):
    """An embedded file does not match the manifest, or what was asked for does not exist."""


class _Split(BaseModel):
    """What the manifest must say of a split."""

    model_config = ConfigDict(strict=True)
    n: int = Field(ge=0, lt=1 << 31)
    bytes: int
    parquet_sha256: str
    arrays_sha256: str


class _Task(BaseModel):
    """What the manifest must say of a task; more may stand in it."""

    model_config = ConfigDict(strict=True)
    classes: list[str]
    templates: list[str]
    shape: list[Annotated[int, Field(ge=1, lt=1 << 16)]]
    source: str
    licence: str
    splits: dict[str, _Split]


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)
    tasks: dict[str, _Task]


@dataclass(frozen=True)
class TaskInfo:
    """One task as `manifest.json` describes it. Dictionaries are keyed by split name."""

    name: str
    classes: list[str]
    """Words that stand in a prompt, in label order."""
    templates: list[str]
    """Prompt templates with one `{}`."""
    counts: dict[str, int]
    shape: tuple[int, ...]
    """Shape of one image: (28, 28) grey or (28, 28, 3) RGB."""
    source: str
    licence: str
    sha256: dict[str, str]
    """Of the parquet files."""
    arrays_sha256: dict[str, str]
    """Of `images.tobytes() + labels.tobytes()` (uint8, little-endian int64)."""
    bytes: dict[str, int]
    """Size of the parquet files."""
    meta: dict[str, Any] = field(default_factory=dict, repr=False)
    """Everything else the manifest says (what the labels mean, probe scores, near-duplicates, recipe)."""


@dataclass(frozen=True)
class ImageSplit:
    """`images` uint8 [N, 28, 28] or [N, 28, 28, 3], memory-mapped and read-only; `labels` int64 [N]; class names."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def manifest(root: str | os.PathLike | None = None) -> dict[str, Any]:
    """The manifest of a data folder (default: the committed one). Raises `DataError` if absent or not JSON."""
    path = Path(root or MINI) / "manifest.json"
    try:
        content: dict[str, Any] = facts.remembered("manifest", [path], lambda: _read_manifest(path), on_disk=False)
    except FileNotFoundError:
        raise DataError(f"no manifest at {path}. To restore it: {MEND}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. To restore it: {MEND}") from None
    return content


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = read_object(path)
        _Manifest.model_validate(content)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        raise DataError(f"{path}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}. To restore it: {MEND}") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). To restore it: {MEND}") from None
    return content


def tasks(suite: str = "vision-mini-20", root: str | os.PathLike | None = None) -> list[str]:
    """Task names of a suite, in the suite's order (the 8 are the first 8 of the 14, these the first 14 of the 20)."""
    if suite not in SUITES:
        raise DataError(f"unknown suite {suite!r}; known: {', '.join(SUITES)}")
    return list(manifest(root)["tasks"])[: SUITES[suite]]


def info(task: str, root: str | os.PathLike | None = None) -> TaskInfo:
    """What the manifest says of one task. Raises `DataError` for an unknown name (the known ones are listed)."""
    tasks = manifest(root)["tasks"]
    if task not in tasks:
        raise DataError(f"unknown task {task!r}; known: {', '.join(tasks)}")
    entry = dict(tasks[task])
    splits = entry.pop("splits")
    return TaskInfo(
        name=task,
        classes=list(entry.pop("classes")),
        templates=list(entry.pop("templates")),
        counts={s: v["n"] for s, v in splits.items()},
        shape=tuple(entry.pop("shape")),
        source=entry.pop("source"),
        licence=entry.pop("licence"),
        sha256={s: v["parquet_sha256"] for s, v in splits.items()},
        arrays_sha256={s: v["arrays_sha256"] for s, v in splits.items()},
        bytes={s: v["bytes"] for s, v in splits.items()},
        meta=entry,
    )


def load_split(task: str, split: str, root: str | os.PathLike | None = None) -> ImageSplit:
    """One split of one task, from the cache if it is there and whole, else decoded from the parquet file.

    Raises `DataError` if the task or split is unknown, or the parquet file is missing, truncated, or has another
    sha256, class list or row count than the manifest. What is read from the cache is always
    compared with the manifest's hash of the arrays.
    """
    about = info(task, root)
    if split not in about.counts:
        raise DataError(f"{task} has no split {split!r}; it has: {', '.join(about.counts)}")
    path = Path(root or MINI) / task / f"{split}.parquet"
    if not path.is_file():
        raise DataError(f"{path} is missing. To restore it: {MEND}")
    size, expected = path.stat().st_size, about.bytes[split]
    if size != expected:
        raise DataError(f"{path} has {size} bytes, the manifest says {expected} (truncated?). To restore it: {MEND}")
    try:
        images, labels = cache.load(
            f"{task}-{split}-{about.sha256[split][:20]}",
            (about.counts[split], *about.shape),
            lambda: iter([_decode(path, about, split)]),
            sha256=about.arrays_sha256[split],
        )
    except cache.CacheError as error:
        raise DataError(str(error)) from None
    return ImageSplit(images, labels, about.classes)


def _decode(path: Path, about: TaskInfo, split: str) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    blob = read_regular(path)
    digest = hashlib.sha256(blob).hexdigest()
    if digest != about.sha256[split]:
        raise DataError(f"{path} has sha256 {digest}, the manifest says {about.sha256[split]}. To restore it: {MEND}")
    try:
        table = pq.read_table(pa.BufferReader(blob))
        rows = table.column("image").to_pylist()
        labels = np.asarray(table.column("label").to_pylist(), dtype=np.int64)
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        images = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows])
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be decoded as a table of `image` and `label`: {error}. To restore it: {MEND}"
        ) from None
    if features["label"]["names"] != about.classes:
        raise DataError(f"{path} names its classes {features['label']['names']}, the manifest {about.classes}. {MEND}")
    wanted = (about.counts[split], *about.shape)
    if images.shape != wanted or images.dtype != np.uint8 or labels.shape != wanted[:1]:
        raise DataError(
            f"{path} holds {images.dtype} images of shape {images.shape} and {labels.shape} labels, "
            f"the manifest says uint8 {wanted}. To restore it: {MEND}"
        )
    if arrays_sha256(images, labels) != about.arrays_sha256[split]:
        raise DataError(f"{path} decodes to other pixels than the manifest's arrays_sha256. To restore it: {MEND}")
    return images, labels
