"""`symerge-bench assets data convert SET FROM TO`: a data set as it is published, written as the hub's files.

`TO/<folder>/data/<split>-00000-of-00001.parquet`, rows in the published order: images as they are stored, pixels of
arrays as PNG, classes by their number in the head's order, whatever their order was. What was read, and which images
the splits are, is noted beside them (`benchmark.domains.vision.public.ORIGIN`).
"""

from __future__ import annotations

import glob
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common.errors import UserError, shown
from benchmark.common.files import TEMPORARY, read_regular, write_atomic
from benchmark.domains.vision import public
from benchmark.domains.vision.archives import COPY_AGAIN
from benchmark.domains.vision.local import batched
from benchmark.domains.vision.published.forms import Label, Row
from benchmark.domains.vision.published.sets import PUBLISHED, UNUSABLE, Form
from benchmark.domains.vision.published.unpack import unpack

ROWS = 256
"""Images of one row group: what is held in memory."""


def convert(task: str, source: Path, root: Path, family: str | None = None, *, counted: bool = True) -> str:
    """Write the data set below ``source`` into ``root``, whole or not at all; what was done, in a line.

    Args:
        source: the folder that holds it as published, or its archives, or one up to three folders above.
        family: checkpoint family, where it decides the data set.
        counted: refuse another number of test images than the manifest's.

    Raises:
        UserError: none of the set's forms is there; it is damaged or contradicts the manifest; ``root`` has it already.
    """
    about = public.info(task, family)
    if about.name == "EMNIST" and about.hub is not None:
        raise UserError(
            f"EMNIST letters, which {family} means, is read from {about.hub}: how its images lie is not known here",
            f"Type: ./run_all.sh assets data fetch EMNIST --family {family} --root {shown(root)}",
        )
    if not source.is_dir():
        raise UserError(f"{shown(source)} is not a folder", "Name the folder that holds the data set as downloaded.")
    target = root / about.folder
    if target.exists():
        raise UserError(f"{shown(target)} exists already", "Move it away, or name another folder to write to.")
    try:
        return _convert(about, source, root, counted)
    except OSError as error:
        place = f"{error.filename or target}: {error.strerror or error}"
        raise UserError(place, "Mend its permissions, or name another folder.") from error


def _convert(about: public.SetInfo, source: Path, root: Path, counted: bool) -> str:
    task, target = about.name, root / about.folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=root) as folder:
        temporary = Path(folder)
        form, base = _locate(task, source, temporary / "unpacked")
        counts = {}
        for split, own in about.splits.items():
            path = temporary / "whole" / "data" / f"{own}-00000-of-00001.parquet"
            counts[split] = _write(about, form.read(base, split), path, f"{task}, {split}")
            level, message = public.compare_count(about, counts[split]) if split == "test" and counted else ("ok", "")
            if level == "error":
                raise UserError(f"{task} in {shown(base)}: {message}", "\n  ".join(about.traps) or COPY_AGAIN)
            if level == "warning":
                print(f"{task}: {message}", file=sys.stderr)
        if counted and form.train not in (None, counts["train"]):
            print(f"{task}: {counts['train']:,} training images, expected {form.train:,}", file=sys.stderr)
        noted = {"published": form.title, "split": form.split, **counts}
        write_atomic(temporary / "whole" / public.ORIGIN, json.dumps(noted) + "\n")
        os.rename(temporary / "whole", target)
    return f"{task}: {counts['train']:,} training and {counts['test']:,} test images of {form.title} -> {shown(target)}"


def _locate(task: str, source: Path, room: Path) -> tuple[Form, Path]:
    """The form of a data set that lies in or below ``source``, and its folder; archives are unpacked into ``room``."""
    forms = PUBLISHED[task]
    for form in forms:
        if base := _below(form, source):
            return form, base
    packed = [(form, folder) for form in forms if form.archives and (folder := _archives(form, source))]
    # Forms share archives, such as those of the test: the one of which the most is there goes first.
    packed.sort(key=lambda pair: sum(not (pair[1] / name).is_file() for name in pair[0].archives))
    for place, (form, folder) in enumerate(packed):
        _unpack(form, folder, room / str(place))
        if base := _below(form, room / str(place)):
            return form, base
    marks, reason = UNUSABLE.get(task, ((), ""))
    if any(_matches(source, (mark,), depth) for mark in marks for depth in range(3)):
        raise UserError(f"{shown(source)} holds {reason}", "See docs/data.md, What is read as it is published.")
    expected = []
    for form in forms:
        archives = f", or {', '.join(form.archives)}" if form.archives else ""
        expected.append(f"{form.title}: {', '.join(form.files)}{archives}")
    raise UserError(
        f"{shown(source)} holds no {task} as it is published",
        "Expected, in it or up to three folders below: " + "\n  or ".join(expected),
    )


