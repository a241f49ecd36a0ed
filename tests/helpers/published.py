"""Tiny data sets exactly as they are published: as torchvision, their authors or the papers' repositories lay them out.

Every writer fills a root as `torchvision.datasets` takes it, or as the repository in its docstring reads it, with
``PER_CLASS`` images of each class in both splits. Nothing here knows how the project reads them.
"""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from helpers.hub_data import encoded, pictures

PER_CLASS = 2
SPLITS = ("train", "test")


def labels_of(classes: int) -> list[int]:
    """Labels in no order that a reader could fall into by itself."""
    return np.random.default_rng(classes).permutation(PER_CLASS * list(range(classes))).tolist()


def pixels(count: int, seed: int, size: int, channels: int = 3) -> np.ndarray:
    """Random uint8 images ``[count, size, size(, channels)]``, no two alike."""
    shape = (count, size, size, channels) if channels > 1 else (count, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images(paths: Iterable[Path], seed: int, kind: str = "JPEG") -> None:
    """A small image in each of these files."""
    paths = list(paths)
    for path, picture in zip(paths, pictures(len(paths), seed, (12, 16)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture, kind))


def text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def class_folders(root: Path, parts: dict[str, str], names: Sequence[str], kind: str = "JPEG") -> None:
    """``root/<part>/<class>/<number>.jpg``; ``parts`` by split."""
    for seed, split in enumerate(SPLITS):
        suffix = "jpg" if kind == "JPEG" else kind.lower()
        images([root / parts[split] / name / f"{n}.{suffix}" for name in names for n in range(PER_CLASS)], seed, kind)


def sun397(root: Path, scenes: Sequence[str]) -> None:
    """``SUN397/a/abbey/sun_*.jpg``, ``ClassName.txt`` in the original's order, and the ten partitions' first."""
    base = root / "SUN397"
    names = sorted(f"/{scene[0]}/{scene}" for scene in scenes)
    text(base / "ClassName.txt", names)
    for seed, part in enumerate(("Training", "Testing")):
        lines = [f"{name}/sun_{part.lower()}{n}.jpg" for name in names for n in range(PER_CLASS)]
        text(base / f"{part}_01.txt", lines)
        images([base / line[1:] for line in lines], seed)
    images([base / "a/abbey/sun_of_no_partition.jpg"], 9)


def cars(root: Path, names: Sequence[str]) -> None:
    """``stanford_cars`` with the devkit's .mat files."""
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    cell = np.empty((1, len(names)), object)
    cell[0] = list(names)
    savemat(base / "devkit/cars_meta.mat", {"class_names": cell})
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for seed, (table, folder) in enumerate(
        (("devkit/cars_train_annos.mat", "cars_train"), ("cars_test_annos_withlabels.mat", "cars_test"))
    ):
        labels = labels_of(len(names))
        structures = np.zeros((1, len(labels)), [(field, object) for field in fields])
        for n, label in enumerate(labels):
            structures[0, n] = (1, 1, 12, 9, label + 1, f"{n + 1:05d}.jpg")
        savemat(base / table, {"annotations": structures})
        images([base / folder / f"{n + 1:05d}.jpg" for n in range(len(labels))], seed)


def resisc45(root: Path, names: Sequence[str]) -> None:
    """``resisc45`` of mlfoundations/task_vectors: NWPU's folders and lists of file names alone."""
    base = root / "resisc45"
    for seed, split in enumerate((*SPLITS, "val")):
        first = seed * PER_CLASS + 1
        files = [(name, f"{name}_{n:03d}.jpg") for name in names for n in range(first, first + PER_CLASS)]
        text(base / f"resisc45-{split}.txt", [file for _, file in files][::-1])
        images([base / "NWPU-RESISC45" / name / file for name, file in files], seed)


def svhn(root: Path) -> None:
    """``train_32x32.mat`` and ``test_32x32.mat``: the digit 0 is class 10."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(SPLITS):
        labels = np.array([[label or 10] for label in labels_of(10)], np.uint8)
        data = pixels(len(labels), seed, 32).transpose(1, 2, 3, 0)
        savemat(root / f"{split}_32x32.mat", {"X": data, "y": labels}, do_compression=True)


def gtsrb(root: Path) -> None:
    """``gtsrb``: training images in numbered folders, each with its csv; test images in one, with one csv."""
    base, header = root / "gtsrb", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    for label in range(43):
        folder = base / f"GTSRB/Training/{label:05d}"
        names = [f"00000_{n:05d}.ppm" for n in range(PER_CLASS)]
        images([folder / name for name in names], label, "PPM")
        text(folder / f"GT-{label:05d}.csv", [header, *(f"{name};16;12;1;1;9;9;{label}" for name in names)])
    labels = labels_of(43)
    names = [f"{n:05d}.ppm" for n in range(len(labels))]
    images([base / "GTSRB/Final_Test/Images" / name for name in names], 99, "PPM")
    lines = [f"{name};16;12;1;1;9;9;{label}" for name, label in zip(names, labels, strict=True)]
    text(base / "GT-final_test.csv", [header, *lines])


def gtsrb_final(root: Path) -> None:
    """The archive of all training images: tracks of several images in ``GTSRB/Final_Training/Images``."""
    base, header = root / "gtsrb", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    gtsrb(root)
    shutil.rmtree(base / "GTSRB/Training")
    for label in range(43):
        folder = base / f"GTSRB/Final_Training/Images/{label:05d}"
        names = [f"{track:05d}_{n:05d}.ppm" for track in range(2) for n in range(PER_CLASS)]
        images([folder / name for name in names], label, "PPM")
        text(folder / f"GT-{label:05d}.csv", [header, *(f"{name};16;12;1;1;9;9;{label}" for name in names)])
    text(base / "GTSRB/Readme-Images.txt", ["The training images"])


def fer2013_hub(root: Path, tables: bool = False, names: bool = False) -> None:
    """Jeneral/fer-2013: pickled lists of encoded images, or the hub's own tables of them; classes alphabetical."""
    classes = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    base = root / "fer-2013"
    for seed, split in enumerate(SPLITS):
        rows = []
        for label, image in zip(labels_of(7), pixels(len(labels_of(7)), seed, 48, 1), strict=True):
            rows.append(
                {"img_bytes": encoded(Image.fromarray(image), "JPEG"), "labels": classes[label] if names else label}
            )
        if tables:
            (base / "default" / split).mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows), base / "default" / split / "0000.parquet")
        else:
            base.mkdir(parents=True, exist_ok=True)
            (base / f"{split}.pt").write_bytes(pickle.dumps(rows))
            text(base / "fer-2013.py", ["import pickle"])


