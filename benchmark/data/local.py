"""One data set's local copy, opened by `datasets`: parquet files as on the hub, a folder of images, or webdataset tars.

Nothing is copied and nothing is fetched: rows are streamed from the files where they lie, images stay encoded.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.data import facts, layout
from benchmark.data.layout import EXPECTED
from benchmark.errors import UserError


class Copy:
    """A data set in a folder: the splits of its layout (`benchmark.data.layout`), the columns that `datasets` finds."""

    def __init__(self, folder: Path, config: str | None = None) -> None:
        """``folder`` is resolved. Raises UserError where it is missing or holds nothing that `datasets` can read."""
        self.folder = folder
        if not folder.is_dir():
            raise UserError(f"no data in {folder}", EXPECTED)
        from datasets.data_files import DataFilesDict, DataFilesList

        found = layout.read(folder, config)
        self._names, self.splits = found.splits, list(found.splits)
        readable = _without_colons(folder)
        # Lists of names, since patterns would be looked for, and a folder may have brackets in its name.
        files = {s: DataFilesList([str(readable / name) for name in names], []) for s, names in found.splits.items()}
        try:
            reader = _reader(found.kind)
            options = {key: value for key, value in found.options.items() if hasattr(reader.BUILDER_CONFIG_CLASS, key)}
            self.builder: Any = reader(
                cache_dir=str(_scratch() / "datasets"), data_files=DataFilesDict(files), info=found.info, **options
            )
        except Exception as error:
            raise UserError(f"{folder} cannot be read as a data set: {error}", EXPECTED) from None

    def _check(self, split: str) -> None:
        if split not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise UserError(f"{self.folder} has no split {split!r}; it has {known}", EXPECTED)

    def files(self, split: str) -> list[Path]:
        """The split's files, sorted."""
        self._check(split)
        return sorted(self.folder / name for name in self._names[split])

    def layout(self, split: str) -> str:
        """What kind of files the split is in, for people."""
        suffix = {file.suffix for file in self.files(split)}
        return "parquet" if suffix == {".parquet"} else "webdataset" if suffix == {".tar"} else "image folder"

    def rows(self, split: str, image: str | None = None, label: str | None = None) -> Any:
        """The split as a stream of rows in the files' order, images encoded (`{"bytes", "path"}`).

        ``image`` and ``label``: only these columns. Raises UserError for a file that is not readable.
        """
        import datasets

        self._check(split)
        try:
            stream = self.builder.as_streaming_dataset(split)
            if stream.features is None:
                stream = stream._resolve_features()
        except Exception as error:
            raise UserError(f"{self.folder}, split {split}: {error}", "Fetch or copy the files again.") from None
        for column, feature in stream.features.items():
            if isinstance(feature, datasets.Image):
                stream = stream.cast_column(column, datasets.Image(decode=False))
        wanted = [column for column in (image, label) if column is not None]
        return stream.select_columns(wanted) if wanted else stream

    def columns(self, split: str, label: str) -> tuple[str, str, list[str] | None]:
        """The image column, the label column (``label`` if it is there) and its class names, if it has any.

        Raises UserError where there is no image column or no clear label column.
        """
        import datasets

        features = self.rows(split).features
        described = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        if len(images) != 1:
            raise UserError(f"{self.folder}, split {split} has the columns {described}", "Expected one image column.")
        labelled = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        candidates = [name for name in (label, "label", "cls") if name in features] + labelled
        if not candidates:
            raise UserError(f"{self.folder}, split {split} has the columns {described}", f"Expected the label {label}.")
        chosen = features[candidates[0]]
        return images[0], candidates[0], list(chosen.names) if isinstance(chosen, datasets.ClassLabel) else None

    def facts(self, split: str) -> tuple[int, str]:
        """Number of rows, and a sha256 over the names and contents of the split's files.

        Remembered in the cache folder for as long as the files stay as they are (`benchmark.data.facts`).
        """
        files = self.files(split)
        names = [str(file.relative_to(self.folder)) for file in files]

        def read() -> tuple[int, str]:
            digest = hashlib.sha256()
            for file, name in zip(files, names, strict=True):
                with open(file, "rb") as opened:
                    digest.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
            return self._count(split, files), digest.hexdigest()

        rows, sha256 = facts.remembered(f"rows and sha256 of {names}", files, read)
        return int(rows), str(sha256)

    def _count(self, split: str, files: list[Path]) -> int:
        if all(file.suffix == ".parquet" for file in files):
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                return sum(pq.ParquetFile(file).metadata.num_rows for file in files)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{self.folder}, split {split}: {error}", "Fetch or copy the files again.") from None
        return sum(1 for _ in self.rows(split))


def _reader(kind: str) -> Any:
    """The class of `datasets` that reads files of one of `layout.KINDS`."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    return dict(zip(layout.KINDS, (Parquet, WebDataset, ImageFolder), strict=True))[kind]


@functools.cache
def _scratch() -> Path:
    """A folder of this process alone, for `datasets`' locks; it goes at the end."""
    made = tempfile.TemporaryDirectory(prefix="symerge-")
    atexit.register(made.cleanup)
    return Path(made.name)


def _without_colons(folder: Path) -> Path:
    """``folder``, or a link to it: `datasets` reads a path with ``::`` as a chain of addresses, whatever is there."""
    if "::" not in str(folder):
        return folder
    link = _scratch() / hashlib.sha256(os.fsencode(folder)).hexdigest()[:20]
    if "::" in str(link):
        raise UserError(f"{folder}: a path with :: cannot be read", "Set TMPDIR to a folder without, or move the data.")
    if not link.is_symlink():
        link.symlink_to(folder, target_is_directory=True)
    return link


@functools.lru_cache(maxsize=64)
def open_copy(folder: Path, config: str | None = None) -> Copy:
    """The copy in this folder, listed once a process."""
    return Copy(folder, config)


def encoded(row: dict[str, Any]) -> bytes:
    """The encoded image of a row's image column. Raises UserError where it holds none."""
    if row.get("bytes") is not None:
        return row["bytes"]
    if row.get("path"):
        with open(os.fspath(row["path"]), "rb") as file:
            return file.read()
    raise UserError("a row holds no image", "Fetch or copy the files again.")


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
