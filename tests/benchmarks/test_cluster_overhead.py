"""What Ray adds to a plan: its start, a worker's start, and then to each run. ./run_all.sh --bench -k overhead -s"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")

TESTS = Path(__file__).parents[1]
MANY = range(30)


def test_overhead_of_a_run_on_ray(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run at a time on one worker beside the same plan in this process, on the tiny bench."""
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    import torch
    from cluster_benches import Tiny, tasks

    from benchmark import cluster, nodes, runner
    from benchmark.store import Store

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
        runs = [task.run for task in plan]
        return clock(lambda: runner.execute(runs, plan[0].bench, Store(tmp_path / folder), runner.Options()))

    here(few, "warm")
    alone = here(many, "here")
    began = time.perf_counter()
    with cluster.connected(None) as ray:
        environment = nodes.environment(True, 1)
        start = time.perf_counter() - began

        def there(plan: list[cluster.Task], folder: str) -> float:
            store, options = Store(tmp_path / folder), runner.Options()
            return clock(lambda: cluster.execute(plan, store, options, ray, environment))

        first = there(few, "first")
        spread = there(many, "ray")
    run = (spread - alone) / len(many)
    benchmark.extra_info.update(start_s=start, worker_s=first, here_s=alone, ray_s=spread, per_run_s=run)
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        f"\nRay starts in {start:.1f} s, the first worker with {len(few)} runs in {first:.1f} s; {len(many)} runs take "
        f"{alone:.2f} s here and {spread:.2f} s on one worker: {1000 * run:.0f} ms more a run",
        file=sys.stderr,
    )
