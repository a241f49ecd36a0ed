"""Nothing is decoded twice, and nothing normalised more often than it is used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import run

from benchmark import suites
from benchmark.domains.vision import bench as bench_module
from benchmark.domains.vision import embedded as vision
from benchmark.harness.judging import PROBES
from benchmark.records.store import Store

TWO = ["FashionMNIST", "MNIST"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Counter[Any]]:
    """How often each split is decoded, and how many images are read and then normalised."""
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    seen: dict[str, Counter[Any]] = {"decoded": Counter(), "read": Counter()}
    decode, stored = vision._decode, bench_module.ImageSource.stored

    def decodes(path: Path, about: vision.TaskInfo, split: str) -> Any:
        seen["decoded"][about.name, split] += 1
        return decode(path, about, split)

    def reads(source: Any, index: Any) -> Any:
        seen["read"]["images"] += len(index)
        return stored(source, index)

    monkeypatch.setattr(vision, "_decode", decodes)
    monkeypatch.setattr(bench_module.ImageSource, "stored", reads)
    return seen


def bench() -> Any:
    return suites.open_bench(suites.load("vision-mini-8").model_copy(update={"tasks": TWO, "overrides": {}}))


def test_every_split_is_decoded_once_for_all_methods_and_commands(
    counted: dict[str, Counter[Any]], tmp_path: Path
) -> None:
    for attempt in ("first", "second"):
        texts = ("weight_average", "ties", "task_arithmetic:scale=val", "symerge:steps=1")
        records = run(bench(), Store(tmp_path / attempt), *texts)
        assert all(record.status == "done" for record in records)
    assert counted["decoded"] == {(task, split): 1 for task in TWO for split in ("test", "validation")}


def test_an_evaluation_reads_every_image_once(counted: dict[str, Counter[Any]], tmp_path: Path) -> None:
    records = run(bench(), Store(tmp_path / "results"), "ties")
    images = sum(result.n for record in records for result in record.tasks.values())
    # On some of each task it is seen whether ``individual``, whose tasks have encoders of their own, needs the task id.
    assert counted["read"]["images"] == images + 2 * PROBES == 3 * 2 * 750 + 2 * PROBES


def test_adaptation_reads_what_it_draws_and_each_sample_once_for_its_expert(
    counted: dict[str, Counter[Any]], tmp_path: Path
) -> None:
    run(bench(), Store(tmp_path / "results"), "ties")
    before = counted["read"]["images"]
    record = run(bench(), Store(tmp_path / "results"), "symerge:steps=3,batch_size=300")[-1]
    evaluated = sum(result.n for result in record.tasks.values())
    drawn = record.cost.images_drawn
    assert drawn == 3 * 2 * 300 > 2 * 750
    # One more of each task is looked at to choose how many fit into memory at once.
    assert counted["read"]["images"] - before == evaluated + drawn + 2 * (750 + 1)
