"""NYUv2 as the hub's copy has it becomes the layout that is read, with the same values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Array2D, Array3D, Dataset, Features
from helpers.nyuv2_files import COUNTS, SIZE, write_root

from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.dense import nyuv2, published


def hub(folder: Path, root: Path, **changed: np.ndarray) -> Path:
    """tanganke/nyuv2's files of a root in auto-lambda's layout: lists of lists, channels first, in two shards each."""
    three = Array3D((3, *SIZE), "float32")
    one = Array3D((1, *SIZE), "float32")
    columns = {"image": three, "segmentation": Array2D(SIZE, "int64"), "depth": one, "normal": three, "noise": one}
    features = Features(columns)
    (folder / "data").mkdir(parents=True)
    for split, count in COUNTS.items():
        rows = []
        for number in range(count):
            parts = {part: np.load(root / split / part / f"{number}.npy") for part in nyuv2.PARTS}
            first = {part: np.moveaxis(parts[part], -1, 0).astype(np.float32) for part in ("image", "depth", "normal")}
            label = parts["label"].astype(np.int64)
            rows.append({**first, "segmentation": label, "noise": np.zeros((1, *SIZE), np.float32), **changed})
        for shard, part in enumerate((rows[: count // 2], rows[count // 2 :])):
            file = folder / f"data/{split}-{shard:05d}-of-00002.parquet"
            Dataset.from_list(part, features=features).to_parquet(str(file))
    return folder


def test_the_hubs_copy_gives_the_same_arrays(tmp_path: Path) -> None:
    write_root(tmp_path / "own")
    hub(tmp_path / "hub", tmp_path / "own")
    said = published.convert(tmp_path / "hub", tmp_path / "data", size=SIZE, counts=COUNTS)
    assert said.startswith("nyuv2: 12 train and 4 val images")
    made = nyuv2.open_root(tmp_path / "data/nyuv2", size=SIZE, counts=COUNTS)
    own = nyuv2.open_root(tmp_path / "own", size=SIZE, counts=COUNTS)
    for split, count in (("train", 12), ("test", 4)):
        ours, theirs = (data.read(split, np.arange(count)) for data in (made, own))
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(ours.depth, theirs.depth)
        np.testing.assert_allclose(ours.normal, theirs.normal, atol=1e-6)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["nyuv2"]
    with pytest.raises(UserError, match="exists already"):
        published.convert(tmp_path / "hub", tmp_path / "data", size=SIZE, counts=COUNTS)


def test_another_number_or_size_or_no_file_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    write_root(tmp_path / "own")
    source = hub(tmp_path / "hub", tmp_path / "own")
    for size, counts, says in (
        ((8, 8), COUNTS, "train-00000-of-00002.parquet cannot be read: cannot reshape"),
        (SIZE, {"train": 13, "val": 4}, "train/image holds 12 files, expected 13"),
    ):
        with pytest.raises(UserError, match=says):
            published.convert(source, tmp_path / "data", size=size, counts=counts)
    (source / "data/val-00001-of-00002.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="val-00001-of-00002.parquet cannot be read"):
        published.convert(source, tmp_path / "data", size=SIZE, counts=COUNTS)
    assert cli.main(["assets", "data", "convert", "nyuv2", str(tmp_path / "own"), str(tmp_path / "data")]) == 2
    assert not list((tmp_path / "data").iterdir())
