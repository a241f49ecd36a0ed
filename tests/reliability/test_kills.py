"""Processes killed, interrupted and run side by side at random moments: boards are the same but for costs."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.forks import end, fork
from helpers.tiny import TinyBench, run

from benchmark.board import leaderboard
from benchmark.records.store import Store

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SYMERGE_KILLS", 50))
COMMAND_KILLS = int(os.environ.get("SYMERGE_COMMAND_KILLS", 20))
# Costs, and the commit, which a change of the working tree meanwhile would alter.
COST = ("commit", "merge_seconds", "adapt_seconds", "evaluate_seconds", "peak_anonymous_mib", "peak_cuda_mib")
COMMAND = ["run", "--suite", "vision-mini-8", "--methods", "symerge:steps=3", "ties", "--threads", "1", "--results"]


class Slow(TinyBench):
    """A pause whenever data are opened, so that a signal can fall anywhere."""

    def source(self, *arguments: Any, **keywords: Any) -> Any:
        time.sleep(0.02)
        return super().source(*arguments, **keywords)


def tiny(folder: Path) -> int:
    """Eight runs of the tiny bench and their boards, in a child."""

    def work() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        store = Store(folder)
        try:
            run(Slow(), store, "symerge", "adamerging", "ties", "task_arithmetic", seeds=(0, 1))
        except KeyboardInterrupt:
            return 130
        leaderboard.publish(store.all(), [], folder)
        return 0

    return fork(work)


def command(folder: Path) -> int:
    """The real command in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *COMMAND, str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return process.pid


def boards(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Every board's rows without their costs."""
    found = {}
    for path in sorted(folder.glob("boards/*.csv")):
        with path.open(newline="") as file:
            found[path.name] = [{k: v for k, v in row.items() if k not in COST} for row in csv.DictReader(file)]
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("*/*/*/record.json")]


def done(folder: Path) -> dict[str, Any]:
    return {r["run_id"]: r["tasks"] for r in records(folder) if r["status"] == "done"}


def moment(folder: Path) -> str:
    """What the killed process was at."""
    running = [r for r in records(folder) if r["status"] == "running"]
    if not running:
        return "between runs"
    return "evaluating" if running[0]["cost"]["merge_seconds"] is not None else "merging"


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("start", "kills"), [(tiny, KILLS), (command, COMMAND_KILLS)], ids=["tiny plan", "the command on vision-mini-8"]
)
def test_killed_at_random_moments_it_goes_on_to_the_same_boards(
    start: Callable[[Path], int], kills: int, tmp_path: Path, count: Any
) -> None:
    began = time.monotonic()
    assert end(start(tmp_path / "whole")) == 0
    length = time.monotonic() - began
    whole = boards(tmp_path / "whole")
    assert whole
    rng, killed, folders, moments, kept = random.Random(0), 0, 0, Counter[str](), 0
    while killed < kills:
        folder = tmp_path / f"folder-{folders}"
        folder.mkdir(exist_ok=True)
        before = done(folder)
        child = start(folder)
        time.sleep(rng.uniform(0.0, 0.8 * length))
        os.kill(child, signal.SIGKILL)
        status = end(child)
        now = done(folder)
        assert {name: now.get(name) for name in before} == before, f"kill {killed} lost or changed a finished run"
        if status == -signal.SIGKILL:
            killed += 1
            moments[moment(folder)] += 1
            kept += len(before)
        if status == 0 or rng.random() < 0.3:
            assert end(start(folder)) == 0
            assert boards(folder) == whole
            assert not list(folder.rglob(".writing-*"))
            folders += 1
    assert end(start(tmp_path / f"folder-{folders}")) == 0
    assert boards(tmp_path / f"folder-{folders}") == whole
    count("kills", killed)
    for what, times in sorted(moments.items()):
        count(what, times)
    count("finished runs that a kill could have lost", kept)
    count("boards compared", folders + 1)


@pytest.mark.timeout(1800)
def test_interrupted_at_random_moments_it_says_so_and_goes_on(tmp_path: Path, count: Any) -> None:
    assert end(tiny(tmp_path / "whole")) == 0
    whole, rng, stopped, folders = boards(tmp_path / "whole"), random.Random(1), 0, 0
    while stopped < 20:
        folder = tmp_path / f"folder-{folders}"
        folder.mkdir(exist_ok=True)
        child = tiny(folder)
        time.sleep(rng.uniform(0.1, 0.8))
        os.kill(child, signal.SIGINT)
        status = end(child)
        assert status in (0, 130, -signal.SIGINT), status
        stopped += status != 0
        assert not [r for r in records(folder) if r["status"] == "running"] or status == -signal.SIGINT
        if status == 0 or rng.random() < 0.3:
            assert end(tiny(folder)) == 0
            assert boards(folder) == whole
            folders += 1
    count("interrupts", stopped)
    count("boards compared", folders)


@pytest.mark.timeout(1800)
def test_processes_at_once_do_every_run_once(tmp_path: Path, count: Any) -> None:
    assert end(tiny(tmp_path / "whole")) == 0
    whole, rng = boards(tmp_path / "whole"), random.Random(2)
    for attempt in range(10):
        folder = tmp_path / f"folder-{attempt}"
        folder.mkdir()
        children = []
        for _ in range(rng.choice((2, 3))):
            children.append(tiny(folder))
            time.sleep(rng.uniform(0, 0.2))
        if attempt % 2:
            os.kill(children[0], signal.SIGKILL)
            assert end(children.pop(0)) in (0, -signal.SIGKILL)
        assert [end(child) for child in children] == [0] * len(children)
        assert boards(folder) == whole
    count("times two or three processes shared a folder", 10)
    count("of them with one killed", 5)
