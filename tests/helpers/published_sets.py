"""The twenty data sets as they are published: what writes each, what torchvision reads of it, how it is archived."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torchvision.datasets as tv
from PIL import Image

from benchmark.domains.vision import public as full
from helpers import published

Samples = Iterator[tuple[Image.Image, str]]
FER = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
DIGITS = [str(n) for n in range(10)]


def folded(task: str) -> list[str]:
    """The classes as folders and annotation files call them."""
    return [word.replace(" ", "_").replace("/", "_") for word in full.info(task).classes]


def scenes() -> list[str]:
    """SUN397's folders: an inner one where the original has one, which sorts it before what begins alike."""
    inner = ("indoor", "outdoor", "interior", "exterior")
    return ["/".join(w.rsplit("_", 1)) if w.endswith(inner) else w for w in folded("SUN397")]


# What torchvision reads of a root, or task_vectors where torchvision has no splits: images and names of classes.


def of(dataset: Any, names: list[str]) -> Samples:
    for image, label in dataset:
        yield image, names[label]


def of_partition(root: Path, split: str) -> Samples:
    base = root / "SUN397"
    for line in (base / f"{'Training' if split == 'train' else 'Testing'}_01.txt").read_text().split():
        yield Image.open(base / line[1:]), line[1:].rsplit("/", 1)[0][2:]


def of_list(root: Path, split: str) -> Samples:
    wanted = set((root / f"resisc45/resisc45-{split}.txt").read_text().split())
    chosen = tv.ImageFolder(root / "resisc45/NWPU-RESISC45", is_valid_file=lambda path: Path(path).name in wanted)
    return of(chosen, chosen.classes)


def of_folder(folder: Path, start: int = 0) -> Samples:
    dataset = tv.ImageFolder(folder)
    return of(dataset, [name[start:] for name in dataset.classes])


def of_dtd(root: Path, split: str) -> Samples:
    for part in ["train", "val"] if split == "train" else ["test"]:
        dataset = tv.DTD(root, part)
        yield from of(dataset, dataset.classes)


def of_batches(kind: Any, root: Path, split: str) -> Samples:
    dataset = kind(root, train=split == "train")
    return of(dataset, dataset.classes)


# By set: what fills a root, what torchvision reads of it, and the number of its test images.
SETS: dict[str, tuple[Callable[[Path], None], Callable[[Path, str], Samples], int]] = {
    "SUN397": (lambda root: published.sun397(root, scenes()), of_partition, 794),
    "Cars": (
        lambda root: published.cars(root, full.info("Cars").classes),
        lambda root, split: of(tv.StanfordCars(root, split), tv.StanfordCars(root, split).classes), 392,
    ),
    "RESISC45": (lambda root: published.resisc45(root, folded("RESISC45")), of_list, 90),
    "EuroSAT": (
        lambda root: published.class_folders(
            root / "EuroSAT_splits", {"train": "train", "test": "test"}, full.info("EuroSAT").also[0]
        ),
        lambda root, split: of_folder(root / "EuroSAT_splits" / split), 20,
    ),
    "SVHN": (published.svhn, lambda root, split: of(tv.SVHN(root, split), DIGITS), 20),
    "GTSRB": (
        published.gtsrb, lambda root, split: of(tv.GTSRB(root, split), full.info("GTSRB").classes), 86
    ),
    "MNIST": (
        lambda root: published.mnist(root / "MNIST/raw"),
        lambda root, split: of(tv.MNIST(root, split == "train"), tv.MNIST.classes), 20,
    ),
    "DTD": (lambda root: published.dtd(root, full.info("DTD").classes), of_dtd, 94),
    "CIFAR10": (
        lambda root: published.cifar10(root, full.info("CIFAR10").classes),
        lambda root, split: of_batches(tv.CIFAR10, root, split), 20,
    ),
    "CIFAR100": (
        lambda root: published.cifar100(root, folded("CIFAR100")),
        lambda root, split: of_batches(tv.CIFAR100, root, split), 200,
    ),
    "STL10": (
        lambda root: published.stl10(root, full.info("STL10").classes),
        lambda root, split: of(tv.STL10(root, split), tv.STL10(root, split).classes), 20,
    ),
    "Flowers102": (
        published.flowers102,
        lambda root, split: of(tv.Flowers102(root, split), tv.Flowers102.classes), 204,
    ),
    "OxfordIIITPet": (
        lambda root: published.pets(root, folded("OxfordIIITPet")),
        lambda root, split: of(
            tv.OxfordIIITPet(root, "trainval" if split == "train" else split), tv.OxfordIIITPet(root).classes
        ), 74,
    ),
    "PCAM": (published.pcam, lambda root, split: of(tv.PCAM(root, split), full.info("PCAM").classes), 4),
    "FER2013": (published.fer2013, lambda root, split: of(tv.FER2013(root, split), FER), 28),
    "EMNIST": (
        lambda root: published.emnist(root / "EMNIST/raw"),
        lambda root, split: of(tv.EMNIST(root, "digits", train=split == "train"), DIGITS), 20,
    ),
    "FashionMNIST": (
        lambda root: published.mnist(root / "FashionMNIST/raw", 20),
        lambda root, split: of(tv.FashionMNIST(root, split == "train"), tv.FashionMNIST.classes), 20,
    ),
    "KMNIST": (
        lambda root: published.mnist(root / "KMNIST/raw", 10),
        lambda root, split: of(tv.KMNIST(root, split == "train"), tv.KMNIST.classes), 20,
    ),
    "Food101": (
        lambda root: published.food101(root, folded("Food101")),
        lambda root, split: of(tv.Food101(root, split), tv.Food101(root, split).classes), 202,
    ),
    "RenderedSST2": (
        published.rendered_sst2,
        lambda root, split: of(tv.RenderedSST2(root, split), ["negative", "positive"]), 4,
    ),
}  # fmt: skip


