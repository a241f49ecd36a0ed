"""Each of the twenty data sets as it is published is read as torchvision and the papers' repositories read it."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as tv
from helpers import published
from helpers.lacking import lacks
from helpers.public_sets import small as small
from helpers.published_sets import ARCHIVES, SETS, folded, of, of_folder

from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.vision import check
from benchmark.domains.vision import public as full
from benchmark.domains.vision.images import picture
from benchmark.domains.vision.published import convert, forms
from benchmark.domains.vision.published.sets import PUBLISHED


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SYMERGE_DATA", raising=False)
    for module in ("cifar", "stl10", "svhn", "flowers102", "fer2013"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).exists()
        )


def needs(task: str) -> None:
    if task == "PCAM" and importlib.util.find_spec("h5py") is None:
        pytest.skip(lacks("h5py is not installed", "pip install h5py"))


def converted(task: str, root: Path, split: str) -> list[tuple[int, bytes]]:
    """The class and the pixels of every image of a converted copy."""
    about = full.info(task)
    copy, own = full.copy_of(about, root), about.splits[split]
    image, label, classes = copy.columns(own, about.label)
    assert classes == about.classes
    return [(s.label, picture(s.encoded()).convert("RGB").tobytes()) for s in copy.samples(own, image, label)]


@functools.cache
def spellings(task: str) -> dict[str, set[int]]:
    about = full.info(task)
    found: dict[str, set[int]] = {}
    for words in (about.classes, *about.also):
        for place, word in enumerate(words):
            found.setdefault(full.plain(word), set()).add(place)
    return found


def number(task: str, name: str) -> int:
    (only,) = spellings(task)[full.plain(name)]
    return only


def test_all_twenty_are_here() -> None:
    assert list(SETS) == list(PUBLISHED) and sorted(SETS) == full.names()


@pytest.mark.parametrize("task", SETS)
def test_a_set_as_published_gives_the_images_and_classes_that_torchvision_reads(
    task: str, tmp_path: Path, small: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    needs(task)
    write, oracle, count = SETS[task]
    small(**{task: count})
    write(tmp_path / "public")
    assert cli.main(["assets", "data", "convert", task, str(tmp_path / "public"), str(tmp_path / "data")]) == 0
    assert f"{count:,} test images" in capsys.readouterr().out
    for split in published.SPLITS:
        wanted = [
            (number(task, name), image.convert("RGB").tobytes()) for image, name in oracle(tmp_path / "public", split)
        ]
        assert len(wanted) == len(set(wanted)) and wanted
        assert sorted(converted(task, tmp_path / "data", split)) == sorted(wanted)
    assert not [path for path in (tmp_path / "data").iterdir() if path.name != full.info(task).folder]


@pytest.mark.parametrize("task", SETS)
def test_a_converted_set_passes_the_check_and_its_origin_is_shown(
    task: str, tmp_path: Path, small: Callable[..., None]
) -> None:
    needs(task)
    write, _, count = SETS[task]
    small(**{task: count})
    write(tmp_path / "public")
    convert.convert(task, tmp_path / "public", tmp_path)
    finding = check.check_set(task, tmp_path)
    assert finding.level == "ok", finding.notes
    assert f"parquet, converted from {PUBLISHED[task][0].title}" == finding.place
    assert full.split_notes([task], tmp_path)[0].startswith(f"{task}: converted from {PUBLISHED[task][0].title}, ")


@pytest.mark.parametrize("task", ARCHIVES)
def test_the_archives_as_downloaded_give_the_same_and_are_left_as_they_were(task: str, tmp_path: Path) -> None:
    needs(task)
    pack, folder = ARCHIVES[task]
    SETS[task][0](tmp_path / "public")
    convert.convert(task, tmp_path / "public", tmp_path / "unpacked", counted=False)
    pack(tmp_path / "public")
    before = sorted((tmp_path / "public").rglob("*"))
    convert.convert(task, tmp_path / "public" / folder, tmp_path / "data", counted=False)
    assert sorted((tmp_path / "public").rglob("*")) == before
    for split in published.SPLITS:
        assert converted(task, tmp_path / "data", split) == converted(task, tmp_path / "unpacked", split)


FOLDERS = {
    "SUN397": (
        "sun397", {"train": "train", "test": "val"}, lambda: [f"{name[0]}_{name}" for name in folded("SUN397")], 2
    ),
    "DTD": ("dtd", {"train": "train", "test": "val"}, lambda: full.info("DTD").classes, 0),
    "Cars": (
        "stanford_cars_folder_based", {"train": "train", "test": "test"},
        lambda: [name.replace("/", "-") for name in full.info("Cars").classes], 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", FOLDERS)
def test_task_vectors_class_folders_are_read_as_it_reads_them(task: str, tmp_path: Path) -> None:
    folder, parts, names, start = FOLDERS[task]
    published.class_folders(tmp_path / "public" / folder, parts, names())
    convert.convert(task, tmp_path / "public", tmp_path / "data", counted=False)
    for split, part in parts.items():
        samples = of_folder(tmp_path / "public" / folder / part, start)
        wanted = sorted((number(task, name), image.convert("RGB").tobytes()) for image, name in samples)
        assert sorted(converted(task, tmp_path / "data", split)) == wanted


def test_kaggles_other_csv_is_read_too(tmp_path: Path) -> None:
    published.fer2013(tmp_path / "a")
    published.fer2013(tmp_path / "b", "icml_face_data.csv")
    for root in (tmp_path / "a", tmp_path / "b"):
        convert.convert("FER2013", root, root / "data", counted=False)
    for split in published.SPLITS:
        assert converted("FER2013", tmp_path / "b/data", split) == converted("FER2013", tmp_path / "a/data", split)


def test_numbers_in_another_order_than_the_heads_go_by_their_names(tmp_path: Path) -> None:
    """SUN397's ClassName.txt has jail/indoor before jail_cell, FER2013's csv neutral last, Cars' classes any order."""
    names = full.info("Cars").classes[::-1]
    published.cars(tmp_path / "public", names)
    convert.convert("Cars", tmp_path / "public", tmp_path / "data", counted=False)
    first = next(iter(of(tv.StanfordCars(tmp_path / "public", "test"), names)))[1]
    assert converted("Cars", tmp_path / "data", "test")[0][0] == full.info("Cars").classes.index(first)