def _below(form: Form, source: Path) -> Path | None:
    """The one folder that is marked as ``form``, the nearest. Raises UserError where several are as near."""
    for depth in range(form.depth + 1):
        matches = _matches(source, form.files, depth)
        if len(matches) > 1:
            some = ", ".join(shown(each) for each in matches[:3])
            raise UserError(f"{form.title}: found more than once, in {some}", "Name the one that is meant.")
        if matches:
            return matches[0]
    inner = form.files[0].partition("/")[0]
    return source.parent if source.name == inner and _matches(source.parent, form.files, 0) else None


def _archives(form: Form, source: Path) -> Path | None:
    """The folder with a form's archives: ``source`` with some of them, or the nearest one below with all."""
    if any((source / name).is_file() for name in form.archives):
        return source
    for depth in range(1, form.depth + 1):
        if matches := _matches(source, tuple(form.archives), depth):
            if len(matches) > 1:
                some = ", ".join(shown(each) for each in matches[:3])
                raise UserError(f"{form.title}: its archives are in {some}", "Name the folder that is meant.")
            return matches[0]
    return None


def _matches(source: Path, files: Sequence[str], depth: int) -> list[Path]:
    first = glob.escape(files[0])
    places = glob.glob("/".join(["*"] * depth + [first]), root_dir=source)
    bases = sorted({source / Path(*Path(place).parts[:depth]) for place in places})
    return [base for base in bases if all((base / name).exists() for name in files)]


def _unpack(form: Form, source: Path, room: Path) -> None:
    """The content of the archives that are there, and then links to all else that lies beside them, in ``room``."""
    room.mkdir(parents=True)
    for name, folder in form.archives.items():
        if (source / name).is_file():
            print(f"unpacking {name}", file=sys.stderr)
            unpack(source / name, room / folder)
    for name in form.files:  # EMNIST's archive holds archives
        for depth in range(form.depth + 1):
            for place in glob.glob("/".join(["*"] * depth + [glob.escape(f"{name}.gz")]), root_dir=room):
                unpack(room / place, (room / place).parent)
    for entry in source.iterdir():
        if not entry.name.startswith(".") and not (room / entry.name).exists():
            (room / entry.name).symlink_to(entry.resolve())


def _write(about: public.SetInfo, rows: Iterator[Row], path: Path, title: str) -> int:
    """Write one split; how many images it has. Raises UserError for a class that is none, or that has no image."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image
    from tqdm import tqdm

    schema = Features({"image": Image(), about.label: ClassLabel(names=about.classes)}).arrow_schema
    numbers, seen, count = _numbers(about), np.zeros(len(about.classes), bool), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetWriter(path, schema) as writer,
        tqdm(desc=f"writing {title}", unit="image", delay=2, disable=None) as bar,
    ):
        for block in batched(rows, ROWS):
            labels = [_number(about, numbers, row) for row in block]
            images = [{"bytes": _encoded(row.image), "path": Path(row.name).name} for row in block]
            writer.write_table(pa.table({"image": images, about.label: labels}, schema=schema))
            seen[labels] = True
            count += len(block)
            bar.update(len(block))
    if not seen.all():
        lacking = [about.classes[number] for number in np.flatnonzero(~seen)]
        some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise UserError(f"{title}: {count:,} images, and none of {some}", COPY_AGAIN)
    return count


def _numbers(about: public.SetInfo) -> dict[str, int]:
    """The head's number of every class by its name, in all spellings."""
    return {public.plain(word): number for words in (*about.also, about.classes) for number, word in enumerate(words)}


def _number(about: public.SetInfo, numbers: dict[str, int], row: Row) -> int:
    label: Label = row.label
    number = numbers.get(public.plain(label), -1) if isinstance(label, str) else label
    if not 0 <= number < len(about.classes):
        raise UserError(f"{row.name} is of the class {label!r}, which {about.name} does not have", COPY_AGAIN)
    return number


def _encoded(image: Path | np.ndarray | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path):
        try:
            return read_regular(image)
        except OSError as error:
            raise UserError(f"{image} cannot be read: {error.strerror}", COPY_AGAIN) from None
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def convert_all(tasks: Sequence[str], source: Path, root: Path, family: str | None) -> int:
    """Convert each data set that is there; 0, or 1 where one could not be. All that is wrong is printed at the end."""
    problems: list[Any] = []
    for task in tasks:
        try:
            print(convert(task, source, root, family), flush=True)
        except UserError as error:
            if len(tasks) == 1:
                raise
            problems.append(f"{task}: {error}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
