"""What Ray adds to a plan: its start, a worker's start, and then to each run. ./run_all.sh --bench -k overhead -s"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.lacking import lacks_package

pytest.importorskip("ray", reason=lacks_package("Ray", "cluster"))

TESTS = Path(__file__).parents[1]
MANY = range(14)


def test_overhead_of_a_run_on_ray(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run at a time on one worker, and the same plan in this process, on the tiny bench.

    What a plan takes beyond its runs' own seconds, as their records have them, so that a busy machine weighs less.
    """
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    import torch
    from helpers.cluster_benches import Tiny, tasks

    from benchmark.executors import cluster, nodes
    from benchmark.harness import runner
    from benchmark.harness.job import Options
    from benchmark.records.store import Store

    torch.set_num_threads(1)

    def clock(what: Any) -> float:
        began = time.perf_counter()
        what()
        return time.perf_counter() - began

    few, many = tasks(Tiny(), ["ties"], [0]), tasks(Tiny(), ["dare"], MANY)
    cores = os.cpu_count() or 1
    for task in (*few, *many):
        task.demand = cluster.Demand(cpus=cores)

    def here(plan: list[cluster.Task], folder: str) -> float:
        runs = [task.job for task in plan]
        return clock(lambda: runner.execute(runs, plan[0].bench, Store(tmp_path / folder), Options()))

    here(few, "warm")
    alone = here(many, "here")
    began = time.perf_counter()
    with cluster.connected(None) as ray:
        environment = nodes.environment(True, 1)
        start = time.perf_counter() - began

        def there(plan: list[cluster.Task], folder: str) -> float:
            store, options = Store(tmp_path / folder), Options()
            return clock(lambda: cluster.execute(plan, store, options, ray, environment))

        first = there(few, "first")
        spread = there(many, "ray")
    beyond = [
        (wall - sum(map(own_seconds, Store(tmp_path / folder, read_only=True).all()))) / len(many)
        for wall, folder in ((alone, "here"), (spread, "ray"))
    ]
    benchmark.extra_info.update(start_s=start, worker_s=first, here_s=beyond[0], ray_s=beyond[1])
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        f"\nRay starts in {start:.1f} s; its first worker with {len(few)} runs takes {first:.1f} s; of "
        f"{len(many)} further runs each takes {1000 * beyond[0]:.0f} ms beyond its own seconds here, "
        f"{1000 * beyond[1]:.0f} ms on Ray",
        file=sys.stderr,
    )


def own_seconds(record: Any) -> float:
    """From the record's start to its end."""
    began, ended = (datetime.datetime.fromisoformat(text) for text in (record.started, record.finished))
    return float((ended - began).total_seconds())
