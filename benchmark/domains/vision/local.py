"""One data set's local copy, opened by `datasets`: parquet files as on the hub, folders of images, or webdataset tars.

Zips of class folders are read here. Nothing is copied and nothing is fetched: rows are streamed from the files where
they lie, images stay encoded.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.common import facts
from benchmark.common.damage import Damage
from benchmark.common.errors import UserError
from benchmark.common.files import open_regular, read_regular
from benchmark.domains.vision import layout
from benchmark.domains.vision.archives import (
    COPY_AGAIN,
    check_tar_names,
    read_members,
    tar_ends,
    unreadable,
    why,
    zipped_images,
)
from benchmark.domains.vision.layout import EXPECTED

FOLDER, ZIPPED = "image folder", "zipped image folder"
MOST_COLUMNS_SHOWN = 8


@dataclass(frozen=True)
class Sample:
    """One row. ``name`` is its file, or its file and its number in it, counted from 0."""

    name: str
    image: bytes | Path | None = None
    label: Any = None
    problem: str = ""
    """Why there is no image, or why the file ends here."""

    def encoded(self) -> bytes:
        """The image as it is stored. Raises Damage where there is none."""
        if self.problem:
            raise Damage(self.problem)
        if self.image is None:
            raise Damage("a row without an image")
        if isinstance(self.image, bytes):
            return self.image
        try:
            return read_regular(self.image)
        except OSError as error:
            raise Damage(f"cannot be read: {error.strerror}") from None


class Copy:
    """A data set in a folder: the splits of its layout (`layout`), the columns that `datasets` finds."""

    def __init__(self, folder: Path, config: str | None = None) -> None:
        """``folder`` is resolved. Raises UserError where it is missing or holds nothing that `datasets` can read."""
        self.folder = folder
        if not folder.is_dir():
            raise UserError(f"no data in {folder}", EXPECTED)
        from datasets.data_files import DataFilesDict, DataFilesList

        content = layout.read(folder, config)
        self._names, self.splits = content.splits, list(content.splits)
        self._readable, self._kind = _without_colons(folder), content.kind
        # Lists of names, since patterns would be looked for, and a folder may have brackets in its name.
        files = {
            split: DataFilesList([str(self._readable / name) for name in names], [])
            for split, names in content.splits.items()
        }
        try:
            reader = _reader(content.kind)
            options = {
                key: value for key, value in content.options.items() if hasattr(reader.BUILDER_CONFIG_CLASS, key)
            }
            if content.kind == "imagefolder":
                # Left to itself, `datasets` gives no labels to a split that it meets first and that has one class.
                options.setdefault("drop_labels", False)
            self.builder: Any = reader(
                cache_dir=str(_scratch() / "datasets"), data_files=DataFilesDict(files), info=content.info, **options
            )
        except Exception as error:
            raise UserError(f"{folder} cannot be read as a data set: {error}", EXPECTED) from None

    def _check(self, split: str) -> None:
        if split not in self.splits:
            splits = ", ".join(self.splits) or "none"
            raise UserError(f"{self.folder} has no split {split!r}; it has {splits}", EXPECTED)

    def files(self, split: str) -> list[Path]:
        """The split's files, sorted."""
        self._check(split)
        return sorted(self._listed()[split])

    def _listed(self) -> dict[str, list[Path]]:
        """The files of every split, in the order in which `datasets` reads them."""
        return {split: [self.folder / name for name in names] for split, names in self._names.items()}

    def layout(self, split: str) -> str:
        """What kind of files the split is in, for people."""
        self._check(split)
        if self._kind != "imagefolder":
            return self._kind
        suffixes = {Path(name).suffix.lower() for name in self._names[split]}
        if ".zip" in suffixes and len(suffixes) > 1:
            raise UserError(f"{self.folder}, split {split} has archives and other files side by side", EXPECTED)
        return ZIPPED if ".zip" in suffixes else FOLDER

    def rows(self, split: str, image: str | None = None, label: str | None = None) -> Any:
        """The split as a stream of rows in the files' order, images encoded (`{"bytes", "path"}`).

        ``image`` and ``label``: only these columns, and a sample's name in a tar. Raises UserError for a file that is
        not readable. A zip is no table: it has :meth:`samples` alone.
        """
        import datasets

        self._check(split)
        files = [file for files in self._listed().values() for file in files]
        for file in files:
            if self._kind == "webdataset":
                check_tar_names(file)
        try:
            stream = self.builder.as_streaming_dataset(split)
            if stream.features is None:
                stream = stream._resolve_features()
        except Exception as error:
            broken = self._unreadable(files)
            raise UserError(f"{self.folder}, split {split}: {broken or error}", COPY_AGAIN) from None
        for column, feature in stream.features.items():
            if isinstance(feature, datasets.Image):
                stream = stream.cast_column(column, datasets.Image(decode=False))
        wanted = [column for column in (image, label) if column is not None]
        if wanted and "__key__" in stream.features:
            wanted.append("__key__")
        return stream.select_columns(wanted) if wanted else stream

    def samples(self, split: str, image: str, label: str) -> Iterator[Sample]:
        """Every sample of the split, in the files' order and each with its name.

        A file that cannot be read to its end gives a last sample that says so, and the next file follows.
        """
        layout = self.layout(split)
        if layout == ZIPPED:
            for file in self.files(split):
                members = zipped_images(file)
                for (info, folder), (content, problem) in zip(members, read_members(file, members), strict=True):
                    yield Sample(f"{self._name(file)}, {info.filename}", content, folder, problem)
            return
        for file, number, row, problem in self._read(split, self.rows(split, image, label)):
            if problem:
                yield Sample(self._name(file), problem=problem)
                continue
            stored = row[image] or {}
            if layout == FOLDER and stored.get("path"):
                yield Sample(self._name(Path(stored["path"])), Path(stored["path"]), row[label])
            else:
                name = f"{self._name(file)}, {row.get('__key__', f'row {number}')}"
                yield Sample(name, stored.get("bytes"), row[label])

    def _read(self, split: str, rows: Any) -> Iterator[tuple[Path, int, dict[str, Any], str]]:
        """``(file, number in it, row, "")``; for a damaged file at last ``(file, rows read, {}, why no more)``."""
        from datasets.distributed import split_dataset_by_node

        # Each table is a shard of its own; a folder of images is read as one.
        files = [self.folder] if self.layout(split) == FOLDER else self._listed()[split]
        for place, file in enumerate(files):
            count = 0
            try:
                for row in split_dataset_by_node(rows, rank=place, world_size=len(files)):
                    yield file, count, row, ""
                    count += 1
                if self._kind == "webdataset" and not tar_ends(file):
                    yield file, count, {}, f"is cut short after {count} samples"
            except Exception as error:  # `datasets` hands through whatever a reader meets in a foreign file
                yield file, count, {}, f"cannot be read after {count} samples: {why(error)}"

    def columns(self, split: str, label: str) -> tuple[str, str, list[str] | None]:
        """The image column, the label column (``label`` if it is there) and its class names, if it has any.

        Raises UserError where there is no image column or no clear label column.
        """
        import datasets

        if self.layout(split) == ZIPPED:
            zips = [file for files in self._listed().values() for file in files if file.suffix == ".zip"]
            if broken := self._unreadable(zips):
                raise UserError(f"{self.folder}: {broken}", COPY_AGAIN)
            return "image", "label", sorted({folder for file in zips for _, folder in zipped_images(file)})
        features = self.rows(split).features
        listed = [f"{name} ({type(feature).__name__})" for name, feature in features.items()]
        more = f" and {len(listed) - MOST_COLUMNS_SHOWN} more" if len(listed) > MOST_COLUMNS_SHOWN else ""
        described = ", ".join(listed[:MOST_COLUMNS_SHOWN]) + more
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        if len(images) != 1:
            raise UserError(f"{self.folder}, split {split} has the columns {described}", "Expected one image column.")
        labelled = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        candidates = [name for name in (label, "label", "cls") if name in features] + labelled
        if not candidates:
            raise UserError(f"{self.folder}, split {split} has the columns {described}", f"Expected the label {label}.")
        if self.layout(split) == FOLDER and set(features) == {"image", "label"}:
            for name in self._names[split]:
                if not layout.has_class_folder(name):
                    raise UserError(f"{self.folder}: {name} stands in no class folder", EXPECTED)
        chosen = features[candidates[0]]
        return images[0], candidates[0], list(chosen.names) if isinstance(chosen, datasets.ClassLabel) else None

    def facts(self, split: str) -> tuple[int, str]:
        """Number of rows, and a sha256 over the names and contents of the split's files.

        Remembered in the cache folder for as long as the files stay as they are (`benchmark.common.facts`).
        Raises UserError, naming each, for files that cannot be read to their end.
        """
        files = self.files(split)
        names = [str(file.relative_to(self.folder)) for file in files]

        def read() -> tuple[int, str]:
            digest = hashlib.sha256()
            for file, name in zip(files, names, strict=True):
                with open_regular(file) as opened:
                    digest.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
            return self._count(split, files), digest.hexdigest()

        rows, sha256 = facts.remembered(f"rows and sha256 of {names}", files, read)
        return int(rows), str(sha256)

    def _count(self, split: str, files: list[Path]) -> int:
        if self.layout(split) == ZIPPED:
            return sum(len(zipped_images(file)) for file in files)
        if self.layout(split) == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                return sum(pq.ParquetFile(file).metadata.num_rows for file in files)
            except (pa.ArrowException, OSError) as error:
                broken = self._unreadable(files)
                raise UserError(f"{self.folder}, split {split}: {broken or error}", COPY_AGAIN) from None
        total, problems = 0, []
        for file, _, _, problem in self._read(split, self.rows(split)):
            total += not problem
            problems += [f"{self._name(file)} {problem}"] if problem else []
        if problems:
            raise UserError(f"{self.folder}, split {split}: {'; '.join(problems)}", COPY_AGAIN)
        return total

    def _name(self, file: Path) -> str:
        """A file as it is said: from the data set's folder on."""
        roots = [root for root in (self.folder, self._readable) if file.is_relative_to(root)]
        return str(file.relative_to(roots[0]) if roots else file)

    def _unreadable(self, files: Iterable[Path]) -> str:
        """Which of the files cannot be listed, and why; empty where all can."""
        problems = {file: unreadable(file) for file in sorted(files)}
        return "; ".join(f"{self._name(file)}: {why}" for file, why in problems.items() if why)


