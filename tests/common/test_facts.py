"""Content decides: no hash, statistic or layer of one file is handed out for another of the same size and time."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hub_data import parquet
from helpers.public import open_clip_family
from helpers.public_sets import small as small
from helpers.tiny import TinyBench, only, run
from helpers.towers import tiny
from safetensors.torch import load_file

from benchmark.checkpoints import families
from benchmark.checkpoints.families import FamilyError, save_state
from benchmark.cli import main as cli
from benchmark.common import facts
from benchmark.common.errors import UserError
from benchmark.common.files import file_sha256
from benchmark.domains.dense import nyuv2
from benchmark.domains.text import glue
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import BACKBONES
from benchmark.domains.vision.embedded import ImageSplit
from benchmark.domains.vision.family import load_family
from benchmark.domains.vision.local import Copy
from benchmark.records.method_version import method_version
from benchmark.records.store import Store
from benchmark.studies import weak_experts as quality
from benchmark.studies.derived import adapted_file, merged_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once, so that what is known of them is remembered."""
    monkeypatch.setattr(facts, "TICK", 0.0)


def same_size_and_time(path: Path, content: bytes) -> None:
    """Write another content of the same size over a file, and give it the time of the first."""
    before = path.stat()
    assert len(content) == before.st_size
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def in_place(path: Path, content: bytes) -> None:
    same_size_and_time(path, content)