def tarred(archive: Path, folder: Path, *names: str) -> None:
    """An archive of these files and folders of a folder, which then go."""
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    for name in names:
        shutil.rmtree(folder / name)


def zipped(archive: Path, folder: Path, *names: str) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(each for name in names for each in [folder / name, *(folder / name).rglob("*")]):
            file.write(path, path.relative_to(folder))
    for name in names:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def pack_sun397(root: Path) -> None:
    zipped(root / "Partitions.zip", root / "SUN397", "Training_01.txt", "Testing_01.txt")
    tarred(root / "SUN397.tar.gz", root, "SUN397")


def pack_gtsrb(root: Path) -> None:
    zipped(root / "gtsrb/GTSRB-Training_fixed.zip", root / "gtsrb", "GTSRB/Training")
    zipped(root / "gtsrb/GTSRB_Final_Test_Images.zip", root / "gtsrb", "GTSRB")
    zipped(root / "gtsrb/GTSRB_Final_Test_GT.zip", root / "gtsrb", "GT-final_test.csv")


def pack_cars(root: Path) -> None:
    for archive, name in (("car_devkit", "devkit"), ("cars_train", "cars_train"), ("cars_test", "cars_test")):
        tarred(root / f"stanford_cars/{archive}.tgz", root / "stanford_cars", name)


def pack_pets(root: Path) -> None:
    for name in ("images", "annotations"):
        tarred(root / f"oxford-iiit-pet/{name}.tar.gz", root / "oxford-iiit-pet", name)


def pack_emnist(root: Path) -> None:
    shutil.rmtree(root)
    published.emnist(root / "gzip", packed=True)
    zipped(root / "gzip.zip", root, "gzip")


def pack_idx(root: Path) -> None:
    shutil.rmtree(root)
    published.mnist(root, 10, packed=True)


def pack_h5(root: Path) -> None:
    for file in list((root / "pcam").iterdir()):
        (root / f"pcam/{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "SUN397": (pack_sun397, ""),
    "Cars": (pack_cars, "stanford_cars"),
    "GTSRB": (pack_gtsrb, "gtsrb"),
    "DTD": (lambda root: tarred(root / "dtd-r1.0.1.tar.gz", root / "dtd", "dtd"), ""),
    "CIFAR10": (lambda root: tarred(root / "cifar-10-python.tar.gz", root, "cifar-10-batches-py"), ""),
    "CIFAR100": (lambda root: tarred(root / "cifar-100-python.tar.gz", root, "cifar-100-python"), ""),
    "STL10": (lambda root: tarred(root / "stl10_binary.tar.gz", root, "stl10_binary"), ""),
    "Flowers102": (
        lambda root: tarred(root / "flowers-102/102flowers.tgz", root / "flowers-102", "jpg"), "flowers-102"
    ),
    "OxfordIIITPet": (pack_pets, "oxford-iiit-pet"),
    "PCAM": (pack_h5, "pcam"),
    "FER2013": (lambda root: tarred(root / "fer2013.tar.gz", root, "fer2013"), ""),
    "EMNIST": (pack_emnist, ""),
    "KMNIST": (pack_idx, ""),
    "Food101": (lambda root: tarred(root / "food-101.tar.gz", root, "food-101"), ""),
    "RenderedSST2": (lambda root: tarred(root / "rendered-sst2.tgz", root, "rendered-sst2"), ""),
}  # fmt: skip


def downloads(root: Path) -> Path:
    """vision-8 as it comes out of a browser: archives, folders and files side by side."""
    for task in ("SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "DTD"):
        SETS[task][0](root)
    published.mnist(root, packed=True)
    for task in ("SUN397", "Cars", "GTSRB", "DTD"):
        ARCHIVES[task][0](root)
    for folder in ("stanford_cars", "gtsrb", "dtd"):
        for path in list((root / folder).iterdir()):
            path.rename(root / path.name) if path.is_file() else shutil.rmtree(path)
        (root / folder).rmdir()
    return root
