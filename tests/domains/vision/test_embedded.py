"""The loader of the embedded vision tasks: what it gives, what it refuses, and that its cache survives anything."""

import hashlib
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from benchmark.domains.vision import embedded as vision


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vision"


@pytest.fixture
def copy(tmp_path):
    """A data folder with one task of which files may be spoiled."""
    root = tmp_path / "data"
    shutil.copytree(vision.MINI / "OptDigits", root / "OptDigits")
    manifest = vision.manifest()
    text = json.dumps({**manifest, "tasks": {"OptDigits": manifest["tasks"]["OptDigits"]}})
    (root / "manifest.json").write_text(text, encoding="utf-8")
    return root


def test_suites_are_prefixes_of_one_order():
    eight, fourteen, twenty = (vision.tasks(f"vision-mini-{n}") for n in (8, 14, 20))
    assert twenty[:14] == fourteen and fourteen[:8] == eight
    assert (len(eight), len(fourteen), len(twenty)) == (8, 14, 20)


@pytest.mark.parametrize("task", vision.tasks())
def test_a_task_is_what_the_manifest_says(task):
    about = vision.info(task)
    seen: set[bytes] = set()
    total = 0
    for split in vision.SPLITS:
        data = vision.load_split(task, split)
        assert data.images.shape == (about.counts[split], *about.shape) and data.images.dtype == np.uint8
        assert data.labels.dtype == np.int64 and set(np.unique(data.labels)) == set(range(len(about.classes)))
        seen |= {image.tobytes() for image in data.images}
        total += len(data)
    assert len(seen) == total, "an image stands in two splits, or twice in one"
    assert len(set(about.classes)) == len(about.classes)
    assert 3 <= len(about.templates) <= 5 and all(t.count("{}") == 1 for t in about.templates)


def test_images_are_mapped_and_read_only():
    images = vision.load_split("OptDigits", "test").images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError):
        images[0] = 0


def test_parquet_names_its_classes_for_the_datasets_library(tmp_path):
    import datasets

    path = str(vision.MINI / "EmojiGroup" / "validation.parquet")
    table = datasets.load_dataset("parquet", data_files={"validation": path}, cache_dir=str(tmp_path))["validation"]
    assert table.features["label"].names == vision.info("EmojiGroup").classes
    own = vision.load_split("EmojiGroup", "validation")
    assert np.array_equal(np.asarray(table[3]["image"]), own.images[3]) and table[3]["label"] == own.labels[3]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(vision.DataError, match="unknown task 'MINST'.*MNIST"):
        vision.info("MINST")
    with pytest.raises(vision.DataError, match="no split 'val'.*validation"):
        vision.load_split("MNIST", "val")
    with pytest.raises(vision.DataError, match="vision-mini-9.*vision-mini-14"):
        vision.tasks("vision-mini-9")


def test_a_truncated_file_is_refused(copy):
    path = copy / "OptDigits" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(vision.DataError, match=r"test.parquet has \d+ bytes, the manifest says \d+.*git checkout"):
        vision.load_split("OptDigits", "test", copy)


def test_changed_bytes_are_refused(copy):
    path = copy / "OptDigits" / "test.parquet"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(vision.DataError, match=f"sha256 {hashlib.sha256(blob).hexdigest()}.*manifest says"):
        vision.load_split("OptDigits", "test", copy)


def test_a_missing_file_is_refused_even_if_cached(copy):
    vision.load_split("OptDigits", "test", copy)
    (copy / "OptDigits" / "test.parquet").unlink()
    with pytest.raises(vision.DataError, match="test.parquet is missing.*git checkout"):
        vision.load_split("OptDigits", "test", copy)


@pytest.mark.parametrize("spoil", ["classes", "count", "arrays"])
def test_a_manifest_that_disagrees_with_the_file_is_refused(copy, spoil):
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    task = manifest["tasks"]["OptDigits"]
    if spoil == "classes":
        task["classes"].reverse()
    elif spoil == "count":
        task["splits"]["test"]["n"] += 1
    else:
        task["splits"]["test"]["arrays_sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(vision.DataError, match="manifest"):
        vision.load_split("OptDigits", "test", copy)


def test_a_damaged_or_half_written_cache_is_built_again(cache):
    first = np.array(vision.load_split("OptDigits", "test").images)
    for path in sorted(cache.iterdir()):
        blob = path.read_bytes()
        for damaged in (blob[: len(blob) // 2], blob[:-1] + bytes([blob[-1] ^ 1]), b""):
            path.write_bytes(damaged)
            assert np.array_equal(vision.load_split("OptDigits", "test").images, first)
            assert path.read_bytes() == blob


def _load(_: int) -> str:
    split = vision.load_split("OptDigits", "validation")
    return vision.arrays_sha256(split.images, split.labels)


def test_processes_that_build_the_cache_at_once_all_get_the_data(cache):
    with multiprocessing.get_context("fork").Pool(6) as pool:
        found = pool.map(_load, range(12), chunksize=1)
    assert set(found) == {vision.info("OptDigits").arrays_sha256["validation"]}
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".npy", ".npy"], "temporary files were left behind"


def test_a_failed_write_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        vision.load_split("OptDigits", "test")
    assert list(cache.iterdir()) == []
    monkeypatch.undo()


def test_no_rendered_task_tests_a_family_it_trains_on():
    rendered = [t for t in vision.tasks() if "families" in vision.info(t).meta]
    assert len(rendered) == 13
    for task in rendered:
        families = vision.info(task).meta["families"]
        for held in ("validation", "test"):
            assert families[held] and not set(families[held]) & set(families["train"]), (task, held)


def test_rendered_tasks_are_no_linear_problem_and_every_card_has_its_sheet():
    cards = (vision.MINI / "README.md").read_text(encoding="utf-8")
    for task in vision.tasks():
        meta = vision.info(task).meta
        assert "families" not in meta or meta["test_scores"]["linear_probe"] < 0.5
        assert f"## {task}\n" in cards and f"sheets/{task}.png" in cards
        assert (vision.MINI / "sheets" / f"{task}.png").is_file()


def test_embedded_assets_stay_within_their_quota():
    """All suites together: 80 MB of data and weights, vision's data 26 MB of them."""
    weights = vision.MINI.parents[1] / "models" / "mini"
    of_vision = [vision.MINI / task for task in vision.tasks()] + [vision.MINI / "sheets"]
    assert _size(*of_vision) < 26e6 and _size(vision.MINI, weights) < 80e6


def _size(*folders):
    return sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