def _reader(kind: str) -> Any:
    """The class of `datasets` that reads files of one of `layout.KINDS`."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    return dict(zip(layout.KINDS, (Parquet, WebDataset, ImageFolder), strict=True))[kind]


@functools.cache
def _scratch() -> Path:
    """A folder of this process alone, for `datasets`' locks; it goes at the end."""
    folder = tempfile.TemporaryDirectory(prefix="symerge-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _without_colons(folder: Path) -> Path:
    """``folder``, or a link to it: `datasets` reads a path with ``::`` as a chain of addresses, whatever is there."""
    if "::" not in str(folder):
        return folder
    link = _scratch() / hashlib.sha256(os.fsencode(folder)).hexdigest()[:20]
    if "::" in str(link):
        raise UserError(f"{folder}: a path with :: cannot be read", "Set TMPDIR to a folder without, or move the data.")
    if not link.is_symlink():
        link.symlink_to(folder.absolute(), target_is_directory=True)
    return link


@functools.lru_cache(maxsize=64)
def open_copy(folder: Path, config: str | None = None) -> Copy:
    """The copy in this folder, listed once a process."""
    return Copy(folder, config)


def batched(rows: Any, size: int) -> Iterator[list[Any]]:
    """Lists of up to ``size`` items."""
    pending: list[Any] = []
    for row in rows:
        pending.append(row)
        if len(pending) == size:
            yield pending
            pending = []
    if pending:
        yield pending
