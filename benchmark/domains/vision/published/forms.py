"""Readers of the forms in which image data sets are published, one a form: each gives the rows of a split.

Images in files of their own stay as they are, for their bytes are copied; pixels that lie in an array are uint8,
``[height, width]`` or ``[height, width, 3]``. A label is the name of a class, or its number in the head's order.
"""

from __future__ import annotations

import csv
import json
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common.damage import Damage
from benchmark.common.errors import UserError
from benchmark.common.files import open_regular, read_regular
from benchmark.common.pickled_arrays import load_list, load_table
from benchmark.domains.vision.archives import COPY_AGAIN, image_suffixes, why

Label = str | int
LARGEST_TABLE = 4 << 30


@dataclass(frozen=True)
class Row:
    """One image: its name for people, its file, its pixels or its encoded bytes, and its class."""

    name: str
    image: Path | np.ndarray | bytes
    label: Label


#: Gives the rows of ``"train"`` or ``"test"`` below the folder that holds the data set.
Reader = Callable[[Path, str], Iterator[Row]]


def folders(train: str, test: str, name: Callable[[str], Label] = str) -> Reader:
    """Folders of images, one a class; ``name`` makes a class out of a folder's name."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        for folder in sorted(each for each in (base / parts[split]).iterdir() if _visible(each) and each.is_dir()):
            label = name(folder.name)
            for file in sorted(folder.rglob("*")):
                if _visible(file) and file.suffix.lower() in image_suffixes() and file.is_file():
                    yield Row(str(file.relative_to(base)), file, label)

    return rows


def listed(train: Sequence[str], test: Sequence[str], entry: Callable[[str], tuple[str, Label]]) -> Reader:
    """Text files with a line an image, of which ``entry`` makes the image's path below the folder and its class."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        entries = [_of_line(entry, line, name) for name in parts[split] for line in _lines(base / name)]
        yield from _files(base, entries, " and ".join(parts[split]))

    return rows


def json_lists(train: str, test: str, folder: str, suffix: str) -> Reader:
    """JSON files with a list of images a class, each named below ``folder`` without its ``suffix``."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        with _naming(base / parts[split]):
            lists = json.loads(read_regular(base / parts[split]))
            entries = [(f"{folder}/{name}{suffix}", str(c)) for c, names in lists.items() for name in names]
        yield from _files(base, entries, parts[split])

    return rows


def csv_files(table: str, folder: str, file: str, label: str, delimiter: str) -> Callable[[Path], Iterator[Row]]:
    """A csv with a line an image: the columns of its file's name below ``folder`` and of its class's number."""

    def rows(base: Path) -> Iterator[Row]:
        lines = csv.DictReader(_lines(base / table), delimiter=delimiter, skipinitialspace=True)
        yield from _files(base, [(f"{folder}/{line[file]}", int(line[label])) for line in lines], table)

    return rows


def either(train: Callable[[Path], Iterator[Row]], test: Callable[[Path], Iterator[Row]]) -> Reader:
    """A data set whose two splits have forms of their own."""
    return lambda base, split: (train if split == "train" else test)(base)


def csv_pixels(table: str, usage: Mapping[str, Sequence[str]], classes: Sequence[str], size: int) -> Reader:
    """FER2013's csv: a line an image, its class's number, its grey pixels in words and what it is used for.

    Args:
        usage: the words for each split.
        classes: their names in the order of the file's numbers.
        size: height and width.
    """

    def rows(base: Path, split: str) -> Iterator[Row]:
        with _naming(base / table), open(base / table, newline="", encoding="utf-8") as file:
            for number, line in enumerate(csv.DictReader(file, skipinitialspace=True), 1):
                if line["Usage"] in usage[split]:
                    pixels = np.array(line["pixels"].split(), dtype=np.uint8).reshape(size, size)
                    yield Row(f"{table}, row {number}", pixels, classes[int(line["emotion"])])

    return rows


def pickled(train: str, test: str, image: str, label: str, classes: Sequence[str]) -> Reader:
    """Pickles of a list with a dictionary an image: its encoded bytes, and its class's name or number in ``classes``.

    Nothing of them is run.
    """
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        path = base / parts[split]
        with _naming(path):
            entries = load_list(read_regular(path, LARGEST_TABLE))
        yield from _encoded(path, parts[split], entries, image, label, classes)

    return rows


def tables(train: str, test: str, image: str, label: str, classes: Sequence[str]) -> Reader:
    """Folders of parquet files with a row an image: its encoded bytes, and its class as :func:`pickled` has it."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        import pyarrow.parquet as pq

        files = sorted((base / parts[split]).glob("*.parquet"))
        if not files:
            raise UserError(f"{base / parts[split]} holds no parquet file", COPY_AGAIN)
        for path in files:
            with _naming(path):
                entries = pq.read_table(path, columns=[image, label]).to_pylist()
            yield from _encoded(path, f"{parts[split]}/{path.name}", entries, image, label, classes)

    return rows


