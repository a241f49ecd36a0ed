"""What images there are, with which labels and in which splits: folders of images, a CSV, parquet files, the hub's
layout. Nothing is copied or decoded here; a table is a list of places.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.common.errors import UserError, shown, unknown
from benchmark.common.files import check_regular, read_regular
from benchmark.domains.vision import layout
from benchmark.domains.vision.archives import image_suffixes, why
from benchmark.domains.vision.local import Sample

#: Columns that are looked for where none is named, in this order.
IMAGES = ("image", "img", "path", "file", "file_name", "filename", "image_path", "filepath")
LABELS = ("label", "labels", "class", "category", "target", "fine_label", "cls")
SPLITS = ("split", "subset", "partition")
KINDS = (
    "a folder of class folders (CLASS/1.jpg), the same under train/, val/ and test/; a .csv with the columns path and "
    "label; a .parquet file with image and label; or a folder with the hub's files (data/test-*.parquet)"
)
LARGEST_CSV = 1 << 30


@dataclass(frozen=True)
class Entry:
    """One image: ``name`` for people, where it lies (``row`` of a parquet file), its label, and split if it has one."""

    name: str
    file: Path
    label: str | int | None
    split: str | None
    row: int | None = None


@dataclass(frozen=True)
class Table:
    """The images of one place, in an order that does not hang on the file system.

    ``classes``: names of integer labels, where the files have them. ``column``: of images, in parquet files.
    """

    place: Path
    entries: list[Entry]
    classes: list[str] | None = None
    column: str = ""

    @property
    def splits(self) -> list[str]:
        """The splits that the data have, none where they have no splits."""
        return list(dict.fromkeys(entry.split for entry in self.entries if entry.split is not None))


@dataclass(frozen=True)
class Columns:
    """The columns that the user named."""

    image: str | None = None
    label: str | None = None
    split: str | None = None


def open_table(place: Path, columns: Columns = Columns(), *, whole: bool = True) -> Table:
    """The images of a place.

    Args:
        whole: folders called train, val and test are splits; else this is one split, and they are classes.

    Raises:
        UserError: nothing there, nothing that can be read, columns that are missing or not clear.
    """
    suffix = place.suffix.lower()
    try:
        if place.is_dir():
            return _folder(place, columns, whole)
        check_regular(place)
        if suffix in (".csv", ".tsv"):
            return _csv(place, columns)
    except FileNotFoundError:
        raise UserError(f"there is no {shown(place)}", f"Write a path of {KINDS}") from None
    except OSError as error:
        raise UserError(f"{error.filename or place} cannot be read: {error.strerror}", "Mend it.") from None
    if suffix == ".parquet":
        return _parquet(place, {None: [place]}, columns, None)
    raise UserError(f"{shown(place)} is no folder, CSV or parquet file", f"Write a path of {KINDS}")


def _folder(place: Path, columns: Columns, whole: bool) -> Table:
    names = sorted(layout.files_below(place))
    if any(name.lower().endswith((".parquet", ".tar")) for name in names) or _has_configs(place, names):
        found = layout.read(place)
        if found.kind != "parquet":
            raise UserError(
                f"{shown(place)} holds {found.kind} files", "Read are parquet files and folders of images: unpack them."
            )
        files: dict[str | None, list[Path]] = {
            layout.WORDS.get(split.lower(), split): [place / name for name in part]
            for split, part in found.splits.items()
        }
        features = getattr(found.info, "features", None)
        return _parquet(place, files, columns, features)
    suffixes = image_suffixes()
    images = [name for name in names if Path(name).suffix.lower() in suffixes]
    tops = {name.partition("/")[0] for name in images if "/" in name}
    split = whole and bool(tops) and all(top.lower() in layout.WORDS for top in tops)
    depth = 2 if split else 1
    entries = []
    for name in images:
        parts = name.split("/")
        if len(parts) <= depth:
            raise UserError(
                f"{shown(place)}: {name} stands in no class folder",
                f"Expected {'SPLIT/' if split else ''}CLASS/{parts[-1]}",
            )
        of = layout.WORDS[parts[0].lower()] if split else None
        entries.append(Entry(name, place / name, parts[depth - 1], of))
    if not entries:
        raise UserError(f"{shown(place)} holds no images", f"Write a path of {KINDS}")
    return Table(place, entries)


def _has_configs(place: Path, names: Sequence[str]) -> bool:
    """Whether a README.md names the files of splits, as the hub's do."""
    return "README.md" in names and b"data_files" in read_regular(place / "README.md")