def idx(path: Path, array: np.ndarray, packed: bool = False) -> None:
    """A file in MNIST's format, uint8; ``packed``: with gzip, as it is published."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def mnist(folder: Path, seed: int = 0, packed: bool = False, prefixes: Sequence[str] = ("train", "t10k")) -> None:
    """The four files of MNIST, KMNIST, FashionMNIST, or, with its prefixes, of EMNIST digits."""
    for number, prefix in enumerate(prefixes):
        labels = np.array(labels_of(10), np.uint8)
        idx(folder / f"{prefix}-images-idx3-ubyte", pixels(len(labels), seed + number, 28, 1), packed)
        idx(folder / f"{prefix}-labels-idx1-ubyte", labels, packed)


def emnist(root: Path, packed: bool = False) -> None:
    mnist(root, 40, packed, ("emnist-digits-train", "emnist-digits-test"))


def dtd(root: Path, names: Sequence[str]) -> None:
    """``dtd/dtd`` with images and the lists of partitions 1 and 2."""
    base = root / "dtd/dtd"
    for seed, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/{name}_{seed}{n:03d}.jpg" for name in names for n in range(PER_CLASS)]
        text(base / f"labels/{split}1.txt", lines)
        text(base / f"labels/{split}2.txt", lines[::-1][:3])
        images([base / "images" / line for line in lines], seed)


def python2_pickle(table: dict[str, Any]) -> bytes:
    """A dictionary of arrays, lists of numbers below 256 and lists of texts, as Python 2 and numpy pickled CIFAR's."""

    def short(word: str) -> bytes:
        return b"U" + bytes([len(word)]) + word.encode("latin-1")

    def value(item: Any) -> bytes:
        if isinstance(item, np.ndarray):
            size = b"J" + struct.pack("<i", item.shape[0]) + b"J" + struct.pack("<i", item.shape[1]) + b"\x86"
            kind = (b"cnumpy\ndtype\n" + short("u1") + b"K\0K\x01\x87R(K\x03" + short("|")
                    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb")  # fmt: skip
            made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short("b") + b"\x87R"
            return made + b"(K\x01" + size + kind + b"\x89T" + struct.pack("<i", item.nbytes) + item.tobytes() + b"tb"
        if isinstance(item, str):
            return short(item)
        return b"](" + b"".join(short(i) if isinstance(i, str) else b"K" + bytes([i]) for i in item) + b"e"

    return b"\x80\x02}(" + b"".join(short(key) + value(item) for key, item in table.items()) + b"u."


def cifar10(root: Path, names: Sequence[str]) -> None:
    """``cifar-10-batches-py``: five training batches, of two classes each here."""
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True)
    (base / "batches.meta").write_bytes(python2_pickle({"label_names": list(names)}))
    parts = [(f"data_batch_{n + 1}", [2 * n, 2 * n + 1, 2 * n]) for n in range(5)] + [("test_batch", labels_of(10))]
    for seed, (name, labels) in enumerate(parts):
        data = pixels(len(labels), seed, 32).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        files = [f"{n}.png" for n in range(len(labels))]
        table = {"batch_label": name, "labels": labels, "data": data, "filenames": files}
        (base / name).write_bytes(python2_pickle(table))