def _encoded(
    path: Path, name: str, entries: Sequence[Any], image: str, label: str, classes: Sequence[str]
) -> Iterator[Row]:
    for number, entry in enumerate(entries):
        with _naming(path):
            if not isinstance(entry, Mapping) or not isinstance(entry[image], bytes):
                raise Damage(f"entry {number} is no image with its class")
            of = entry[label]
            row = Row(f"{name}, {number}", entry[image], of if isinstance(of, str) else classes[int(of)])
        yield row


def idx(train: tuple[str, str], test: tuple[str, str], first: int = 0) -> Reader:
    """MNIST's format: a file of images, as they lie in it, and one of labels, which count from ``first``."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        images, labels = (read_idx(base / name, dims) for name, dims in zip(parts[split], (3, 1), strict=True))
        yield from arrays(parts[split][0], images, labels.astype(np.int64) - first)

    return rows


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of an idx file. Raises UserError where it is none, or of another number of dimensions."""
    with _naming(path):
        content = np.frombuffer(read_regular(path, LARGEST_TABLE), np.uint8)
        if len(content) < 4 * (dims + 1) or tuple(content[:4]) != (0, 0, 8, dims):
            raise Damage(f"it begins with {content[:4].tobytes()!r}, expected bytes in {dims} dimensions")
        shape = content[4 : 4 * (dims + 1)].view(">u4").tolist()
        if math.prod(shape) != len(content) - 4 * (dims + 1):
            raise Damage(f"{len(content) - 4 * (dims + 1):,} bytes, expected {shape}")
        return content[4 * (dims + 1) :].reshape(shape)


