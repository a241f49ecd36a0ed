"""A real full disk, a real read-only folder, a clock that goes backwards, memory that runs out."""

from __future__ import annotations

import datetime
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forks import output
from helpers.lacking import lacks
from helpers.tiny import TinyBench, run

import methods
from benchmark.cli import main as cli
from benchmark.harness import recording
from benchmark.records.store import Store
from methods.api import Experts, Merged


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs the tiny bench, whatever suite is named."""
    monkeypatch.setattr("benchmark.suites.open_bench", lambda suite, **keywords: TinyBench())


def command(folder: Path) -> int:
    return cli.main(
        ["run", "--suite", "vision-mini-8", "--results", str(folder), "--methods", "ties", "emr", "task_arithmetic"]
    )


def scores(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in folder.glob("tiny/*/*/record.json")]
    return {record["variant"]: record["tasks"] for record in found if record["status"] == "done"}


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(lacks(f"cannot mount here: {done.stderr.strip()}", "root, with the right to mount"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.timeout(3600)
def test_a_disk_that_fills_at_any_point_loses_nothing(disk: Path, tmp_path: Path, count: Any) -> None:
    assert output(lambda: command(tmp_path / "whole"))[0] == 0
    whole, stopped, sizes = scores(tmp_path / "whole"), 0, range(8, 800, 24)
    for size in sizes:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        status, said = output(lambda: command(disk / "results"))
        assert status in (0, 2) and "Traceback" not in said, said
        if status == 2:
            stopped += 1
            assert "error: cannot write" in said and "the disk is full" in said and "Free some space" in said, said
        before = scores(disk / "results")
        assert all(whole[name] == tasks for name, tasks in before.items())
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert output(lambda: command(disk / "results"))[0] == 0
        assert scores(disk / "results") == whole
        shutil.rmtree(disk / "results")
    assert stopped
    count("sizes of disk", len(sizes))
    count("of them too small, said so and finished with more room", stopped)


def test_a_read_only_file_system_is_named_and_boards_are_still_read(tmp_path: Path, count: Any) -> None:
    folder = tmp_path / "results"
    assert output(lambda: command(folder))[0] == 0
    mount("--bind", str(folder), str(folder))
    try:
        mount("-o", "remount,ro,bind", str(folder))
        status, said = output(lambda: command(folder))
        compared, table = output(
            lambda: cli.main(["compare", "ties", "emr", "--suite", "tiny", "--results", str(folder)])
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert status == 2 and "error: cannot write" in said and "Traceback" not in said, said
    assert compared == 0 and "wins" in table
    count("refused", 1)


def test_a_clock_that_goes_backwards_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Any
) -> None:
    texts = ("symerge", "ties", "emr", "task_arithmetic")
    whole = {r.run_id: r.tasks for r in run(TinyBench(), Store(tmp_path / "whole"), *texts)}
    readings = []

    def back() -> str:
        readings.append(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) - datetime.timedelta(hours=len(readings)))
        return readings[-1].isoformat(timespec="milliseconds")

    monkeypatch.setattr(recording, "now", back)
    bench, store = TinyBench(), Store(tmp_path / "back")
    first = run(bench, store, *texts)
    opened = bench.opened
    assert {r.run_id: r.tasks for r in first} == whole and all(r.status == "done" for r in first)
    assert all(v is None or v >= 0 for r in first for v in (r.cost.merge_seconds, r.cost.evaluate_seconds))
    run(bench, store, *texts)
    assert bench.opened == opened, "the same command runs nothing"
    forced = run(bench, store, *texts, force=True)
    assert {r.run_id: r.tasks for r in forced} == whole and bench.opened == 2 * opened
    count("readings of the clock, each an hour before the last", len(readings))


def _greedy(experts: Experts, **keywords: Any) -> Merged:
    kept = []
    while True:
        kept.append(torch.ones(1 << 24))


def test_a_method_that_takes_all_memory_is_recorded_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Any
) -> None:
    monkeypatch.setattr(methods.get("ties"), "function", _greedy)

    def work() -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
        return command(tmp_path)

    status, said = output(work)
    assert status == 1 and "failed: ties on tiny: out of memory" in said and "Traceback" not in said, said
    assert set(scores(tmp_path)) == {"pretrained", "individual", "emr", "task_arithmetic"}
    count("recorded", 1)
