"""Data sets of the full suites: manifests, local copies in the hub's formats, splits, and what is refused."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hub_data import image_folder, parquet, pictures, web_dataset
from helpers.public_sets import small as small
from PIL import Image

from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.vision import check
from benchmark.domains.vision import public as full

EIGHT = ("SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "MNIST", "DTD")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SYMERGE_DATA", raising=False)
    return tmp_path / "cache"


def test_every_task_of_the_twenty_has_a_manifest_with_distinct_classes():
    assert set(EIGHT) <= set(full.names()) and len(full.names()) == 20
    for task in full.names():
        about = full.info(task)
        assert about.name == task and len(set(about.classes)) == len(about.classes) > 1
        assert all(len(words) == len(about.classes) for words in about.also)
        assert about.pinned == full.UNPINNED or len(about.revision or "") == 40
    assert len(full.info("SUN397").classes) == 397 and len(full.info("Cars").classes) == 196
    assert len(full.info("EMNIST").classes) == 10 and len(full.info("EMNIST", "fusionbench").classes) == 26


def test_the_three_layouts_give_the_same_images(tmp_path, small):
    small(MNIST=20)
    digits = full.info("MNIST").classes
    parquet(tmp_path / "a" / "MNIST", {"train": 30, "test": 20}, digits)
    image_folder(tmp_path / "b" / "MNIST", {"train": 30, "test": 20}, digits)
    web_dataset(tmp_path / "c" / "MNIST", {"train": 30, "test": 20}, 10)
    first, by_folder, by_tar = (full.load_split("MNIST", "test", root=tmp_path / x, image_size=16) for x in "abc")
    assert isinstance(first.images, np.memmap) and first.images.shape == (20, 16, 16, 3) and first.classes == digits
    assert np.array_equal(first.images, by_tar.images) and np.array_equal(first.labels, by_tar.labels)
    # A folder's files come class by class.
    order = np.argsort(first.labels, kind="stable")
    assert np.array_equal(first.images[order], by_folder.images)
    assert np.array_equal(first.labels[order], by_folder.labels)
    assert len({full.sha256("MNIST", "test", tmp_path / x) for x in "abc"}) == 3


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_cached_pixels_are_the_backbones_own_preprocessing_before_it_is_normalised(tmp_path, small, mode):
    import open_clip

    small(EuroSAT=12)
    parquet(tmp_path / "EuroSAT", {"train": 10, "test": 12}, full.info("EuroSAT").also[0], mode=mode)
    found = full.load_split("EuroSAT", "test", root=tmp_path, image_size=20)
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    whole = open_clip.image_transform(20, is_train=False, mean=mean, std=std)
    expected = torch.stack([whole(image) for image in pictures(12, 1, mode=mode)])
    pixels = torch.from_numpy(np.array(found.images)).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    torch.testing.assert_close((pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape), expected)


def test_validation_is_the_papers_tenth_of_train_and_train_is_the_rest(tmp_path, small):
    parquet(tmp_path / "GTSRB", {"train": 129, "test": 1}, None)
    validation = full.load_split("GTSRB", "val", root=tmp_path, image_size=8)
    train = full.load_split("GTSRB", "train", root=tmp_path, image_size=8)
    # task_vectors: random_split(train, [n - n // 10, n // 10], generator seeded with 0)
    parts = torch.utils.data.random_split(range(129), [117, 12], generator=torch.Generator().manual_seed(0))
    assert np.array_equal(full.part_of_train(129, "validation"), sorted(parts[1]))
    assert np.array_equal(full.part_of_train(129, "train"), sorted(parts[0]))
    assert len(validation) == 12 and len(train) == 117
    assert np.array_equal(validation.labels, [i % 3 for i in sorted(parts[1])])
    assert len(full.part_of_train(73257, "validation")) == 5000
    both = {image.tobytes() for image in validation.images} & {image.tobytes() for image in train.images}
    assert not both


def test_another_label_column_and_split_name_of_the_hub_are_read(tmp_path, small):
    small(CIFAR100=100, Food101=101)
    parquet(
        tmp_path / "CIFAR100",
        {"train": 10, "test": 100},
        full.info("CIFAR100").classes,
        image="img",
        label="fine_label",
        extra={"coarse_label": 7},
    )
    assert list(full.load_split("CIFAR100", "test", root=tmp_path, image_size=8).labels) == list(range(100))
    names = [c.replace(" ", "_") for c in full.info("Food101").classes]
    parquet(tmp_path / "Food101", {"train": 10, "validation": 101}, names)
    assert len(full.load_split("Food101", "test", root=tmp_path, image_size=8)) == 101


def test_another_class_order_is_refused_and_the_trap_is_cited(tmp_path, small):
    small(EuroSAT=10, GTSRB=43)
    names = full.info("EuroSAT").also[0]
    parquet(tmp_path / "EuroSAT", {"train": 10, "test": 10}, [*names[1:], names[0]])
    with pytest.raises(UserError, match="(?s)label 0 is 'Forest'.*another class order.*Known trap: EuroSAT has no off"):
        full.load_split("EuroSAT", "test", root=tmp_path, image_size=8)
    # Folders named 0 to 42 are sorted as text.
    image_folder(tmp_path / "GTSRB", {"train": 43, "test": 43}, [str(i) for i in range(43)])
    with pytest.raises(UserError, match="label 2 is named '10': names were sorted as text"):
        full.load_split("GTSRB", "test", root=tmp_path, image_size=8)


@pytest.mark.parametrize(
    ("task", "found", "level", "says"),
    [
        ("MNIST", 10_000, "ok", "10,000"),
        ("MNIST", 9_999, "error", "expected 10,000"),
        ("EuroSAT", 21_600, "error", "task_singular_vectors"),
        ("SUN397", 19_887, "warning", "not verified"),
        ("EMNIST", 20_800, "error", "letters split"),
        ("DTD", 3_760, "error", "train and val"),
    ],
)
def test_a_wrong_count_is_refused_where_the_number_is_verified_and_warned_of_where_not(task, found, level, says):
    got, message = full.compare_count(full.info(task), found)
    assert got == level and says in message


@pytest.mark.parametrize(
    ("task", "names", "level"),
    [
        ("MNIST", [str(i) for i in range(10)], "ok"),
        ("MNIST", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], "ok"),
        ("MNIST", None, "ok"),
        ("STL10", [f"{i:02d}" for i in range(10)], "ok"),
        ("STL10", ["monkey"] + ["x"] * 9, "error"),
        ("STL10", [f"other {i}" for i in range(10)], "warning"),
        ("STL10", ["airplane"], "error"),
        ("FER2013", ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"], "error"),
        ("FER2013", ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprised"], "ok"),
    ],
)
def test_class_names_are_compared_in_the_heads_order(task, names, level):
    assert full.compare_classes(full.info(task), names)[0] == level


def test_fusionbenchs_words_are_its_own_and_mean_the_same_classes() -> None:
    for task in ("CIFAR100", "OxfordIIITPet"):
        ours, theirs = full.info(task), full.info(task, "fusionbench")
        assert theirs.classes != ours.classes and len(theirs.classes) == len(ours.classes)
        assert full.compare_classes(theirs, ours.classes)[0] == full.compare_classes(ours, ours.classes)[0] == "ok"
    assert {"aquarium_fish", "cra"} < set(full.info("CIFAR100", "fusionbench").classes)


def test_a_label_beyond_the_heads_classes_is_refused(tmp_path, small):
    small(PCAM=9)
    parquet(tmp_path / "PCAM", {"train": 9, "test": 9}, None)
    with pytest.raises(UserError, match="(?s)3 damaged samples.*row 2: the label 2; 2 classes are expected"):
        full.load_split("PCAM", "test", root=tmp_path, image_size=8)


def test_missing_data_names_the_command_that_brings_it(tmp_path):
    with pytest.raises(UserError, match="--data-root DIR"):
        full.load_split("MNIST", "test")
    with pytest.raises(UserError, match="(?s)SVHN does not exist.*stanford/svhn, unpinned: give --rev.*assets data"):
        full.load_split("SVHN", "test", root=tmp_path)
    with pytest.raises(UserError, match="(?s)MNIST does not exist.*lecun/mnist, 77f3279092.*fetch MNIST --ro") as told:
        full.load_split("MNIST", "test", root=tmp_path)
    assert "--revision" not in str(told.value)
    with pytest.raises(UserError, match="did you mean MNIST"):
        full.info("MNST")
    (tmp_path / "MNIST").mkdir()
    with pytest.raises(UserError, match="no data in"):
        full.load_split("MNIST", "test", root=tmp_path)
    (tmp_path / "DTD").mkdir()
    (tmp_path / "DTD" / "test.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="DTD"):
        full.load_split("DTD", "test", root=tmp_path)


def run(*argv: str) -> int:
    return cli.main(["assets", "data", *argv])


def test_check_says_found_count_classes_and_hash_and_fails_on_a_wrong_one(tmp_path, capsys):
    parquet(tmp_path / "MNIST", {"train": 10, "test": 10_000}, full.info("MNIST").classes, size=(4, 4))
    parquet(tmp_path / "KMNIST", {"test": 20}, full.info("KMNIST").classes)
    assert run("check", "MNIST", "KMNIST", "--root", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert re.search(r"MNIST +ok +parquet, origin unknown +10,000 +10 classes in the head's order +\w{16} +\w", said)
    assert re.search(r"(?s)KMNIST +warning.*20 test images, expected 10,000.*not verified.*no split 'train'", said)
    names = full.info("EuroSAT").also[0]
    parquet(tmp_path / "EuroSAT", {"train": 10, "test": 12}, names[::-1])
    assert run("check", "EuroSAT", "MNIST", "--root", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert re.search(r"(?s)EuroSAT +error.*another class order.*known trap: EuroSAT has no official", said)
    assert run("check", "DTD", "--root", str(tmp_path)) == 1
    assert "assets data fetch DTD" in capsys.readouterr().out


def test_check_reads_the_embedded_suites_too(capsys):
    assert run("check", "vision-mini-8") == 0
    assert capsys.readouterr().out.count(" ok ") == 8
    assert run("check", "vision-mini") == 2 and "did you mean vision-mini-8" in capsys.readouterr().err


def test_the_sample_hash_is_that_of_the_pixels():
    hashes = set()
    for kind in ("PNG", "BMP"):
        buffer = io.BytesIO()
        pictures(1)[0].save(buffer, kind)
        hashes.add(check.sample_sha256(buffer.getvalue()))
    assert hashes == {hashlib.sha256(pictures(1)[0].tobytes()).hexdigest()}


def test_an_image_cut_short_is_named_and_leaves_no_cache(tmp_path, small, cache):
    small(MNIST=20)
    image_folder(tmp_path / "MNIST", {"train": 10, "test": 20}, full.info("MNIST").classes)
    spoiled = next((tmp_path / "MNIST" / "test" / "3").iterdir())
    spoiled.write_bytes(spoiled.read_bytes()[:60])
    with pytest.raises(UserError, match="test/3/00003.png: image file is truncated"):
        full.load_split("MNIST", "test", root=tmp_path, image_size=8)
    assert list((cache / "vision").iterdir()) == []
    Image.new("RGB", (9, 9)).save(spoiled)
    assert len(full.load_split("MNIST", "test", root=tmp_path, image_size=8)) == 20


def test_changed_files_are_decoded_again_and_unchanged_ones_are_not(tmp_path, small, monkeypatch):
    small(MNIST=20)
    root = Path(tmp_path)
    parquet(root / "MNIST", {"train": 10, "test": 20}, full.info("MNIST").classes)
    first = np.array(full.load_split("MNIST", "test", root=root, image_size=8).images)
    monkeypatch.setattr(full, "_decode", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(full.load_split("MNIST", "test", root=root, image_size=8).images, first)
    monkeypatch.undo()
    small(MNIST=20)
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    before = full.sha256("MNIST", "test", root)
    parquet(root / "MNIST", {"train": 10, "other": 1, "test": 20}, full.info("MNIST").classes)
    full.open_copy.cache_clear()
    assert full.sha256("MNIST", "test", root) != before
    assert not np.array_equal(full.load_split("MNIST", "test", root=root, image_size=8).images, first)
