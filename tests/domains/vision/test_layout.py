"""Splits come from a README or from the layout: whatever a class is called, no test image is taken for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.hub_data import image_folder, parquet
from helpers.public_sets import small as small

from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.vision import layout
from benchmark.domains.vision import public as full
from benchmark.domains.vision.local import Copy

MANIFESTS = [(name, None) for name in full.names()] + [
    (task, family) for task, _, family in (p.stem.partition("@") for p in full.SETS.glob("*@*.yaml"))
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))


def files(folder: Path, *names: str) -> Path:
    """Empty files: a layout is read from names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def splits(folder: Path, config: str | None = None) -> dict[str, list[str]]:
    return layout.read(folder, config).splits


@pytest.mark.parametrize("spelling", [lambda w: w, lambda w: w.replace(" ", "_"), lambda w: w.replace(" ", "-")])
@pytest.mark.parametrize(("task", "family"), MANIFESTS)
def test_every_class_folder_of_every_set_is_in_the_split_above_it(
    task: str, family: str | None, spelling: Callable[[str], str], tmp_path: Path
) -> None:
    about = full.info(task, family)
    words = [spelling(word).replace("/", "-") for word in about.classes]
    wanted = {
        split: sorted(f"{split}/{word}/{split}-{number}.png" for word in words for number in range(2))
        for split in set(about.splits.values())
    }
    assert splits(files(tmp_path, *(name for names in wanted.values() for name in names))) == wanted


WORDS = ["train", "test", "train_railway", "train_station_platform", "dev", "validation-set", "val 2", "eval", "apple"]


