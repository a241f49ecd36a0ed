"""A full vision suite runs on the user's folders: checkpoints of one family, and that family's data."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.towers import tiny, write_family

from benchmark import suites
from benchmark.common.errors import UserError
from benchmark.domains.vision import bench as vision
from benchmark.domains.vision.backbones import BACKBONES
from benchmark.domains.vision.embedded import ImageSplit
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records.store import Store

FULL = ("vision-8", "vision-14", "vision-20")


class FakeData:
    """Data sets of random images under the names and signatures of ``benchmark.domains.vision.public``."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def data_root(self, root: Any = None) -> Path:
        return Path(root or "nowhere")

    def info(self, task: str, family: str | None = None) -> Any:
        count = 4 if (task, family) == ("EMNIST", "fusionbench") else 3
        return types.SimpleNamespace(classes=[f"{task} {i}" for i in range(count)])

    def sha256(self, task: str, split: str, root: Any = None, family: str | None = None) -> str:
        self.asked.append(("sha256", task, split, root, family))
        return f"{len(task):064x}"

    def split_notes(self, tasks: list[str], root: Any = None, family: str | None = None) -> list[str]:
        return []

    def load_split(
        self, task: str, split: str, *, root: Any, image_size: int, family: str | None, limit: int | None
    ) -> ImageSplit:
        assert limit is None
        self.asked.append(("load", task, split, root, image_size, family))
        generator = np.random.default_rng(len(task))
        images = generator.integers(0, 256, (9, image_size, image_size, 3), dtype=np.uint8)
        return ImageSplit(images, generator.integers(0, 3, 9), self.info(task, family).classes)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> FakeData:
    made = FakeData()
    monkeypatch.setattr(vision, "full", made)
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    return made


def family(root: Path, data: FakeData, name: str, suite: str = "vision-8", **more: object) -> Path:
    classes = {task: data.info(task, name).classes for task in suites.load(suite).tasks}
    return write_family(root / name / "ViT-B-32", BACKBONES["ViT-B-32"], classes, name, **more)


def test_the_three_suites_hold_the_papers_tasks_backbones_and_families() -> None:
    eight, fourteen, twenty = (suites.load(name) for name in FULL)
    assert [len(s.tasks) for s in (eight, fourteen, twenty)] == [8, 14, 20]
    assert twenty.tasks[:14] == fourteen.tasks and fourteen.tasks[:8] == eight.tasks
    assert set(eight.tasks) == {"SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "MNIST", "DTD"}
    for suite in (eight, fourteen, twenty):
        assert suite.scale == "full" and suite.backbones == ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
        assert set(suite.families) <= {"task-arithmetic", "tall", "tint", "fusionbench", "local"}
    assert "task-arithmetic" in eight.families and "task-arithmetic" not in twenty.families  # eight experts only


@pytest.mark.parametrize("name", FULL)
def test_every_method_a_full_suite_names_exists_with_those_keywords(name: str) -> None:
    import methods
    from benchmark.records.spec import parse_method, resolve_parameters

    suite = suites.load(name)
    for text in suite.methods:
        method, given = parse_method(text)
        about = methods.describe(method)
        defaults = suite.defaults(method, about.parameters)
        about.access_for(resolve_parameters(method, given, defaults))
    steps = {m: suite.defaults(m, methods.describe(m).parameters)["steps"] for m in ("symerge", "adamerging")}
    assert steps == {"symerge": 500, "adamerging": 500}


def test_a_full_suite_runs_from_the_users_folders(data: FakeData, tmp_path: Path) -> None:
    family(tmp_path / "checkpoints", data, "tall")
    bench = suites.open_bench(
        suites.load("vision-8"), family="tall", data_root=tmp_path / "data", checkpoints=tmp_path / "checkpoints"
    )
    runs = plan(bench, ["ties", "symerge:steps=1"], seeds=[0])
    records = execute(runs, bench, Store(tmp_path / "results"), Options())
    assert [r.status for r in records] == ["done"] * 4 and all(len(r.tasks) == 8 for r in records)
    assert {r.spec.family for r in records} == {"tall"} and len(records[0].spec.checkpoints) == 17
    assert str(tmp_path) not in records[0].model_dump_json()
    assert ("load", "SVHN", "test", tmp_path / "data", 64, "tall") in data.asked


def test_checkpoints_lie_where_the_variable_says(
    data: FakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family(tmp_path, data, "task-arithmetic")
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path))
    assert suites.open_bench(suites.load("vision-8")).family == "task-arithmetic"


def test_the_data_set_is_the_one_that_the_familys_experts_know(data: FakeData, tmp_path: Path) -> None:
    for name, count in (("fusionbench", 4), ("tall", 3)):
        family(tmp_path, data, name, "vision-20")
        bench = suites.open_bench(suites.load("vision-20"), family=name, checkpoints=tmp_path)
        assert bench.meter("EMNIST").classes == count  # type: ignore[attr-defined]
        assert ("sha256", "EMNIST", "test", None, name) in data.asked


def test_families_are_never_mixed(data: FakeData, tmp_path: Path) -> None:
    family(tmp_path, data, "tall").parent.rename(tmp_path / "task-arithmetic")
    with pytest.raises(UserError, match="holds the family 'tall'; asked for 'task-arithmetic'.*type --family tall"):
        suites.open_bench(suites.load("vision-8"), family="task-arithmetic", checkpoints=tmp_path)


def test_missing_checkpoints_name_the_command_that_imports_them(data: FakeData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tall/ViT-B-32/manifest.json does not exist.*assets checkpoints import"):
        suites.open_bench(suites.load("vision-8"), family="tall", checkpoints=tmp_path)


def test_a_head_with_another_number_of_classes_than_the_data_is_refused(data: FakeData, tmp_path: Path) -> None:
    family(tmp_path, data, "fusionbench", "vision-20")
    (tmp_path / "fusionbench").rename(tmp_path / "tall")
    manifest = tmp_path / "tall/ViT-B-32/manifest.json"
    manifest.write_text(manifest.read_text().replace('"fusionbench"', '"tall"'))
    with pytest.raises(UserError, match=r"heads/EMNIST.safetensors: weight is \[4, 16\], expected \[3, 16\]"):
        suites.open_bench(suites.load("vision-20"), family="tall", checkpoints=tmp_path)


def test_an_embedded_suite_takes_no_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vision-mini-8 is embedded: --data-root and --checkpoints change nothing"):
        suites.open_bench(suites.load("vision-mini-8"), data_root=tmp_path, checkpoints=tmp_path)
