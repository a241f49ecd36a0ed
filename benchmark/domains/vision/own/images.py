"""The images of one task: which are its splits, what they are by hash, and their pixels from the cache."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common import cache, damage, facts
from benchmark.common.damage import Damage
from benchmark.common.errors import UserError, shown
from benchmark.common.files import open_regular
from benchmark.domains.vision.embedded import ImageSplit
from benchmark.domains.vision.encoders.pixels import Pixels
from benchmark.domains.vision.images import picture
from benchmark.domains.vision.inspection import of_samples
from benchmark.domains.vision.local import Sample, batched
from benchmark.domains.vision.own.classes import Classes, label_of, matched
from benchmark.domains.vision.own.tables import Columns, Entry, Table, open_table, samples
from benchmark.suites.own import Splits, Task

SPLITS = ("train", "val", "test")
#: Layout words to the names that splits have here.
OURS = {"train": "train", "validation": "val", "test": "test"}
# Raised when the steps between file and cached pixels change.
RECIPE = "EXIF orientation, 8 bits by range, RGB; torchvision's resize and centre crop; 1"


@dataclass(frozen=True)
class Images:
    """The images of a task.

    Attributes:
        parts: ``{split: [(table, its entries), ...]}`` of the splits that there are.
        classes: of the head and of the data.
        notes: what boards must say: splits that were drawn, an order that was assumed.
    """

    task: str
    parts: Mapping[str, Sequence[tuple[Table, Sequence[Entry]]]]
    classes: Classes
    notes: tuple[str, ...]

    def count(self, split: str) -> int:
        """How many images a split has; 0 where there is none."""
        return sum(len(entries) for _, entries in self.parts.get(split, ()))

    def _labels(self, table: Table, entries: Sequence[Entry]) -> list[int]:
        return [self.classes.number[label_of(table, entry)] for entry in entries]

    def _part(self, split: str) -> Sequence[tuple[Table, Sequence[Entry]]]:
        if not self.count(split):
            have = ", ".join(name for name in SPLITS if self.count(name))
            raise UserError(
                f"{self.task} has no {split} images; it has {have}",
                f"Write data: {{{split}: PATH, ...}}, or splits: {{{split}: 0.1}}, in the task.",
            )
        return self.parts[split]

    def files(self) -> list[Path]:
        """Every file with images, each once."""
        every = (entry.file for part in self.parts.values() for _, entries in part for entry in entries)
        return list(dict.fromkeys(every))

    @functools.cached_property
    def _sums(self) -> dict[str, str]:
        return {}

    def fingerprint(self, split: str) -> str:
        """sha256 of names, contents and classes of a split's images; looked up once while the files stay as they are.

        Raises UserError where the task has no such split, or a file is missing.
        """
        if split not in self._sums:
            lines: list[Any] = []
            files: list[Path] = []
            for table, entries in self._part(split):
                numbers = self._labels(table, entries)
                lines += [[e.name, e.row, number] for e, number in zip(entries, numbers, strict=True)]
                files += dict.fromkeys(entry.file for entry in entries)
            what = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
            try:
                self._sums[split] = sum_of(what, files)
            except OSError as error:
                missing = error.filename or ""
                raise UserError(
                    f"{self.task}: {shown(Path(missing))} cannot be read: {error.strerror}",
                    "Restore it, or remove it from the table.",
                ) from None
        return self._sums[split]

    def load(self, split: str, pixels: Pixels) -> ImageSplit:
        """The pixels of a split, from the cache where they are there, else decoded now.

        Raises UserError with the name of every image that cannot be used.
        """
        part, count = self._part(split), self.count(split)
        about = [self.fingerprint(split), pixels.described, RECIPE, [table.column for table, _ in part]]
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
        try:
            images, labels = cache.load(
                f"own-{self.task}-{split}-{key}",
                (count, *pixels.size, 3),
                lambda: decoded(lambda: self._samples(split), count, pixels, f"{self.task}, {split}"),
            )
        except cache.CacheError as error:
            raise UserError(str(error)) from None
        return ImageSplit(images, labels, self.classes.names)

    def _samples(self, split: str) -> Iterator[Sample]:
        for table, entries in self._part(split):
            yield from samples(table, entries, self._labels(table, entries))


def decoded(
    samples: Callable[[], Iterator[Sample]], count: int, pixels: Pixels, what: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pixels and labels of ``count`` samples; ``samples`` may be asked for again, to name all damage.

    Raises UserError with the name of every image that cannot be used; ``what`` they are, for the message.
    """
    from tqdm import tqdm

    def usable(sample: Sample) -> tuple[np.ndarray, int]:
        try:
            return pixels(picture(sample.encoded())), int(sample.label)
        except (Damage, OSError, ValueError) as error:
            raise Damage(f"{sample.name}: {error}") from None

    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        tqdm(total=count, desc=f"decoding {what}", unit="image", delay=2, disable=None) as bar,
    ):
        for block in batched(samples(), 256):
            try:
                images, labels = zip(*pool.map(usable, block), strict=True)
            except Damage as error:
                lines = of_samples(samples(), int, f"looking at {what}") or [str(error)]
                raise damage.error(what, lines, "Restore these images, or remove them.") from None
            yield np.stack(images), np.array(labels, dtype=np.int64)
            bar.update(len(block))


