"""In which forms each data set is published, and which of its images the papers train and test on.

Sources: the readers of torchvision.datasets; src/datasets of mlfoundations/task_vectors and nik-dim/tall_masks; for
what the former two leave to the user, issue 1 of mlfoundations/task_vectors ("Split definition of DTD, EuroSAT and
SUN397").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.domains.vision.published import forms
from benchmark.domains.vision.published.forms import Label, Reader


@dataclass(frozen=True)
class Form:
    """One form of a data set.

    Attributes:
        title: whose form it is, for people.
        files: what marks a folder as this form: files and folders in it.
        read: gives its rows.
        split: which images are the training and test split; boards say it.
        archives: the archives as they are published, each with the folder that takes its content.
        depth: how far below the folder that a user names the marked one may lie.
        train: the number of training images, where a source gives it; another one is warned of.
    """

    title: str
    files: tuple[str, ...]
    read: Reader
    split: str
    archives: Mapping[str, str] = field(default_factory=dict)
    depth: int = 3
    train: int | None = None


#: What no form can be made of, by data set: the folders that mark it, and why.
UNUSABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "EuroSAT": (
        ("2750/AnnualCrop", "AnnualCrop"),
        "the 27,000 images without a split; the papers test on 2,700 that were drawn without a seed, and a fresh draw "
        "would test experts on images they were fine-tuned on. Expected EuroSAT_splits/train and EuroSAT_splits/test, "
        "from the authors, or the hub's copy",
    ),
    "RESISC45": (
        ("NWPU-RESISC45", "NWPU-RESISC45.rar"),
        "its images without resisc45-train.txt and resisc45-test.txt, the lists of the papers' split; they are at "
        "https://storage.googleapis.com/remote_sensing_representations/",
    ),
    "SUN397": (
        ("ClassName.txt",),
        "its images without Training_01.txt and Testing_01.txt; they are in Partitions.zip of the same page",
    ),
}

OWN = "the data set's own training and test split"
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER2013_HUB = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def scene(name: str) -> str:
    """SUN397's name of a class without its first letter: ``a/abbey``, ``/a/abbey`` and ``a_abbey`` are abbey."""
    return name.strip("/")[2:]


def _of_scene(line: str) -> tuple[str, Label]:
    path = line.strip().lstrip("/")
    return path, scene(path.rpartition("/")[0])


def _of_texture(line: str) -> tuple[str, Label]:
    folder, name = line.strip().split("/")
    return f"images/{folder}/{name}", folder


def _of_aerial(line: str) -> tuple[str, Label]:
    name = line.strip()
    folder = name.rpartition("_")[0]
    return f"NWPU-RESISC45/{folder}/{name}", folder


def _of_pet(line: str) -> tuple[str, Label]:
    name, _, _, _ = line.split()
    return f"images/{name}.jpg", name.rpartition("_")[0]


