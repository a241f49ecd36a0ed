"""Benches that a Ray worker opens by name, for tests: slow, deadly or plain, with a journal of what was opened."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.executors import cluster, nodes
from benchmark.executors.cluster import Demand, Task
from benchmark.executors.worker import Opening
from benchmark.harness import runner
from benchmark.harness.job import Options
from benchmark.records.store import Store
from helpers.tiny import TinyBench

METHODS = ("symerge", "adamerging", "ties", "task_arithmetic")
SEEDS = (0, 1)
RUNS = 8


class Journaled(TinyBench):
    """The tiny bench: a line in a journal for every run that opens its experts, a pause before its data.

    Where the file ``hold`` is there, data are not given before it is gone; who waits says so beside it.
    """

    def __init__(self, journal: Path, pause: float, deadly: bool, hold: Path | None) -> None:
        super().__init__()
        self.journal, self.pause, self.deadly, self.hold = journal, pause, deadly, hold

    def experts(self) -> Any:
        with open(self.journal, "a") as file:
            file.write("opened\n")
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().experts()

    def source(self, *arguments: Any, **keywords: Any) -> Any:
        time.sleep(self.pause)
        if self.hold is not None and self.hold.exists():
            self.hold.with_name(f"held-{os.getpid()}").touch()
            while self.hold.exists():
                time.sleep(0.02)
        return super().source(*arguments, **keywords)


@dataclass(frozen=True)
class Tiny(Opening):
    """What opens it."""

    suite: str = "tiny"
    backbone: str = "tower"
    family: str = "random"
    device: str = "cpu"
    dtype: str = "float32"
    journal: Path = Path("/dev/null")
    pause: float = 0.0
    deadly: bool = False
    hold: Path | None = None

    def open(self) -> TinyBench:
        return Journaled(self.journal, self.pause, self.deadly, self.hold)


def tasks(opening: Opening, texts: Sequence[str] = METHODS, seeds: Sequence[int] = SEEDS) -> list[Task]:
    """The tiny plan, each run on one core."""
    bench = TinyBench()
    return [Task(job, bench, opening, Demand()) for job in runner.plan(bench, texts, seeds=seeds)]


def results(folder: Path) -> dict[str, dict]:
    """Per-task results of every run that is done."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/*/*/record.json")]
    return {f"{r['variant']} {r['spec']['seed']}": r["tasks"] for r in found if r["status"] == "done"}


def opened(journal: Path) -> int:
    """How often a run opened its experts."""
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def drive(address: str, folder: Path, pause: float) -> int:
    """The tiny plan on the cluster at ``address``; 130 for Ctrl-C."""
    opening = Tiny(journal=folder / "journal", pause=pause)
    try:
        with cluster.connected(address) as ray:
            options = Options()
            cluster.execute(tasks(opening), Store(folder / "results"), options, ray, nodes.environment(True, 1))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(drive(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