def cifar100(root: Path, names: Sequence[str]) -> None:
    """``cifar-100-python``: fine labels beside coarse ones."""
    base = root / "cifar-100-python"
    base.mkdir(parents=True)
    (base / "meta").write_bytes(python2_pickle({"coarse_label_names": ["fish"], "fine_label_names": list(names)}))
    for seed, name in enumerate(SPLITS):
        labels = labels_of(100)
        data = pixels(len(labels), seed, 32).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        table = {"coarse_labels": [0] * len(labels), "fine_labels": labels, "data": data}
        (base / name).write_bytes(python2_pickle(table))


def stl10(root: Path, names: Sequence[str]) -> None:
    """``stl10_binary``: planes of colour, each column by column; labels from 1."""
    base = root / "stl10_binary"
    text(base / "class_names.txt", names)
    for seed, split in enumerate(SPLITS):
        labels = np.array(labels_of(10), np.uint8)
        (base / f"{split}_X.bin").write_bytes(pixels(len(labels), seed, 96).transpose(0, 3, 2, 1).tobytes())
        (base / f"{split}_y.bin").write_bytes((labels + 1).tobytes())
    (base / "unlabeled_X.bin").write_bytes(pixels(1, 9, 96).tobytes())
    text(base / "fold_indices.txt", ["0 1 2"])


def flowers102(root: Path) -> None:
    """``flowers-102``: images by number, their classes and the numbers of each split in .mat files, all from 1."""
    base = root / "flowers-102"
    labels = np.array(labels_of(102) + labels_of(102) + labels_of(102)) + 1
    images([base / f"jpg/image_{n:05d}.jpg" for n in range(1, len(labels) + 1)], 0)
    order = np.random.default_rng(5).permutation(len(labels)).astype(np.uint16)
    # Of every class both splits have some.
    ids = {"trnid": order[labels[order].argsort(kind="stable")][::3], "valid": order[:1],
           "tstid": order[labels[order].argsort(kind="stable")][1::3]}  # fmt: skip
    savemat(base / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(base / "setid.mat", {key: value[None] + 1 for key, value in ids.items()})


def pets(root: Path, names: Sequence[str]) -> None:
    """``oxford-iiit-pet``: lines of image, class, species and breed; cats' names begin with a capital."""
    base = root / "oxford-iiit-pet"
    for seed, split in enumerate(("trainval", "test")):
        entries = [(f"{name}_{n + seed * PER_CLASS + 1}", label) for label, name in enumerate(names, 1)
                   for n in range(PER_CLASS)]  # fmt: skip
        text(base / f"annotations/{split}.txt", [f"{name} {label} 1 1" for name, label in entries])
        images([base / f"images/{name}.jpg" for name, _ in entries], seed)
    (base / "images/Abyssinian_100.mat").write_bytes(b"a MATLAB file that lies there")


def pcam(root: Path) -> None:
    """``pcam``: HDF5 files of images and of labels."""
    import h5py

    (root / "pcam").mkdir(parents=True)
    for seed, split in enumerate(("train", "valid", "test")):
        labels = np.array(labels_of(2), np.uint8).reshape(-1, 1, 1, 1)
        for name, key, array in (("x", "x", pixels(len(labels), seed, 96)), ("y", "y", labels)):
            with h5py.File(root / f"pcam/camelyonpatch_level_2_split_{split}_{name}.h5", "w") as file:
                file[key] = array


def fer2013(root: Path, name: str = "fer2013.csv") -> None:
    """Kaggle's csv: training images, public and private test images in one table, in two orders of columns."""
    columns = ("emotion", "pixels", "Usage") if name == "fer2013.csv" else ("emotion", " Usage", " pixels")
    (root / "fer2013").mkdir(parents=True, exist_ok=True)
    with open(root / "fer2013" / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for seed, usage in enumerate(("Training", "PublicTest", "PrivateTest")):
            labels = labels_of(7)
            for label, image in zip(labels, pixels(len(labels), seed, 48, 1), strict=True):
                cells = {"emotion": label, "pixels": " ".join(map(str, image.ravel())), "Usage": usage}
                writer.writerow([cells[column.strip()] for column in columns])


def food101(root: Path, names: Sequence[str]) -> None:
    """``food-101``: lists of images a class in JSON and in text."""
    base = root / "food-101"
    text(base / "meta/classes.txt", names)
    for seed, split in enumerate(SPLITS):
        lists = {name: [f"{name}/{seed}{n:05d}" for n in range(PER_CLASS)] for name in names}
        (base / f"meta/{split}.json").write_text(json.dumps(lists), encoding="utf-8")
        text(base / f"meta/{split}.txt", [each for part in lists.values() for each in part])
        images([base / f"images/{each}.jpg" for part in lists.values() for each in part], seed)


def rendered_sst2(root: Path) -> None:
    """``rendered-sst2``: class folders of PNGs in three splits."""
    names = ["negative", "positive"]
    class_folders(root / "rendered-sst2", {"train": "train", "test": "test"}, names, "PNG")
    images([root / "rendered-sst2/valid" / name / "0.png" for name in names], 9, "PNG")