def _mnist(folder: str, archives: str = "") -> tuple[Form, ...]:
    """MNIST's four files, in torchvision's folders, or in the one folder that is named."""
    names = [(f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")]
    packed = {f"{name}.gz": "" for pair in names for name in pair}

    def form(place: str, depth: int, archives: Mapping[str, str]) -> Form:
        train, test = ((f"{place}{pair[0]}", f"{place}{pair[1]}") for pair in names)
        return Form(f"{folder}'s idx files", (*train, *test), forms.idx(train, test), OWN, archives, depth)

    # All of these sets have files of the same names: a folder above is only looked into where it is called as the set.
    return form(f"{folder}/raw/", 3, {}), form("raw/", 0, {}), form("", 0, packed)


def _emnist() -> Form:
    train, test = (
        (f"emnist-digits-{part}-images-idx3-ubyte", f"emnist-digits-{part}-labels-idx1-ubyte")
        for part in ("train", "test")
    )
    return Form(
        "EMNIST's idx files", (*train, *test), forms.idx(train, test),
        "EMNIST digits, training and test split, the images as they lie in the file (transposed)", {"gzip.zip": ""},
    )  # fmt: skip


def _cifar(folder: str, train: tuple[str, ...], test: str, labels: str, meta: tuple[str, str], archive: str) -> Form:
    inside = [f"{folder}/{name}" for name in train]
    return Form(
        "CIFAR's batches", (*inside, f"{folder}/{test}", f"{folder}/{meta[0]}"),
        forms.batches(inside, [f"{folder}/{test}"], labels, (f"{folder}/{meta[0]}", meta[1])), OWN, {archive: ""},
    )  # fmt: skip


def _gtsrb(title: str, folder: str, archive: str, train: int, split: str) -> Form:
    test, table = "GTSRB/Final_Test/Images", "GT-final_test.csv"
    return Form(
        title, (folder, test, table),
        forms.either(
            lambda base: forms.folders(folder, "", int)(base, "train"),
            forms.csv_files(table, test, "Filename", "ClassId", ";"),
        ),
        split, {f"{name}.zip": "" for name in (archive, "GTSRB_Final_Test_Images", "GTSRB_Final_Test_GT")},
        train=train,
    )  # fmt: skip


_CARS = ("devkit/cars_train_annos.mat", "cars_train"), ("cars_test_annos_withlabels.mat", "cars_test")
_STL10 = [(f"stl10_binary/{part}_X.bin", f"stl10_binary/{part}_y.bin") for part in ("train", "test")]
_PCAM = [
    (f"camelyonpatch_level_2_split_{part}_x.h5", f"camelyonpatch_level_2_split_{part}_y.h5")
    for part in ("train", "test")
]

PUBLISHED: dict[str, tuple[Form, ...]] = {
    "SUN397": (
        Form(
            "SUN397 with its partitions", ("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
            forms.listed(["Training_01.txt"], ["Testing_01.txt"], _of_scene), "partition 1 of ten",
            {"SUN397.tar.gz": "", "Partitions.zip": "SUN397"}, train=19_850,
        ),
        Form(
            "task_vectors' folders", ("sun397/train/a_abbey", "sun397/val/a_abbey"),
            forms.folders("sun397/train", "sun397/val", scene), "the folders train and val, of which val is the test",
        ),
    ),
    "Cars": (
        Form(
            "Stanford Cars with its annotations", (*(name for pair in _CARS for name in pair), "devkit/cars_meta.mat"),
            forms.mat_annotations(*_CARS, "annotations", "fname", "class", ("devkit/cars_meta.mat", "class_names")),
            OWN, {name: "" for name in ("car_devkit.tgz", "cars_train.tgz", "cars_test.tgz")}, train=8_144,
        ),
        Form(
            "task_vectors' folders", ("stanford_cars_folder_based/train", "stanford_cars_folder_based/test"),
            forms.folders("stanford_cars_folder_based/train", "stanford_cars_folder_based/test"), OWN,
        ),
    ),
    "RESISC45": (
        Form(
            "task_vectors' lists", ("NWPU-RESISC45", "resisc45-train.txt", "resisc45-test.txt"),
            forms.listed(["resisc45-train.txt"], ["resisc45-test.txt"], _of_aerial),
            "the lists of remote_sensing_representations, training and test", {"NWPU-RESISC45.rar": ""},
        ),
    ),
    "EuroSAT": (
        Form(
            "task_vectors' folders", ("EuroSAT_splits/train/AnnualCrop", "EuroSAT_splits/test/AnnualCrop"),
            forms.folders("EuroSAT_splits/train", "EuroSAT_splits/test"), "EuroSAT_splits, train and test",
            train=21_600,
        ),
    ),
    "SVHN": (
        Form(
            "SVHN's cropped digits", ("train_32x32.mat", "test_32x32.mat"),
            forms.mat_pixels("train_32x32.mat", "test_32x32.mat", "X", "y", {10: 0}), OWN,
        ),
    ),
    "GTSRB": (
        _gtsrb(
            "GTSRB's archives, as torchvision takes them", "GTSRB/Training", "GTSRB-Training_fixed", 26_640,
            "the training images of the online competition and the final test",
        ),
        _gtsrb(
            "GTSRB's final archives", "GTSRB/Final_Training/Images", "GTSRB_Final_Training_Images", 39_209,
            "all 39,209 training images of the final competition, where the papers' have 26,640, and the final test",
        ),
    ),
    "MNIST": _mnist("MNIST"),
    "DTD": (
        Form(
            "DTD with its partitions", ("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),
            forms.listed(["labels/train1.txt", "labels/val1.txt"], ["labels/test1.txt"], _of_texture),
            "partition 1 of ten: train and val are for training, test is the test", {"dtd-r1.0.1.tar.gz": ""},
            train=3_760,
        ),
        Form(
            "task_vectors' folders", ("dtd/train/banded", "dtd/val/banded"), forms.folders("dtd/train", "dtd/val"),
            "the folders train and val, of which val is the test",
        ),
    ),
    "CIFAR10": (
        _cifar(
            "cifar-10-batches-py", tuple(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "labels",
            ("batches.meta", "label_names"), "cifar-10-python.tar.gz",
        ),
    ),
    "CIFAR100": (
        _cifar(
            "cifar-100-python", ("train",), "test", "fine_labels", ("meta", "fine_label_names"),
            "cifar-100-python.tar.gz",
        ),
    ),
    "STL10": (
        Form(
            "STL10's binaries", (*_STL10[0], *_STL10[1], "stl10_binary/class_names.txt"),
            forms.binary(_STL10[0], _STL10[1], "stl10_binary/class_names.txt", 96), OWN, {"stl10_binary.tar.gz": ""},
        ),
    ),
    "Flowers102": (
        Form(
            "Flowers102 with its .mat files", ("jpg", "imagelabels.mat", "setid.mat"),
            forms.mat_ids(
                "setid.mat", {"train": "trnid", "test": "tstid"}, ("imagelabels.mat", "labels"),
                "jpg/image_{:05d}.jpg",
            ),
            OWN, {"102flowers.tgz": ""}, train=1_020,
        ),
    ),
    "OxfordIIITPet": (
        Form(
            "Oxford-IIIT Pet with its annotations", ("images", "annotations/trainval.txt", "annotations/test.txt"),
            forms.listed(["annotations/trainval.txt"], ["annotations/test.txt"], _of_pet), OWN,
            {"images.tar.gz": "", "annotations.tar.gz": ""},
        ),
    ),
    "PCAM": (
        Form(
            "PCAM's HDF5 files", (*_PCAM[0], *_PCAM[1]), forms.h5(_PCAM[0], _PCAM[1], "x", "y"), OWN,
            {f"{name}.gz": "" for pair in _PCAM for name in pair},
        ),
    ),
    "FER2013": (
        *(
            Form(
                f"Kaggle's {table}", (table,),
                forms.csv_pixels(
                    table, {"train": ("Training",), "test": ("PublicTest", "PrivateTest")}, FER2013, 48
                ),
                "the training images, and both test sets, public and private", archives, train=28_709,
            )
            for table, archives in (("fer2013.csv", {"fer2013.tar.gz": ""}), ("icml_face_data.csv", {}))
        ),
        Form(
            "the hub's Jeneral/fer-2013", ("train.pt", "test.pt"),
            forms.pickled("train.pt", "test.pt", "img_bytes", "labels", FER2013_HUB), OWN, train=28_709,
        ),
        Form(
            "the hub's Jeneral/fer-2013, as the hub converts it", ("default/train", "default/test"),
            forms.tables("default/train", "default/test", "img_bytes", "labels", FER2013_HUB), OWN, train=28_709,
        ),
    ),
    "EMNIST": (_emnist(),),
    "FashionMNIST": _mnist("FashionMNIST"),
    "KMNIST": _mnist("KMNIST"),
    "Food101": (
        Form(
            "Food-101 with its lists", ("images", "meta/train.json", "meta/test.json"),
            forms.json_lists("meta/train.json", "meta/test.json", "images", ".jpg"), OWN, {"food-101.tar.gz": ""},
            train=75_750,
        ),
    ),
    "RenderedSST2": (
        Form(
            "OpenAI's folders", ("rendered-sst2/train/negative", "rendered-sst2/test/negative"),
            forms.folders("rendered-sst2/train", "rendered-sst2/test"), OWN, {"rendered-sst2.tgz": ""}, train=6_920,
        ),
    ),
}  # fmt: skip