def moved_there(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    same_size_and_time(other, content)
    os.replace(other, path)


def by_link(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    same_size_and_time(other, content)
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("change", [in_place, moved_there, by_link])
def test_a_file_of_the_same_size_and_time_has_its_own_hash(
    change: Callable[[Path, bytes], None], large: bool, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "LARGE", 1 if large else 1 << 24)
    path = tmp_path / "expert"
    path.write_bytes(b"first ")
    time.sleep(0.02)
    assert families.sha256(path) == file_sha256(path)
    change(path, b"second")
    assert families.sha256(path) == file_sha256(path)


def test_a_file_that_just_changed_is_read_again_each_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first ")
    reads: list[int] = []

    def read() -> bytes:
        reads.append(1)
        return path.read_bytes()

    assert facts.remembered("bytes", [path], read, on_disk=False) == b"first "
    before = path.stat()
    path.write_bytes(b"second")  # perhaps within one tick: even the inode's time may be the same
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert facts.remembered("bytes", [path], read, on_disk=False) == b"second"
    facts.remembered("bytes", [path], read, on_disk=False)
    assert len(reads) == 3


def test_what_changes_while_it_is_read_is_not_remembered(tmp_path: Path, settled: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    time.sleep(0.02)

    def read() -> str:
        found = path.read_text()
        same_size_and_time(path, b"later")
        return found

    assert facts.remembered("text", [path], read) == "first"
    assert facts.remembered("text", [path], path.read_text) == "later"


def test_a_cache_that_cannot_be_written_only_costs_time(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "occupied"))
    time.sleep(0.02)
    assert facts.sha256(tmp_path / "occupied") == file_sha256(tmp_path / "occupied")


def family(folder: Path, tasks: tuple[str, ...] = ("MNIST",)) -> Path:
    """A family in the public layout; the file of MNIST's expert, which depends on its place among the tasks."""
    open_clip_family(folder, "task-arithmetic", BACKBONES["ViT-B-32"], tasks)
    (found,) = folder.rglob("MNIST/finetuned.pt")
    return found


def test_an_import_into_a_fresh_folder_records_the_hash_of_what_it_read(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    monkeypatch.setattr(families, "LARGE", 1)
    expert = family(tmp_path / "public")
    second = family(tmp_path / "others", ("DTD", "MNIST")).read_bytes()
    time.sleep(0.02)
    found = []
    for out in ("one", "two"):
        words = ["import", "task-arithmetic", str(tmp_path / "public"), "--tasks", "MNIST"]
        words += ["--out", str(tmp_path / out)]
        assert cli.main(["assets", "checkpoints", *words]) == 0
        folder = tmp_path / out / "task-arithmetic" / "ViT-B-32"
        source = families.read_manifest(folder)["sources"]["MNIST.safetensors"]["sha256"]
        assert source == file_sha256(expert)
        found.append(load_file(folder / "MNIST.safetensors")["visual.proj"])
        same_size_and_time(expert, second)
    assert not torch.equal(*found)


def test_an_imported_file_that_was_exchanged_is_imported_again(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    family(tmp_path / "public")
    words = ["import", "task-arithmetic", str(tmp_path / "public"), "--tasks", "MNIST", "--out", str(tmp_path / "own")]
    assert cli.main(["assets", "checkpoints", *words]) == 0
    folder = tmp_path / "own" / "task-arithmetic" / "ViT-B-32"
    path = folder / "MNIST.safetensors"
    whole = path.read_bytes()
    same_size_and_time(path, whole[:-4] + bytes(b ^ 1 for b in whole[-4:]))
    with pytest.raises(FamilyError, match="sha256 .* the manifest says"):
        load_family(folder, "ViT-B-32", ["MNIST"])
    assert cli.main(["assets", "checkpoints", *words]) == 0
    assert path.read_bytes() == whole and load_family(folder, "ViT-B-32", ["MNIST"])


def test_another_data_set_of_the_same_size_and_time_has_its_own_hash_and_images(
    tmp_path: Path, settled: None, small: Callable[..., None]
) -> None:
    small(MNIST=20)
    digits = full.info("MNIST").classes
    parquet(tmp_path / "MNIST", {"train": 10, "test": 20}, digits)
    path = tmp_path / "MNIST/data/test-00000-of-00001.parquet"
    whole = path.read_bytes()
    time.sleep(0.02)
    first = np.array(full.load_split("MNIST", "test", root=tmp_path, image_size=8).labels)
    before = full.sha256("MNIST", "test", tmp_path)
    parquet(tmp_path / "other", {"train": 10, "test": 20}, digits)
    at = next(i for i in range(whole.index(b"IDAT"), len(whole)) if whole[i] not in (0, 255))
    same_size_and_time(path, whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    assert full.sha256("MNIST", "test", tmp_path) != before and len(first) == 20
    same_size_and_time(path, whole)
    assert full.sha256("MNIST", "test", tmp_path) == before


def test_facts_of_a_copy_are_read_once_by_all_processes(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "MNIST", {"test": 20}, None)
    time.sleep(0.02)
    first = Copy(tmp_path / "MNIST").facts("test")
    monkeypatch.setattr(facts, "_FACTS", {})  # a new process
    monkeypatch.setattr(Copy, "_count", lambda *_: pytest.fail("read again"))
    assert Copy(tmp_path / "MNIST").facts("test") == first == (20, first[1])


def test_a_changed_pixel_at_the_end_of_a_file_changes_the_hash_of_nyuv2(tmp_path: Path, settled: None) -> None:
    for part in nyuv2.PARTS:
        (tmp_path / "val" / part).mkdir(parents=True)
        np.save(tmp_path / "val" / part / "0.npy", np.zeros((40, 40, 3)))
    data = nyuv2.Nyuv2(tmp_path, {"val": 1}, (40, 40))
    time.sleep(0.02)
    before = nyuv2.fingerprint(data, "test", "normal")
    assert nyuv2.fingerprint(data, "test", "normal") == before
    path = tmp_path / "val" / "normal" / "0.npy"
    whole = path.read_bytes()
    same_size_and_time(path, whole[:-1] + b"\x01")
    assert nyuv2.fingerprint(data, "test", "normal") != before


def test_another_table_of_glue_within_one_process_has_its_own_hash(tmp_path: Path, settled: None) -> None:
    path = tmp_path / "cola" / "validation-0.parquet"
    path.parent.mkdir()
    path.write_bytes(b"first ")
    time.sleep(0.02)
    before = glue.fingerprint(tmp_path, "CoLA", "test")
    same_size_and_time(path, b"second")
    assert glue.fingerprint(tmp_path, "CoLA", "test") != before


def test_code_of_the_same_size_and_time_has_its_own_version(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def mine(experts):\n    return 1\n")
    before = method_version(path, "mine")
    same_size_and_time(path, path.read_bytes().replace(b"1", b"2"))
    assert method_version(path, "mine") != before


@pytest.mark.parametrize("name", ["merged.safetensors", "adapted.safetensors"])
def test_a_study_refuses_a_file_that_is_not_the_one_its_run_saved(name: str, tmp_path: Path) -> None:
    bench = TinyBench(symerge={"steps": 2, "batch_size": 8})
    store = Store(tmp_path)
    run(bench, store, "symerge")
    record = store.load(only(bench, "symerge").spec)
    assert record is not None
    read = merged_file if name == "merged.safetensors" else adapted_file
    assert read(record, store).is_file()
    path = store.folder(record.spec) / name
    whole = path.read_bytes()
    same_size_and_time(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{name} is not the file that the run symerge saved"):
        read(record, store)


def test_weaker_experts_are_made_again_for_other_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def save(path: Path, *more: Any) -> None:
        made.append(path)
        save_state(path, *more)

    encoder = SimpleNamespace(state_dict=lambda: {"w": torch.zeros(2)})
    monkeypatch.setattr(quality.finetune, "finetune", lambda *_, **__: (encoder, None))
    monkeypatch.setattr(quality, "save_state", save)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    split = ImageSplit(images, np.arange(4) % 2, ["a", "b"])
    bench: Any = SimpleNamespace(
        experts=lambda: SimpleNamespace(base={}, copy_head=lambda task: None),
        source=lambda task, part: SimpleNamespace(split=split),
        suite=SimpleNamespace(name="vision-mini-8", scale="mini"),
        tasks={"MNIST": None},
        backbone="ViT-mini",
        checkpoints={"base.safetensors": "0", "heads/MNIST.safetensors": "1"},
    )
    for pixel, times in ((0, 1), (0, 1), (9, 2), (9, 2)):
        images[0, 0, 0, 0] = pixel
        quality.weak_experts(bench, expert_steps=1, label_noise=None, weak=None)
        assert len(made) == times