def batches(train: Sequence[str], test: Sequence[str], labels: str, meta: tuple[str, str]) -> Reader:
    """CIFAR's pickles: planes of red, green and blue, 32 x 32. ``meta``: the file of the classes' names, and its key.

    Nothing of them is run: only arrays of numbers, lists and texts are read (`benchmark.common.pickled_arrays`).
    """
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        classes = [each.decode() if isinstance(each, bytes) else each for each in _table(base / meta[0], meta[1])]
        for name in parts[split]:
            numbers, data = _table(base / name, labels), _table(base / name, "data")
            with _naming(base / name):
                pixels = np.asarray(data, np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                yield from arrays(name, pixels, [classes[number] for number in numbers])

    return rows


def binary(train: tuple[str, str], test: tuple[str, str], names: str, size: int) -> Reader:
    """STL10's raw bytes: planes of red, green and blue, each column by column; labels count from 1.

    Args:
        names: the file with the classes' names, one a line.
        size: height and width.
    """
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        classes = list(_lines(base / names))
        images, labels = parts[split]
        with _naming(base / images), open_regular(base / images) as opened:
            pixels = np.memmap(opened, np.uint8, "r").reshape(-1, 3, size, size).transpose(0, 3, 2, 1)
        with _naming(base / labels):
            numbers = np.frombuffer(read_regular(base / labels), np.uint8)
            wanted = [classes[number - 1] for number in numbers.tolist()]
        yield from arrays(images, pixels, wanted)

    return rows


def mat_pixels(train: str, test: str, images: str, labels: str, changed: Mapping[int, int]) -> Reader:
    """SVHN's .mat: ``images`` ``[height, width, 3, N]``, ``labels`` ``[N, 1]``, of which some are called otherwise."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        content = load_mat(base / parts[split], squeeze=False)
        with _naming(base / parts[split]):
            pixels, numbers = content[images].transpose(3, 0, 1, 2), content[labels].ravel().tolist()
        yield from arrays(parts[split], pixels, [changed.get(number, number) for number in numbers])

    return rows


def mat_annotations(
    train: tuple[str, str], test: tuple[str, str], key: str, file: str, label: str, classes: tuple[str, str]
) -> Reader:
    """Stanford Cars' .mat files: a structure an image with its file's name and its class's number, counted from 1.

    Args:
        train, test: the .mat and the folder of its images.
        key, file, label: the name of the structures and those of two of their fields.
        classes: the .mat with the classes' names, and their name in it.
    """
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        table, folder = parts[split]
        names = load_mat(base / classes[0])[classes[1]]
        content = load_mat(base / table)
        with _naming(base / table):
            structures = np.atleast_1d(content[key])
            found = [(f"{folder}/{each[file]}", str(names[int(each[label]) - 1])) for each in structures]
        yield from _files(base, found, table)

    return rows


def mat_ids(ids: str, keys: Mapping[str, str], labels: tuple[str, str], image: str) -> Reader:
    """Flowers102's .mat files: the numbers of each split's images, and the class of every image, both from 1.

    Args:
        ids, keys: the file with the numbers, and their names in it for each split.
        labels: the file with the classes, and their name in it.
        image: an image's path, with its number to be filled in.
    """

    def rows(base: Path, split: str) -> Iterator[Row]:
        numbers, classes = load_mat(base / ids), load_mat(base / labels[0])
        with _naming(base / ids):
            chosen = np.atleast_1d(numbers[keys[split]]).tolist()
            found = [(image.format(n), int(classes[labels[1]][n - 1]) - 1) for n in chosen]
        yield from _files(base, found, ids)

    return rows


def load_mat(path: Path, squeeze: bool = True) -> dict[str, Any]:
    """The variables of a MATLAB file of version 5. Raises UserError where it is none.

    Args:
        squeeze: leave out dimensions of 1, with which MATLAB writes every number and list.
    """
    from scipy.io import loadmat

    with _naming(path), open_regular(path) as opened:
        return dict(loadmat(opened, squeeze_me=squeeze))


def h5(train: tuple[str, str], test: tuple[str, str], images: str, labels: str) -> Reader:
    """PCAM's HDF5 files: ``images`` ``[N, height, width, 3]`` in one, ``labels`` ``[N, 1, 1, 1]`` in the other."""
    parts = {"train": train, "test": test}

    def rows(base: Path, split: str) -> Iterator[Row]:
        try:
            import h5py
        except ImportError:
            raise UserError(
                f"{parts[split][0]} is an HDF5 file, and h5py, which reads them, is not installed",
                "Type: pip install 'h5py>=3.8' (in the environment of symerge-bench), and convert again.",
            ) from None
        file, table = parts[split]
        with _naming(base / table), h5py.File(base / table, "r") as opened:
            numbers = np.asarray(opened[labels][:]).ravel()
        with _naming(base / file), h5py.File(base / file, "r") as opened:
            yield from arrays(file, opened[images], numbers)

    return rows


def arrays(name: str, images: Any, labels: Sequence[Label] | np.ndarray) -> Iterator[Row]:
    """Rows of pixels, read one by one. Raises UserError where there are not as many labels as images."""
    if len(images) != len(labels):
        raise UserError(f"{name} has {len(images):,} images and {len(labels):,} labels", COPY_AGAIN)
    for number, label in enumerate(labels):
        yield Row(f"{name}, {number}", np.asarray(images[number]), label if isinstance(label, str) else int(label))


def _files(base: Path, entries: Sequence[tuple[str, Label]], table: str) -> Iterator[Row]:
    """Rows of files. Raises UserError, before the first, where one that ``table`` lists is not there or not inside."""
    folder = base.resolve()
    for name, _ in entries:
        if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{folder / table} lists {name!r}, which is no file of the data set", COPY_AGAIN)
    missing = [name for name, _ in entries if not (base / name).is_file()]
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3:,} more" if len(missing) > 3 else "")
        raise UserError(f"{table} lists images that are not there: {some}", COPY_AGAIN)
    for name, label in entries:
        yield Row(name, base / name, label)


def _of_line(entry: Callable[[str], tuple[str, Label]], line: str, table: str) -> tuple[str, Label]:
    try:
        return entry(line)
    except (ValueError, IndexError):
        raise UserError(f"{table} has the line {line[:80]!r}", COPY_AGAIN) from None


def _lines(path: Path) -> Iterable[str]:
    """The lines of a text, without empty ones."""
    with _naming(path):
        return [line for line in read_regular(path).decode("utf-8").splitlines() if line.strip()]


def _table(path: Path, key: str) -> Any:
    with _naming(path):
        return load_table(read_regular(path))[key]


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


class _naming:
    """Errors of what reads a file become a UserError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(f"{self.path}: {error}", COPY_AGAIN) from None
        if isinstance(error, KeyError):
            raise UserError(f"{self.path} has no {error}", COPY_AGAIN) from None
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(f"{self.path} cannot be read: {why(error)}", COPY_AGAIN) from None