def _csv(place: Path, columns: Columns) -> Table:
    try:
        text = read_regular(place, LARGEST_CSV).decode("utf-8-sig")
        dialect = "excel-tab" if place.suffix.lower() == ".tsv" else "excel"
        reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
        rows = list(reader)
    except (UnicodeError, csv.Error) as error:
        raise UserError(
            f"{shown(place)} is no table in UTF-8: {why(error)}", "Save it as CSV, with a heading."
        ) from None
    heading = [name for name in reader.fieldnames or () if name is not None]
    image = _column(place, heading, columns.image, IMAGES, "image")
    label = _column(place, heading, columns.label, LABELS, "label")
    split = _column(place, heading, columns.split, SPLITS, "split", needed=False)
    entries = []
    for number, row in enumerate(rows, 2):
        name, value = (row.get(image) or "").strip(), (row.get(label) or "").strip()
        if not name or not value:
            raise UserError(
                f"{shown(place)}, row {number} has no {label if name else image}", "Write it, or remove it."
            )
        of = _word(place, f"row {number}", (row.get(split) or "").strip()) if split else None
        entries.append(Entry(name, (place.parent / Path(name).expanduser()), value, of))
    if not entries:
        raise UserError(f"{shown(place)} has no rows", "Write a row an image.")
    return Table(place, entries)


def _word(place: Path, where: str, value: str) -> str:
    """Which split a value of a column names."""
    if value.lower() not in layout.WORDS:
        raise UserError(
            f"{shown(place)}, {where}: the split {value!r} is none", f"known: {', '.join(sorted(layout.WORDS))}"
        )
    return layout.WORDS[value.lower()]


def _column(
    place: Path, heading: Sequence[str], named: str | None, usual: Sequence[str], what: str, needed: bool = True
) -> str:
    """The column of this name, or one that is usually called so. Raises UserError where there is none."""
    if named is not None:
        if named not in heading:
            raise unknown(f"column of {shown(place)}", named, heading)
        return named
    by_lower = {name.lower(): name for name in heading}
    for name in usual:
        if name in by_lower:
            return by_lower[name]
    if not needed:
        return ""
    raise UserError(
        f"{shown(place)} has the columns {', '.join(heading) or 'none'}; none is called {', '.join(usual[:4])}",
        f"Write {what}: COLUMN in the task.",
    )


def _parquet(place: Path, files: dict[str | None, list[Path]], columns: Columns, features: Any) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    entries: list[Entry] = []
    classes, image = None, ""
    for split, parts in files.items():
        for file in parts:
            try:
                check_regular(file)
                opened = pq.ParquetFile(file)
                heading = opened.schema_arrow.names
                image = _column(file, heading, columns.image, IMAGES, "image")
                label = _column(file, heading, columns.label, LABELS, "label")
                of = _column(file, heading, columns.split, SPLITS, "split", needed=False) if split is None else ""
                labels = pq.read_table(file, columns=[label, *([of] if of else [])]).to_pydict()
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{shown(file)} cannot be read: {why(error)}", "Fetch or copy it again.") from None
            name = str(file.relative_to(place)) if file != place else file.name
            said = [_word(file, f"row {row}", str(value)) for row, value in enumerate(labels[of])] if of else []
            entries += [
                Entry(f"{name}, row {row}", file, value, said[row] if of else split, row)
                for row, value in enumerate(labels[label])
            ]
            classes = _named(features, opened.schema_arrow.metadata, label) or classes
    if not entries:
        raise UserError(f"{shown(place)} has no rows", f"Write a path of {KINDS}")
    return Table(place, entries, classes, image)


def _named(features: Any, metadata: Any, label: str) -> list[str] | None:
    """The names of integer labels, of a README.md or of a file's own metadata as `datasets` writes them."""
    if features is not None and getattr(features.get(label), "names", None):
        return list(features[label].names)
    try:
        about = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in about["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def samples(table: Table, entries: Sequence[Entry], labels: Sequence[Any]) -> Iterator[Sample]:
    """The images of these entries, encoded, in their order, each with the label at its place; see `local.Sample`.

    A file that cannot be read gives samples that say so.
    """
    rows: dict[Path, dict[int, tuple[Entry, Any]]] = defaultdict(dict)
    for entry, label in zip(entries, labels, strict=True):
        if entry.row is None:
            yield Sample(entry.name, entry.file, label)
        else:
            rows[entry.file][entry.row] = entry, label
    for file, wanted in rows.items():
        yield from _rows(file, table.column, wanted)


def _rows(file: Path, column: str, wanted: dict[int, tuple[Entry, Any]]) -> Iterator[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=[column]):
            values = batch.column(0)
            for place in range(len(values)):
                if number in wanted:
                    entry, label = wanted[number]
                    yield _sample(entry, label, values[place].as_py(), file)
                number += 1
    except (pa.ArrowException, OSError) as error:
        for row, (entry, _) in wanted.items():
            if row >= number:
                yield Sample(entry.name, problem=f"cannot be read: {why(error)}")


def _sample(entry: Entry, label: Any, value: Any, file: Path) -> Sample:
    """A cell of a parquet file: bytes, a path, or both as `datasets` has them."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        value = data if data is not None else path
    if isinstance(value, str):
        value = file.parent / value
    return Sample(entry.name, value, label) if isinstance(value, (bytes, Path)) else Sample(
        entry.name, problem="no image in its column"
    )  # fmt: skip
