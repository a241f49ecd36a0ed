"""The plan on several Ray nodes of this machine: the same records, nothing lost or done twice, whatever dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import cluster_benches
from helpers.cluster_benches import RUNS, Tiny, opened, results, tasks
from helpers.lacking import lacks_package
from helpers.tiny import TinyBench, run

from benchmark.cli import main as cli
from benchmark.executors import cluster, nodes
from benchmark.harness.job import Options
from benchmark.records.store import Store

pytest.importorskip("ray", reason=lacks_package("Ray", "cluster"))

TESTS = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Two Ray nodes of one core each; a test adds a third. Workers find the tests' benches on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        started = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
        started.add_node(**SMALL)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def connected(machines: Any) -> Iterator[Any]:
    with cluster.connected(machines.address) as ray:
        yield ray


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The results of the tiny plan in this process."""
    folder = tmp_path_factory.mktemp("whole")
    run(TinyBench(), Store(folder), *cluster_benches.METHODS, seeds=cluster_benches.SEEDS)
    assert len(results(folder)) == RUNS
    return results(folder)


def execute(ray: Any, folder: Path, plan: list[cluster.Task]) -> dict[str, Any]:
    return cluster.execute(plan, Store(folder), Options(), ray, nodes.environment(True, 1))


def wait_for(what: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_records_are_those_of_this_process_and_the_same_command_does_nothing_again(
    connected: Any, tmp_path: Path, whole: dict
) -> None:
    journal = tmp_path / "journal"
    made = execute(connected, tmp_path / "results", tasks(Tiny(journal=journal)))
    assert results(tmp_path / "results") == whole
    assert len(made) == RUNS == opened(journal)
    assert not list((tmp_path / "results").glob(".cluster-*"))
    execute(connected, tmp_path / "results", tasks(Tiny(journal=journal)))
    assert opened(journal) == RUNS


def test_without_a_shared_folder_records_and_adapted_layers_come_back(
    connected: Any, tmp_path: Path, whole: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def elsewhere(store: Store) -> Iterator[cluster.Folder]:
        yield cluster.Folder(tmp_path / "not here", ".mark", "token")

    monkeypatch.setattr(cluster, "_marked", elsewhere)
    made = execute(connected, tmp_path, tasks(Tiny(), ["symerge", "ties"], [0]))
    found = results(tmp_path)
    assert found == {name: whole[name] for name in found} and len(found) == 4
    layers = [p.parent.name for p in tmp_path.rglob("adapted.safetensors")]
    assert layers == [record.run_id for record in made.values() if record.spec.method == "symerge"]
    assert not list(tmp_path.rglob("merged.safetensors"))


def test_a_node_that_dies_in_mid_run_costs_nothing_and_no_run_is_done_twice(
    machines: Any, connected: Any, tmp_path: Path, whole: dict, capfd: pytest.CaptureFixture
) -> None:
    doomed = machines.add_node(**SMALL)
    journal, folder = tmp_path / "journal", tmp_path / "results"
    hold = tmp_path / "hold"
    hold.touch()
    plan = tasks(Tiny(journal=journal, hold=hold))
    killed = []

    class Killing(cluster._Driver):
        def tell(self) -> None:
            busy = [task for task in self.flying.values() if task.node == self.names.get(doomed.node_id, "none")]
            if busy and not killed:
                # Each of the three nodes has a run that has opened its experts and waits for its data.
                wait_for(lambda: len(list(tmp_path.glob("held-*"))) == 3)
                machines.remove_node(doomed, allow_graceful=False)
                # Its worker may outlive it for a moment, and would go on.
                wait_for(lambda: sum(alive(int(path.name[5:])) for path in tmp_path.glob("held-*")) == 2)
                killed.extend(busy)
                hold.unlink()
            super().tell()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_Driver", Killing)
        execute(connected, folder, plan)
    assert killed and results(folder) == whole
    assert opened(journal) == RUNS + 1
    assert f"{killed[0].job.variant}: lost on " in capfd.readouterr().err


def alive(process: int) -> bool:
    """Whether it is there, and no more than a name that waits for its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def statuses(folder: Path) -> dict[str, str]:
    return {p.parent.name: json.loads(p.read_text())["status"] for p in folder.glob("*/*/*/record.json")}


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_each_time_fails_alone_after_its_tries(
    connected: Any, tmp_path: Path, whole: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system's, or Ray's, memory monitor ends a process."""
    monkeypatch.setattr(cluster, "RETRIES", 1)
    plan = tasks(Tiny(), ["ties", "task_arithmetic"], [0])
    (victim,) = (task for task in plan if task.job.variant == "ties")
    victim.opening = Tiny(journal=tmp_path / "journal", deadly=True)
    made = execute(connected, tmp_path / "results", plan)
    record = made[victim.job.spec.run_id]
    assert record.status == "failed" and record.error is not None
    assert record.error.type == "WorkerDied" and "lost twice" in record.error.message
    assert opened(tmp_path / "journal") == 2
    assert results(tmp_path / "results").keys() == {"pretrained None", "individual None", "task_arithmetic None"}
    victim.opening, victim.lost = Tiny(), 0
    execute(connected, tmp_path / "results", plan)
    assert results(tmp_path / "results")["ties None"] == whole["ties None"]


def test_ctrl_c_keeps_what_is_done_and_lets_running_runs_write_down_how_far_they_are(
    connected: Any, tmp_path: Path, whole: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(cluster._Driver):
        def tell(self) -> None:
            # Workers in step end together: one that has just begun is still at work when the news arrives.
            deadline = time.monotonic() + 0.5
            while "done" in statuses(tmp_path).values() and time.monotonic() < deadline:
                begun = {task.job.spec.run_id for task in self.flying.values() if task.node}
                read = (json.loads(path.read_text()) for path in tmp_path.glob("*/*/*/record.json"))
                if any(r["run_id"] in begun and r["status"] == "running" and not r["tasks"] for r in read):
                    raise KeyboardInterrupt
                time.sleep(0.02)

    monkeypatch.setattr(cluster, "_Driver", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(connected, tmp_path, tasks(Tiny(pause=1.0)))
    deadline = time.monotonic() + 20  # for a worker whose beginning was not heard of yet
    while "running" in statuses(tmp_path).values() and time.monotonic() < deadline:
        time.sleep(0.1)
    kept, found = results(tmp_path), set(statuses(tmp_path).values())
    assert found == {"done", "incomplete"} and kept.items() < whole.items()
    assert not list(tmp_path.glob(".cluster-*"))
    monkeypatch.undo()
    execute(connected, tmp_path, tasks(Tiny()))
    assert results(tmp_path) == whole


@pytest.mark.slow
def test_what_a_killed_driver_had_is_kept_and_the_next_one_does_the_rest(
    machines: Any, connected: Any, tmp_path: Path, whole: dict
) -> None:
    folder, journal = tmp_path / "results", tmp_path / "journal"
    command = [sys.executable, cluster_benches.__file__, machines.address, str(tmp_path), "0.2"]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "TQDM_DISABLE": "1"})
    wait_for(lambda: {"done", "running"} <= set(statuses(folder).values()))
    driver.send_signal(signal.SIGKILL)
    driver.wait(60)
    known, before = results(folder), opened(journal)
    assert known.items() < whole.items() and before < RUNS
    execute(connected, folder, tasks(Tiny(journal=journal)))
    assert results(folder) == whole
    # Its workers may have ended one more run before Ray took them away.
    assert RUNS - len(known) - 2 <= opened(journal) - before <= RUNS - len(known)


@pytest.mark.slow
def test_the_command_on_nodes_that_share_nothing_prints_the_same_board(
    machines: Any, connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["run", "--suite", "vision-mini-8", "--methods", "weight_average", "--threads", "1", "--results"]
    assert cli.main([*words, str(tmp_path / "here")]) == 0
    here = capsys.readouterr().out

    @contextlib.contextmanager
    def elsewhere(store: Store) -> Iterator[cluster.Folder]:
        yield cluster.Folder(tmp_path / "not here", ".mark", "token")

    monkeypatch.setattr(cluster, "_marked", elsewhere)
    real = nodes.look
    monkeypatch.setattr(nodes, "look", lambda *given: [replace(node, same=False) for node in real(*given)])
    connected.shutdown()
    try:
        assert cli.main([*words, str(tmp_path / "ray"), "--executor", "ray", "--address", machines.address]) == 0
    finally:
        cluster.join(connected, machines.address)
    assert capsys.readouterr().out == here
    assert results(tmp_path / "ray") == results(tmp_path / "here")
    records = [Store(tmp_path / name, read_only=True).all() for name in ("here", "ray")]
    assert [r.provenance.commit for r in records[0]] == [r.provenance.commit for r in records[1]]
    # One copy of the code for all nodes of this machine, not one a run.
    session = Path(connected._private.worker.global_worker.node.get_session_dir_path())
    copies = [p for p in session.glob("runtime_resources/working_dir_files/*") if p.is_dir()]
    assert len(copies) == 1 and sorted(p.name for p in copies[0].iterdir()) == ["benchmark", "methods"]
