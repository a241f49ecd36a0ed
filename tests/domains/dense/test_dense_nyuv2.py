"""NYUv2's layout on a tiny fake root: the check, bad files, and training of base to experts to a finished run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dense import SHAPE
from helpers.nyuv2_files import COUNTS, SIZE, write_root
from helpers.support import assert_same_files

from benchmark import suites
from benchmark.assets.dense.family import imagenet, main, make_family, settings_of
from benchmark.assets.dense.training import Settings
from benchmark.assets.training import Schedule
from benchmark.common.errors import UserError
from benchmark.domains.dense import model as models
from benchmark.domains.dense import nyuv2
from benchmark.domains.dense.bench import KINDS, DenseBench, channels
from benchmark.domains.dense.family import load_dense_family, tensors
from benchmark.domains.dense.model import Encoder
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records.store import Store

ARGUMENTS = {"size": SIZE, "counts": COUNTS}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "nyuv2")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """The suite on the tiny root and a tiny backbone of the name it asks for."""
    monkeypatch.setattr(nyuv2, "COUNTS", COUNTS)
    monkeypatch.setattr(nyuv2, "SIZE", SIZE)
    monkeypatch.setitem(models.BACKBONES, "ResNet-50", dataclasses.replace(SHAPE, name="ResNet-50"))
    return root


def test_the_check_says_what_is_there(root: Path) -> None:
    lines = nyuv2.check(root, **ARGUMENTS)
    assert lines[0].startswith("train: 12 images of 16 x 16") and lines[1].startswith("test: 4 images")
    assert "13 of 13 classes" in lines[0] and "depth known 87.5 %" in lines[0] and "normals known 87.5 %" in lines[1]


def test_parts_come_as_the_suites_take_them(root: Path) -> None:
    data = nyuv2.open_root(root, **ARGUMENTS)
    rows = data.read("test", np.array([2, 0]))
    stored = np.load(root / "val/image/2.npy")
    assert rows.image.dtype == np.uint8 and np.abs(rows.image[0] / 255 - stored).max() < 0.5 / 255 + 1e-9
    assert rows.label.min() == -1 and rows.depth.shape == (2, *SIZE) and rows.depth[:, :2].max() == 0
    assert list(data.numbers("val")) == [0, 10], "validation is every tenth training image"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "val/depth/3.npy").unlink(), "3.npy"),
        (lambda r: (r / "train/normal").rename(r / "train/normals"), "train/normal"),
        (lambda r: np.save(r / "train/label/5.npy", np.zeros((4, 4))), r"\[4, 4\]"),
        (lambda r: np.save(r / "train/depth/1.npy", np.full((*SIZE, 1), np.nan, np.float32)), "NaN"),
        (lambda r: np.save(r / "train/depth/1.npy", np.full((*SIZE, 1), -1.0)), "metres"),
        (lambda r: np.save(r / "train/label/0.npy", np.full(SIZE, 13)), "13"),
        (lambda r: np.save(r / "val/normal/0.npy", np.full((*SIZE, 3), 2.0)), "unit"),
        (lambda r: np.save(r / "val/image/0.npy", np.full((*SIZE, 3), 200.0)), "0 to 1"),
        (lambda r: (r / "val/image/0.npy").write_bytes(b"x"), "cannot be read"),
        (lambda r: np.save(r / "val/image/0.npy", np.array([{}], dtype=object), allow_pickle=True), "cannot be read"),
    ],
)  # fmt: skip
def test_bad_files_are_named_with_what_is_wrong(root: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(root)
    with pytest.raises(UserError, match=message):
        nyuv2.check(root, **ARGUMENTS)


def test_every_damaged_file_of_both_folders_is_named_in_one_pass(root: Path) -> None:
    np.save(root / "train/depth/1.npy", np.full((*SIZE, 1), -1.0))
    (root / "train/image/11.npy").write_bytes(b"")
    (root / "val/label/0.npy").write_bytes(b"<html>404 not found</html>")
    (root / "val/normal/0.npy").write_bytes(b"PK\x03\x04 a broken zip")
    (root / "val/normal/3.npy").write_bytes((root / "val/normal/3.npy").read_bytes()[:-9])
    head = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    huge = repr({"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 1 << 20)}).ljust(117) + "\n"
    (root / "val/depth/2.npy").write_bytes(head + huge.encode())
    of_train = ["train/depth/1.npy: values", "train/image/11.npy cannot"]
    of_test = ["val/label/0.npy cannot", "val/normal/0.npy cannot", "val/depth/2.npy cannot", "val/normal/3.npy cannot"]
    with pytest.raises(UserError) as error:
        nyuv2.check(root, **ARGUMENTS)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[0] == "NYUv2: 6 damaged files"
    assert [" ".join(line.split()[:2]) for line in lines[1:-1]] == of_train + of_test
    data = nyuv2.open_root(root, **ARGUMENTS)
    with pytest.raises(UserError, match="NYUv2, split 'test': 4 damaged files") as error:
        data.read("test", np.array([0]))
    assert all(name in str(error.value) for name in of_test)
    assert len(data.read("test", np.array([1])).label) == 1


def test_a_root_of_another_size_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="expected 795"):
        nyuv2.open_root(root)
    with pytest.raises(UserError, match="no folder"):
        nyuv2.open_root(root / "nowhere")


def test_one_epoch_makes_experts_that_a_run_merges_and_scores(small: Path, tmp_path: Path) -> None:
    suite = suites.load("nyuv2")
    bench = DenseBench.untrained(suite, "ResNet-50", "own", "cpu", data_root=small)
    torch.manual_seed(0)
    start = tensors(Encoder(bench.shape))
    once = Schedule(steps=1, lr=1e-3, warmup=1, batch=6)
    folder = tmp_path / "checkpoints" / "own" / "ResNet-50"
    manifest = make_family(bench, folder, Settings(once, once), start=start)
    assert set(manifest["scores"]["test"]) == {"pretrained", "individual", "average"}
    opened = DenseBench(
        suite, "ResNet-50", "own", bench.device, bench.dtype, data_root=small, checkpoints=tmp_path / "checkpoints"
    )
    runs = plan(opened, ["symerge:steps=1,batch_size=2", "ties"], seeds=[0])
    records = execute(runs, opened, Store(tmp_path / "results"), Options())
    assert [r.status for r in records] == ["done"] * 4, [r.error for r in records]
    individual = next(r for r in records if r.spec.method == "individual")
    kept = manifest["scores"]["test"]["individual"]
    assert individual.tasks["depth"].value == pytest.approx(kept["depth"]["abs_err"], rel=1e-4)
    assert "unlabelled train (statistics)" in records[-1].access
    assert records[-1].spec.suite_version == "1;batchnorm=reestimate:795"


def test_killed_training_continues_to_the_same_weights(small: Path, tmp_path: Path) -> None:
    bench = DenseBench.untrained(suites.load("nyuv2"), "ResNet-50", "own", "cpu", data_root=small)
    torch.manual_seed(0)
    start = tensors(Encoder(bench.shape))
    settings = Settings(Schedule(4, 1e-3, 1, 4), Schedule(4, 1e-3, 1, 4))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_family(bench, whole, settings, start=start)
    with pytest.raises(InterruptedError):
        make_family(bench, parts, settings, start=start, stop_at=2)
    assert not (parts / "segmentation.safetensors").exists()
    make_family(bench, parts, settings, start=start)
    assert_same_files(parts, whole, ["segmentation.safetensors", "heads/normals.safetensors"])


def test_the_protocol_is_forty_epochs_of_sixteen() -> None:
    schedule = settings_of("nyuv2", 795).expert
    assert schedule.steps * schedule.batch == 40 * 795 + 8 and schedule.batch == 16


def test_other_weights_and_missing_experts_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--weights"):
        imagenet(None, SHAPE)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="tensors missing"):
        imagenet(tmp_path / "other.pth", SHAPE)
    torch.save(Encoder(SHAPE).state_dict(), tmp_path / "right.pth")
    assert set(imagenet(tmp_path / "right.pth", SHAPE)) == set(tensors(Encoder(SHAPE)))
    with pytest.raises(UserError, match="--retrain"):
        load_dense_family(tmp_path / "nothing", SHAPE, channels(13), KINDS)
    with pytest.raises(UserError, match="--retrain"):
        main(["nyuv2", "--out", str(tmp_path / "nothing")])