def sum_of(what: str, files: Sequence[Path]) -> str:
    """sha256 of files and of ``what`` they hold; remembered while they stay as they are. Raises OSError."""

    def read() -> str:
        digest = hashlib.sha256(what.encode())
        for file in files:
            with open_regular(file) as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()

    digest: str = facts.remembered(f"own images {what}", files, read)
    return digest


def open_images(name: str, task: Task, splits: Splits, said: Sequence[str] | None, outputs: int | None) -> Images:
    """The images of a task of a user's suite.

    Args:
        said, outputs: the head's classes and how many it has, see :func:`benchmark.domains.vision.own.classes.matched`.

    Raises UserError for data that are not there or not clear, and for classes that are not the head's.
    """
    columns = Columns(task.image, task.label, task.split)
    parts: dict[str, list[tuple[Table, Sequence[Entry]]]] = {}
    notes: list[str] = []
    try:
        if task.data.path is not None:
            table = open_table(task.data.path, columns)
            tables = [table]
            for split, entries in _native(name, table).items():
                parts[split] = [(table, entries)]
            if not table.splits:
                parts, note = _drawn(name, table, splits)
                notes.append(note)
        else:
            given = {split: getattr(task.data, split) for split in SPLITS}
            opened = {split: open_table(place, columns, whole=False) for split, place in given.items() if place}
            for split, table in opened.items():
                if table.splits:
                    raise UserError(
                        f"{shown(table.place)}, given for {split}, has splits of its own: {', '.join(table.splits)}",
                        "Write data: PATH, or the place of one split for each.",
                    )
            tables = list(opened.values())
            parts = {split: [(table, table.entries)] for split, table in opened.items()}
    except UserError as error:
        raise UserError(f"{name}: {error.message}", error.hint) from None
    classes = matched(name, tables, said, outputs, task.absent)
    if "val" not in parts and "train" in parts and splits.val:
        ((table, whole),) = parts["train"]
        kept, held = _share(whole, splits.val, splits.seed, name)
        if kept and held:
            parts["train"], parts["val"] = [(table, kept)], [(table, held)]
            notes.append(
                f"{name}: val are {len(held):,} of {len(whole):,} training images, drawn within each class by seed "
                f"{splits.seed}."
            )
    images = Images(name, parts, classes, tuple(filter(None, (*notes, classes.note))))
    if not images.count("test"):
        have = ", ".join(split for split in SPLITS if images.count(split))
        raise UserError(
            f"{name}: there are no test images; the data have {have or 'none'}",
            "Write data: {train: PATH, test: PATH} in the task, with the images that are for testing.",
        )
    return images


def _native(name: str, table: Table) -> dict[str, list[Entry]]:
    """The splits that the data have themselves."""
    parts: dict[str, list[Entry]] = {}
    if not table.splits:
        return parts
    for entry in table.entries:
        if entry.split is None:
            raise UserError(f"{entry.name} has no split, others have one", "Write it for every image.")
        parts.setdefault(OURS.get(entry.split, entry.split), []).append(entry)
    return {split: entries for split, entries in parts.items() if split in SPLITS}


def _drawn(name: str, table: Table, splits: Splits) -> tuple[dict[str, list[tuple[Table, Sequence[Entry]]]], str]:
    """Splits of images that have none."""
    rest: Sequence[Entry]
    val: Sequence[Entry]
    rest, test = _share(table.entries, splits.test, splits.seed, name)
    train, val = _share(rest, splits.val, splits.seed, name) if splits.val else (rest, ())
    parts = {"train": train, "val": val, "test": test}
    if not splits.test:
        raise UserError(
            "there is no split, and splits: {test: 0} leaves none for testing", "Write e.g. splits: {test: 0.2}"
        )
    if not test:
        raise UserError(f"{len(table.entries)} images are too few to draw {splits.test:.0%} for testing", "Add some.")
    counts = ", ".join(f"{split} {len(entries):,}" for split, entries in parts.items() if entries)
    note = (
        f"{name}: the data have no splits; {counts} of {len(table.entries):,} images were drawn within each class by "
        f"seed {splits.seed}."
    )
    return {split: [(table, entries)] for split, entries in parts.items() if entries}, note


def _share(entries: Sequence[Entry], share: float, seed: int, task: str) -> tuple[list[Entry], list[Entry]]:
    """``(rest, share)`` of the entries, in their order, the same share of each class.

    An image's place in the draw is a hash of its name, task and seed: it is the same on every machine, and adding
    images moves few others.
    """

    def place(entry: Entry) -> bytes:
        return hashlib.sha256(f"{seed}\0{task}\0{entry.name}".encode()).digest()

    by_class: dict[Any, list[Entry]] = {}
    for entry in entries:
        by_class.setdefault(entry.label, []).append(entry)
    chosen: set[str] = set()
    for members in by_class.values():
        count = min(len(members) - 1, max(round(share * len(members)), 1 if share else 0))
        chosen.update(entry.name for entry in sorted(members, key=place)[: max(count, 0)])
    return [e for e in entries if e.name not in chosen], [e for e in entries if e.name in chosen]


def folders_of(images: Sequence[Images]) -> list[Path]:
    """The folders (and tables) with images, those within others left out."""
    parts = [part for each in images for split in each.parts.values() for part in split]
    every = {e.file if e.row is not None else e.file.parent for _, entries in parts for e in entries}
    every |= {table.place for table, _ in parts}
    kept: list[Path] = []
    for place in sorted(every):
        if not any(place.is_relative_to(other) for other in kept):
            kept.append(place)
    return kept
