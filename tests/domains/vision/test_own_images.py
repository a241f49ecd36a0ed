"""Images as they lie: each layout, the splits, the classes; and whatever is wrong with them in one line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.hub_data import damaged_images, parquet
from helpers.own_suites import class_folders, picture, split_folders
from PIL import Image

from benchmark.common.errors import UserError
from benchmark.domains.vision.encoders.pixels import Pixels
from benchmark.domains.vision.own.images import Images, open_images
from benchmark.domains.vision.own.unlabelled import open_unlabelled
from benchmark.suites.own import Data, Splits, Task

NAMES = ["bird", "cat", "dog"]
PIXELS = Pixels((8, 8), 8, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))


def opened(
    data: Any, said: list[str] | None = NAMES, outputs: int | None = 3, splits: Any = None, **more: Any
) -> Images:
    where = Data(**{key: str(place) for key, place in (data if isinstance(data, dict) else {"path": data}).items()})
    task = Task.model_construct(
        expert=Path("e"), data=where, head=None, classes=None, splits=None,
        **{"absent": [], "image": None, "label": None, "split": None, **more},
    )  # fmt: skip
    return open_images("pets", task, splits or Splits(), said, outputs)


def counts(images: Images) -> dict[str, int]:
    return {split: images.count(split) for split in ("train", "val", "test")}


def encoded(seed: int, label: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, label).save(buffer, "PNG")
    return buffer.getvalue()


def as_folders(root: Path) -> Path:
    return split_folders(root / "images", NAMES, train=10, test=4)


def as_csv(root: Path) -> Path:
    as_folders(root)
    with open(root / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for path in sorted((root / "images").rglob("*.png")):
            writer.writerow([path.relative_to(root), path.parent.name, path.parent.parent.name])
    return root / "table.csv"


def as_parquet(root: Path) -> Path:
    as_folders(root)
    paths = sorted((root / "images").rglob("*.png"))
    table = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "label": [path.parent.name for path in paths],
        "split": [path.parent.parent.name for path in paths],
    }
    pq.write_table(pa.table(table), root / "table.parquet")
    return root / "table.parquet"


def as_hub(root: Path) -> Path:
    """``data/train-00000-of-00001.parquet`` and so on, whose labels are numbers with names."""
    return parquet(root / "hub", {"train": 30, "test": 12}, NAMES)


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "folders": as_folders, "csv": as_csv, "parquet": as_parquet, "hub": as_hub,
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_its_own_splits_classes_and_pixels(kind: str, tmp_path: Path) -> None:
    images = opened(LAYOUTS[kind](tmp_path))
    assert counts(images) == {"train": 27, "val": 3, "test": 12} and images.classes.names == NAMES
    split = images.load("test", PIXELS)
    assert split.images.shape == (12, 8, 8, 3) and sorted(set(split.labels.tolist())) == [0, 1, 2]
    assert "val are 3 of 30 training images" in images.notes[0]
    if kind != "hub":
        for image, label in zip(split.images, split.labels, strict=True):
            assert image.reshape(-1, 3).mean(0).argmax() == label  # helpers.own_suites.picture: its colour tells


def test_layouts_of_the_same_images_give_the_same_pixels(tmp_path: Path) -> None:
    given = [opened(LAYOUTS[kind](tmp_path / kind)).load("test", PIXELS) for kind in ("folders", "csv", "parquet")]
    for other in given[1:]:
        assert np.array_equal(given[0].images, other.images) and np.array_equal(given[0].labels, other.labels)


def test_splits_are_drawn_within_each_class_where_there_are_none(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "images", NAMES, 20)
    images = opened(folder)
    assert counts(images) == {"train": 42, "val": 6, "test": 12}
    assert "test 12 of 60 images were drawn within each class by seed 0" in images.notes[0]
    assert sorted(images.load("test", PIXELS).labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    again, other = opened(folder), opened(folder, splits=Splits(seed=1))
    assert again.fingerprint("test") == images.fingerprint("test") != other.fingerprint("test")
    names = [{entry.name for _, part in images.parts[s] for entry in part} for s in ("train", "val", "test")]
    assert len(set.union(*names)) == 60 == sum(map(len, names))
    assert counts(opened(folder, splits=Splits(test=0.5, val=0))) == {"train": 30, "val": 0, "test": 30}


def test_a_draw_does_not_hang_on_where_the_images_lie_or_on_others(tmp_path: Path) -> None:
    def chosen(folder: Path) -> set[str]:
        return {entry.name for _, part in opened(folder).parts["test"] for entry in part}

    first = class_folders(tmp_path / "a", NAMES, 20)
    moved = class_folders(tmp_path / "somewhere" / "else", NAMES, 20)
    assert opened(first).fingerprint("test") == opened(moved).fingerprint("test")
    before = chosen(first)
    for number in (100, 101):
        picture(number, 0).save(first / "bird" / f"{number}.png")
    assert len(before - chosen(first)) <= 2


def test_each_split_may_lie_at_a_place_of_its_own(tmp_path: Path) -> None:
    class_folders(tmp_path / "one", NAMES, 4)
    class_folders(tmp_path / "two", NAMES, 2)
    images = opened({"train": tmp_path / "one", "test": tmp_path / "two"}, splits=Splits(val=0))
    assert counts(images) == {"train": 12, "val": 0, "test": 6} and images.notes == ()
    with pytest.raises(UserError, match=r"pets has no val images; it has train, test"):
        images.fingerprint("val")


def test_classes_may_be_called_as_splits_where_others_are_not(tmp_path: Path) -> None:
    images = opened(class_folders(tmp_path / "images", ["test", "train", "zebra"], 6), ["test", "train", "zebra"])
    assert counts(images)["test"] == 3


def test_the_heads_order_decides_and_not_that_of_the_folders(tmp_path: Path) -> None:
    folder = as_folders(tmp_path)
    turned = opened(folder, ["dog", "cat", "bird"])
    assert turned.classes.number == {"dog": 0, "cat": 1, "bird": 2} and turned.classes.note == ""
    assert turned.fingerprint("test") != opened(folder).fingerprint("test")
    spelled = opened(folder, ["Bird", "CAT", "dog "])
    assert spelled.classes.number == {"bird": 0, "cat": 1, "dog": 2}


def test_an_order_that_nothing_says_is_assumed_and_said(tmp_path: Path) -> None:
    images = opened(as_folders(tmp_path), said=None)
    assert images.classes.names == NAMES
    assert any("the order of the data's classes was assumed: bird, cat, dog" in note for note in images.notes)


def test_labels_of_names_in_a_file_and_numbers_without(tmp_path: Path) -> None:
    named = opened(as_hub(tmp_path), said=["dog", "bird", "cat"])
    assert named.classes.number == {"bird": 1, "cat": 2, "dog": 0}
    table = {"img": [encoded(i, i % 3) for i in range(30)], "class": [i % 3 for i in range(30)]}
    pq.write_table(pa.table(table), tmp_path / "plain.parquet")
    plain = opened(tmp_path / "plain.parquet", said=None)
    assert plain.classes.number == {0: 0, 1: 1, 2: 2} and plain.load("test", PIXELS).images.shape[1:] == (8, 8, 3)


MISTAKES: dict[str, tuple[Callable[[Path], dict[str, Any]], str, str]] = {
    "missing folder": (lambda root: {"data": root / "nowhere"}, "pets: there is no .*nowhere", "Write a path of"),
    "a class that the folder lacks": (
        lambda root: {"data": as_folders(root), "said": [*NAMES, "fish"], "outputs": 4},
        "the data have no class 'fish', which the head has",
        "absent: [fish]",
    ),
    "a class that the head lacks": (
        lambda root: {"data": as_folders(root), "said": ["bird", "cat", "horse"]},
        "the head has no class 'dog', which the data have",
        "Rename it in the data, or write classes",
    ),
    "counts that differ": (
        lambda root: {"data": as_folders(root), "said": None, "outputs": 5},
        r"the head has 5 outputs, the data 3 classes \(bird, cat, dog\)",
        "Write classes",
    ),
    "names that are too few": (
        lambda root: {"data": as_folders(root), "outputs": 4}, "the head has 4 outputs, and 3 classes are named",
        "Write classes",
    ),
    "no classes": (
        lambda root: {"data": class_folders(root / "x", NAMES, 1) / "bird"}, "bird: 0.png stands in no class folder",
        "Expected CLASS/0.png",
    ),
    "an empty folder": (lambda root: {"data": root}, "holds no images", "Write a path of"),
    "a CSV without the column": (
        lambda root: {"data": as_csv(root), "label": "klass"},
        "unknown column of .*table.csv 'klass'",
        "known: path, label",
    ),
    "no test images": (
        lambda root: {"data": {"test": as_folders(root) / "train" / "bird"}},
        "bird: 0.png stands in no class",
        "Expected",
    ),
    "training images alone": (
        lambda root: {"data": class_folders(root / "d" / "train", NAMES, 4).parent},
        "there are no test images; the data have train",
        "Write data: {train: PATH, test: PATH}",
    ),
    "numbers as names": (
        lambda root: {"data": class_folders(root / "n", list(map(str, range(12))), 6), "said": None, "outputs": 12},
        "the classes are numbers, whose order as text .* and as numbers differ", "Write classes",
    ),
    "a label above the head": (
        lambda root: {"data": as_numbers(root), "said": None, "outputs": 2},
        "the head has 2 outputs, the data labels up to 2",
        "Is the head another task's",
    ),
    "splits within a split": (lambda root: {"data": {"test": as_csv(root)}}, "given for test, has splits", "PATH"),
    "a file of another kind": (lambda root: {"data": note(root)}, "is no folder, CSV or parquet", "Write a path of"),
    "no parquet file": (lambda root: {"data": note(root, "x.parquet")}, "x.parquet cannot be read", "again"),
    "a split that is none": (lambda root: {"data": odd_split(root)}, "row 2: the split 'foo' is none", "known: dev"),
}  # fmt: skip


def as_numbers(root: Path) -> Path:
    table = {"image": [encoded(i, i % 3) for i in range(30)], "label": [i % 3 for i in range(30)]}
    pq.write_table(pa.table(table), root / "n.parquet")
    return root / "n.parquet"


def note(root: Path, name: str = "x.txt") -> Path:
    (root / name).write_text("no table")
    return root / name


def odd_split(root: Path) -> Path:
    (root / "t.csv").write_text("path,label,split\na.png,cat,foo\n")
    return root / "t.csv"


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_with_what_to_type(kind: str, tmp_path: Path) -> None:
    make, said, hint = MISTAKES[kind]
    (tmp_path / "root").mkdir()
    given = make(tmp_path / "root")
    with pytest.raises(UserError, match=said) as raised:
        opened(given.pop("data"), **given)
    assert raised.value.message.startswith("pets: ") and "\n" not in raised.value.message
    assert hint in raised.value.hint


def test_a_class_without_images_is_allowed_where_it_is_said(tmp_path: Path) -> None:
    images = opened(as_folders(tmp_path), [*NAMES, "fish"], 4, absent=["fish"])
    assert images.classes.names == [*NAMES, "fish"]


def test_every_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = as_folders(tmp_path)
    damage = list(damaged_images().values())
    for number, name in enumerate(("a.png", "b.jpg")):
        (folder / "test" / "cat" / name).write_bytes(damage[number])
    with pytest.raises(UserError, match="pets, test: 2 damaged samples") as raised:
        opened(folder).load("test", PIXELS)
    assert "test/cat/a.png: " in str(raised.value) and "test/cat/b.jpg: " in str(raised.value)
    assert opened(folder).load("train", PIXELS).images.shape[0] == 27


def test_an_image_that_a_table_names_and_nobody_has_is_said(tmp_path: Path) -> None:
    table = as_csv(tmp_path)
    (tmp_path / "images" / "test" / "cat" / "1.png").unlink()
    with pytest.raises(UserError, match=r"pets: .*images/test/cat/1.png cannot be read: No such file") as raised:
        opened(table).fingerprint("test")
    assert "Restore it" in raised.value.hint


def test_a_changed_image_is_another_identity_and_is_decoded_again(tmp_path: Path) -> None:
    folder = as_folders(tmp_path)
    before = opened(folder)
    first, pixels = before.fingerprint("test"), before.load("test", PIXELS).images.copy()
    picture(999, 2).save(folder / "test" / "bird" / "0.png")
    after = opened(folder)
    assert after.fingerprint("test") != first and after.fingerprint("train") == before.fingerprint("train")
    assert not np.array_equal(after.load("test", PIXELS).images, pixels)


def test_a_picture_is_cut_and_resized_as_the_recipe_says(tmp_path: Path) -> None:
    folder = as_folders(tmp_path)
    for pixels in (PIXELS, Pixels((8, 8), None, (0.5,) * 3, (0.5,) * 3), Pixels((6, 10), 12, (0.0,) * 3, (1.0,) * 3)):
        assert opened(folder).load("test", pixels).images.shape == (12, *pixels.size, 3)


def test_images_without_labels_are_all_below_a_folder_and_have_none(tmp_path: Path) -> None:
    folder = as_folders(tmp_path)
    source = open_unlabelled(folder, PIXELS)
    images, labels = source[torch.arange(5)]
    assert len(source) == 42 and labels is None and source.stored(torch.tensor([3]))[1] is None
    assert images.shape == (5, 3, 8, 8) and images.dtype == torch.float32 and images.abs().max() <= 1
    first = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))[:2]
    wanted = np.stack([PIXELS(Image.open(folder / name)) for name in first])
    assert np.array_equal(source.stored(torch.arange(2))[0].numpy(), wanted)
    (folder / "loose.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 damaged sample") as raised:
        open_unlabelled(folder, PIXELS)
    assert "loose.png: " in str(raised.value)
    for wrong, said in ((tmp_path / "nowhere", "there is no folder"), (tmp_path / "cache", "holds no images")):
        with pytest.raises(UserError, match=said):
            open_unlabelled(wrong, PIXELS)
