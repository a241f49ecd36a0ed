"""NYUv2's layout on a tiny fake root: the check, bad files, and training of base to experts to a finished run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from dense import SHAPE
from support import assert_same_files

from benchmark import suites
from benchmark.data import nyuv2
from benchmark.errors import UserError
from benchmark.models import dense as models
from benchmark.models.dense import Encoder
from benchmark.models.dense_family import load_dense_family, tensors
from benchmark.models.dense_make import imagenet, main, make_family, settings_of
from benchmark.models.dense_train import Settings
from benchmark.models.training import Schedule
from benchmark.runner import Options, execute, plan
from benchmark.store import Store
from benchmark.suites.dense import KINDS, DenseBench, channels

COUNTS, SIZE = {"train": 12, "val": 4}, SHAPE.size
ARGUMENTS = {"size": SIZE, "counts": COUNTS}


def write_root(root: Path) -> Path:
    """A root of 12 and 4 random images of 16 x 16 with invalid pixels, in the published types."""
    random = np.random.default_rng(0)
    for folder, count in COUNTS.items():
        for part in nyuv2.PARTS:
            (root / folder / part).mkdir(parents=True)
        for number in range(count):
            label = random.integers(-1, nyuv2.CLASSES, SIZE).astype(np.float64)
            depth = random.uniform(0.5, 9.9, (*SIZE, 1)).astype(np.float32)
            normal = random.normal(size=(*SIZE, 3))
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            depth[:2], normal[:2] = 0, 0
            for part, array in (
                ("image", random.random((*SIZE, 3))), ("label", label), ("depth", depth), ("normal", normal)
            ):  # fmt: skip
                np.save(root / folder / part / f"{number}.npy", array)
    return root


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
    assert set(manifest["scores"]["test"]) == {"pretrained", "individual", "weight_average"}
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