@pytest.mark.parametrize(
    ("task", "damage", "says"),
    [
        ("MNIST", lambda root: (root / "MNIST/raw/t10k-labels-idx1-ubyte").unlink(), "holds no MNIST as it is publ"),
        ("MNIST", lambda root: published.idx(root / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(3, np.uint8)),
         "20 images and 3 labels"),
        ("MNIST", lambda root: (root / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0"),
         "t10k-images-idx3-ubyte cannot be read: it begins with"),
        ("SVHN", lambda root: (root / "test_32x32.mat").write_bytes(b"<html>"), "test_32x32.mat cannot be read"),
        ("DTD", lambda root: (root / "dtd/dtd/images/banded/banded_2000.jpg").unlink(),
         "lists images that are not there: images/banded/banded_2000.jpg"),
        ("DTD", lambda root: published.text(root / "dtd/dtd/labels/test1.txt", ["../../x/y.jpg"]), "has the line"),
        ("RESISC45", lambda root: published.text(root / "resisc45/resisc45-test.txt", ["../_a.jpg"]), "no file of the"),
        ("EuroSAT", lambda root: shutil.rmtree(root / "EuroSAT_splits/test/Forest"), "and none of forest"),
        ("STL10", lambda root: published.text(root / "stl10_binary/class_names.txt", ["lamp"] * 10),
         "is of the class 'lamp', which STL10 does not have"),
        ("CIFAR10", lambda root: (root / "cifar-10-batches-py/test_batch").write_bytes(b"cos\nsystem\n(S'x'\ntR."),
         "refused to load os.system"),
        ("Food101", lambda root: (root / "food-101/meta/test.json").write_text("[]"), "cannot be read"),
        ("FER2013", lambda root: published.text(root / "fer2013/fer2013.csv", ["emotion,Usage", "0,Training"]),
         "fer2013.csv has no 'pixels'"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named_in_one_line_and_nothing_is_left(
    task: str, damage: Callable[[Path], Any], says: str, tmp_path: Path
) -> None:
    SETS[task][0](tmp_path / "public")
    damage(tmp_path / "public")
    with pytest.raises(UserError, match=says) as caught:
        convert.convert(task, tmp_path / "public", tmp_path / "data", counted=False)
    assert "\n" not in caught.value.message
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["../evil", "/evil", "link/evil"])
def test_an_archive_writes_nothing_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    with tarfile.open(tmp_path / "public/cifar-10-python.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="cifar-10-python.tar.gz cannot be unpacked"):
        convert.convert("CIFAR10", tmp_path / "public", tmp_path / "data")
    assert not list(tmp_path.rglob("evil")) and not list((tmp_path / "data").iterdir())


def test_another_number_of_test_images_is_refused_with_the_trap(tmp_path: Path, small: Callable[..., None]) -> None:
    small(EuroSAT=2700)
    SETS["EuroSAT"][0](tmp_path / "public")
    with pytest.raises(UserError, match="(?s)20 test images, expected 2,700.*EuroSAT has no official test split"):
        convert.convert("EuroSAT", tmp_path / "public", tmp_path / "data")


def test_another_number_of_training_images_is_warned_of(
    tmp_path: Path, small: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    small(EuroSAT=20, MNIST=20)
    for task in ("EuroSAT", "MNIST"):
        SETS[task][0](tmp_path / "public")
        convert.convert(task, tmp_path / "public", tmp_path / "data")
    assert "EuroSAT: 20 training images, expected 21,600" in (said := capsys.readouterr().err)
    assert "MNIST" not in said


def test_a_data_root_in_torchvisions_layout_is_told_to_be_converted(tmp_path: Path) -> None:
    SETS["DTD"][0](tmp_path)
    (tmp_path / "dtd").rename(tmp_path / "DTD")
    with pytest.raises(UserError, match="(?s)belong to no split.*assets data convert TASK FROM TO"):
        full.load_split("DTD", "test", root=tmp_path)


def test_eurosat_without_its_splits_and_sun397_without_its_partitions_say_what_is_missing(tmp_path: Path) -> None:
    for number, name in enumerate(full.info("EuroSAT").also[0]):
        published.images([tmp_path / "a/eurosat/2750" / name / "1.jpg"], number)
    with pytest.raises(UserError, match="27,000 images without a split.*fine-tuned on. Expected EuroSAT_splits/train"):
        convert.convert("EuroSAT", tmp_path / "a", tmp_path / "data")
    published.text(tmp_path / "b/SUN397/ClassName.txt", ["/a/abbey"])
    with pytest.raises(UserError, match="without Training_01.txt and Testing_01.txt; they are in Partitions.zip"):
        convert.convert("SUN397", tmp_path / "b", tmp_path / "data")


def test_pcam_without_h5py_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    published.images([tmp_path / name for form in PUBLISHED["PCAM"] for name in form.files], 0)
    with pytest.raises(UserError, match="h5py, which reads them, is not installed\n  Type: pip install 'h5py"):
        convert.convert("PCAM", tmp_path, tmp_path / "data", counted=False)


def test_pcams_files_are_paired_also_where_h5py_is_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's archives stand in for HDF5: they are opened, closed and indexed alike."""
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=lambda path, mode: np.load(path)))
    for seed, (images, labels) in enumerate((form := PUBLISHED["PCAM"][0]).files[i : i + 2] for i in (0, 2)):
        classes = [[[[number]]] for number in (0, 1, 1, 0)]
        for name, key, array in ((images, "x", published.pixels(4, seed, 96)), (labels, "y", classes)):
            with open(tmp_path / name, "wb") as file:
                np.savez(file, **{key: np.asarray(array, np.uint8)})
    rows = list(form.read(tmp_path, "test"))
    assert [row.label for row in rows] == [0, 1, 1, 0]
    assert np.array_equal(np.stack([row.image for row in rows]), published.pixels(4, 1, 96))


def test_sets_whose_files_are_called_alike_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for seed, task in enumerate(("MNIST", "FashionMNIST", "KMNIST")):
        published.mnist(tmp_path / "public" / task / "raw", 10 * seed)
    for task in ("MNIST", "KMNIST"):
        convert.convert(task, tmp_path / "public", tmp_path / "data", counted=False)
        convert.convert(task, tmp_path / "public" / task, tmp_path / "named", counted=False)
        assert converted(task, tmp_path / "data", "test") == converted(task, tmp_path / "named", "test")
    assert converted("MNIST", tmp_path / "data", "test") != converted("KMNIST", tmp_path / "data", "test")


def test_a_suite_is_converted_set_by_set_and_what_is_missing_is_said_at_the_end(
    tmp_path: Path, small: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    small(SVHN=20, MNIST=20)
    for task in ("SVHN", "MNIST"):
        SETS[task][0](tmp_path / "public")
    command = ["assets", "data", "convert", "vision-8", str(tmp_path / "public"), str(tmp_path / "data")]
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert said.out.count("20 test images") == 2 and said.err.count("as it is published") == 6
    # A second time nothing that is there is touched.
    noted = (tmp_path / "data/MNIST" / full.ORIGIN).read_text()
    assert json.loads(noted)["test"] == 20 and cli.main(command) == 1
    assert "MNIST exists already" in capsys.readouterr().err
    assert (tmp_path / "data/MNIST" / full.ORIGIN).read_text() == noted


def test_emnist_letters_are_told_to_come_from_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="assets data fetch EMNIST --family fusionbench"):
        convert.convert("EMNIST", tmp_path, tmp_path / "data", "fusionbench")


def test_emnist_without_a_copy_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="assets data convert EMNIST FROM"):
        full.load_split("EMNIST", "test", root=tmp_path)


def test_boards_say_which_images_a_split_is_where_that_is_not_plain(tmp_path: Path) -> None:
    plain, tall = (full.split_notes(["MNIST", "DTD", "EuroSAT"], tmp_path, family) for family in (None, "tall"))
    assert len(plain) == 2 and "1,880 test images" in plain[0] and "21,600" in plain[1]
    assert "97.98" in tall[0] and tall[1] == plain[1]


def test_a_mat_of_the_newest_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(UserError, match="x.mat cannot be read"):
        forms.load_mat(tmp_path / "x.mat")