def test_classes_that_are_called_as_splits_keep_their_images_and_labels(
    tmp_path: Path, small: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small(CIFAR100=2 * len(WORDS))
    real = full.info
    ordered = sorted(WORDS)
    monkeypatch.setattr(full, "info", lambda *names: real(*names).model_copy(update={"classes": ordered}))
    image_folder(tmp_path / "CIFAR100", {"train": 10 * len(WORDS), "test": 2 * len(WORDS)}, WORDS)
    assert cli.main(["assets", "data", "check", "CIFAR100", "--root", str(tmp_path)]) == 0
    parts = {s: full.load_split("CIFAR100", s, root=tmp_path, image_size=8) for s in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 81, "validation": 9, "test": 18}
    assert parts["test"].labels.tolist() == sorted(2 * list(range(len(WORDS))))


def test_a_copy_without_folders_of_splits_is_refused_though_a_class_is_called_train(tmp_path: Path) -> None:
    files(tmp_path, *(f"{word}/0.png" for word in full.info("CIFAR100").classes))
    with pytest.raises(UserError, match="apple/0.png, aquarium fish/0.png, baby/0.png and 96 more belong to no split"):
        splits(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        {"train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
         "test": ["data/test-00000-of-00001-0c6e.parquet"]},
        {"train": ["train.parquet"], "validation": ["val.parquet"], "test": ["test.parquet"]},
        {"train": ["default/train/0000.parquet"], "test": ["default/test/0000.parquet"]},
        {"train": ["a/train-00000-of-00001.parquet"], "extra": ["a/extra-00000-of-00001.parquet"]},
        {"train": ["wds/train/0.tar", "wds/train/1.tar"], "test": ["wds/test/0.tar"]},
        {"train": ["train_00.tar", "train_01.tar"], "test": ["test_00.tar"]},
        {"train": ["train/test.tar/train-0.tar"], "test": ["train/test-0.tar"]},
        {"train": ["Train/0/1.png", "Train/1/1.ppm"], "test": ["Test/0/2.JPG"]},
        {"train": ["images/training/train/1.png"], "validation": ["images/dev/test/1.png"],
         "test": ["images/eval/train/1.png"]},
        {"train": ["train.zip"], "test": ["test.zip"]},
        {"train": ["train/1.png", "train/metadata.csv"], "test": ["test/1.png", "test/metadata.csv"]},
    ],
)  # fmt: skip
def test_the_layouts(names: dict[str, list[str]], tmp_path: Path) -> None:
    found = splits(files(tmp_path, *(name for part in names.values() for name in part)))
    assert found == names and list(found) == list(names)


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        (["train-0.parquet", "train_railway.parquet"], "train_railway.parquet"),
        (["test/0.tar", "pretrain/0.tar"], "pretrain/0.tar"),
        (["mytest.parquet"], "mytest.parquet"),
        (["train_railway/0.png", "test_bench/0.png"], "test_bench/0.png, train_railway/0.png"),
        (["train/a/0.png", "more/a/0.png"], "more/a/0.png"),
        (["0.png", "1.png"], "0.png, 1.png"),
    ],
)
def test_a_word_within_a_name_makes_no_split(names: list[str], lost: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{lost} belong to no split\n.*expected one of: data/test"):
        splits(files(tmp_path, *names))


def test_what_is_no_data_is_left_out(tmp_path: Path) -> None:
    files(tmp_path, "train/a/0.png", "test/a/0.png", "logo.png", "train/a/Thumbs.db", ".cache/train/a/1.png",
          "__MACOSX/test/a/0.png", "test/a/._0.png", "LICENSE.txt")  # fmt: skip
    assert splits(tmp_path) == {"train": ["train/a/0.png"], "test": ["test/a/0.png"]}
    table = "data/test-00000-of-00001.parquet"
    assert layout.read(files(tmp_path, table)).kind == "parquet" and splits(tmp_path) == {"test": [table]}


def test_the_configuration_that_is_wanted_is_a_folder_where_no_readme_says_more(tmp_path: Path) -> None:
    files(tmp_path, *(f"{config}/{split}-00000-of-00001.parquet" for config in ("cropped_digits", "full_numbers")
                      for split in ("train", "test")))  # fmt: skip
    assert splits(tmp_path, "cropped_digits") == {
        split: [f"cropped_digits/{split}-00000-of-00001.parquet"] for split in ("train", "test")
    }


def card(folder: Path, text: str) -> Path:
    (folder / "README.md").write_text(f"---\n{text}---\nA data set.\n", encoding="utf-8")
    return folder


CONFIGS = """configs:
- config_name: cropped_digits
  data_files:
  - split: train
    path: data/small/learn*
  - split: test
    path: ["data/small/train-*.parquet"]
- config_name: full_numbers
  data_files: data/large/*
"""


def test_a_readme_names_the_files_of_each_split_and_configuration(tmp_path: Path) -> None:
    files(card(tmp_path, CONFIGS), "data/small/learn.parquet", "data/small/train-1.parquet", "data/large/a.parquet")
    assert splits(tmp_path, "cropped_digits") == {
        "train": ["data/small/learn.parquet"], "test": ["data/small/train-1.parquet"]
    }  # fmt: skip
    assert splits(tmp_path, "full_numbers") == {"train": ["data/large/a.parquet"]}
    for wanted, said in (("other", "wanted is other"), (None, "none of them is the default")):
        with pytest.raises(UserError, match=f"the configurations cropped_digits, full_numbers; {said}"):
            splits(tmp_path, wanted)
    (tmp_path / "data/small/learn.parquet").unlink()
    with pytest.raises(UserError, match=r"no file is data/small/learn\*, as README.md says"):
        splits(tmp_path, "cropped_digits")


def test_a_readme_that_puts_a_file_into_two_splits_is_refused(tmp_path: Path) -> None:
    patterns = "  - {split: train, path: '**'}\n  - {split: test, path: t*}\n"
    card(tmp_path, f"configs:\n- config_name: default\n  data_files:\n{patterns}")
    files(tmp_path, "train.parquet", "other.parquet")
    with pytest.raises(UserError, match="puts train.parquet into more than one split"):
        splits(tmp_path)


def test_a_readme_that_is_no_card_is_named(tmp_path: Path) -> None:
    files(card(tmp_path, "configs: 3\n"), "train.parquet")
    with pytest.raises(UserError, match="README.md cannot be read as a data set's card"):
        splits(tmp_path)


def test_features_that_only_a_readme_names_are_those_of_the_rows(tmp_path: Path) -> None:
    parquet(tmp_path, {"train": 6, "test": 4}, None)
    card(
        tmp_path,
        """dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names: {'0': a, '1': b, '2': c}
""",
    )
    assert Copy(tmp_path).columns("test", "label") == ("image", "label", ["a", "b", "c"])


def test_links_to_files_folders_and_sets_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    """As in the hub's cache, whose files are links to blobs named by their hash."""
    parquet(tmp_path / "plain", {"train": 6, "test": 4}, ["a", "b"])
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot/data").mkdir(parents=True)
    for number, file in enumerate((tmp_path / "plain/data").iterdir()):
        file.rename(tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot/data" / file.name).symlink_to(tmp_path / "blobs" / str(number))
    (tmp_path / "snapshot/data/back").symlink_to(tmp_path / "snapshot")
    assert Copy(tmp_path / "snapshot").facts("test")[0] == 4
    image_folder(tmp_path / "far", {"train": 6, "test": 4}, ["a", "b"])
    (tmp_path / "near").mkdir()
    for split in ("train", "test"):
        (tmp_path / "near" / split).symlink_to(tmp_path / "far" / split)
    assert Copy(tmp_path / "near").facts("test") == Copy(tmp_path / "far").facts("test")
