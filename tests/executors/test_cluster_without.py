"""Around the executor on Ray, without starting it: what is asked for, what is refused, what is said without Ray."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.tiny import TinyBench, only

from benchmark import suites
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import GIB
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.executors import cluster, nodes
from benchmark.executors.nodes import Node
from benchmark.harness import provenance

ROOT = Path(__file__).parents[2]
HEAD = Node("a", "head", {"CPU": 2.0, "memory": 8 * GIB})
GPUS = Node("b", "gpus", {"CPU": 16.0, "GPU": 2.0, "memory": 64 * GIB}, gpu_bytes=24 * GIB)


def test_without_ray_the_command_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("benchmark.suites.open_bench", lambda suite, **keywords: TinyBench())
    assert (
        cli.main(
            ["run", "--suite", "vision-mini-8", "--methods", "ties", "--results", str(tmp_path), "--executor", "ray"]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "--executor ray needs Ray" in said and "pip install -e '.[cluster]'" in said


def test_an_address_where_nothing_listens_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "load_ray", lambda: SimpleNamespace(init=lambda *a, **k: pytest.fail("asked Ray")))
    monkeypatch.setattr("benchmark.suites.open_bench", lambda suite, **keywords: TinyBench())
    words = [
        "run",
        "--suite",
        "vision-mini-8",
        "--methods",
        "ties",
        "--results",
        str(tmp_path),
        "--executor",
        "ray",
        "--address",
    ]
    assert cli.main([*words, "127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert "no Ray cluster on 127.0.0.1:1" in said and "refused" in said and "ray start --head" in said


def test_a_run_in_this_process_imports_no_ray(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.path.insert(0, 'tests')\nfrom helpers.tiny import TinyBench\n"
        "from benchmark.cli import main as cli\n"
        "import benchmark.suites\n"
        "benchmark.suites.open_bench = lambda suite, **keywords: TinyBench()\n"
        f"status = cli.main(['run', '--methods', 'ties', '--results', {str(tmp_path)!r}])\n"
        "sys.exit(status or 3 * ('ray' in sys.modules or 'benchmark.executors.cluster' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "auto"], "Type --executor ray --address auto"),
        (["--executor", "ray", "--device", "cuda:1"], "Ray chooses the devices"),
        (["--executor", "ray", "--device", "cuda", "cuda"], "Ray chooses the devices"),
        (["--executor", "ray", "--rehearse"], "runs in this process"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["run", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_share_of_a_gpu_follows_the_estimated_memory() -> None:
    run = only(TinyBench(), "symerge")
    around = dry_run.setting(dry_run.Planned(suites.load("vision-mini-8"), None, None), "cuda")
    assert around is not None
    need = estimate.need("symerge", run.spec.parameters, around)
    shares = [
        cluster.demand(run, around, threads=2, gpu_bytes=need.device * factor / cluster.USABLE).gpus
        for factor in (0.5, 1.0, 2.0, 3.9, 100.0)
    ]
    assert shares == [1.0, 1.0, 0.5, 0.3, 0.05]
    found = cluster.demand(run, around, threads=2, gpu_bytes=None)
    assert (found.cpus, found.gpus) == (2, 0.0) and found.memory >= around.shapes.bytes
    longer = replace(run, spec=run.spec.model_copy(update={"parameters": {**run.spec.parameters, "steps": 4000}}))
    assert cluster.demand(longer, around, threads=1, gpu_bytes=None).weight > 2 * found.weight
    assert cluster.demand(run, None, threads=1, gpu_bytes=24 * GIB).gpus == 1.0
    assert cluster.demand(run, around, threads=1, gpu_bytes=0.0).gpus == 1.0


def test_what_no_node_has_is_said_or_refused() -> None:
    assert nodes.unmet({(2, 0.0, GIB), (16, 1.0, 60 * GIB)}, [HEAD, GPUS]) == []
    (line,) = nodes.unmet({(4, 0.5, GIB)}, [HEAD])
    assert "4 CPU cores, 0.5 GPU and 1.0 GiB" in line
    assert nodes.smallest_gpu([HEAD, GPUS]) == 24 * GIB
    with pytest.raises(UserError, match="no node of the cluster has a GPU; there are head"):
        nodes.smallest_gpu([HEAD])
    room = nodes.largest([HEAD, GPUS])
    assert (room.device, room.host, room.disk) == (24 * GIB, 64 * GIB, math.inf)


def test_nodes_that_share_a_name_are_numbered() -> None:
    listed = [{"NodeName": n, "NodeManagerAddress": n, "NodeID": i} for n, i in [("x", "2"), ("y", "3"), ("x", "1")]]
    assert nodes.names(SimpleNamespace(nodes=lambda: listed)) == {"1": "x#1", "2": "x#2", "3": "y"}


def test_workers_are_sent_code_and_data_only_where_they_do_not_see_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", "/experts")
    same, sent = nodes.environment(True, 3), nodes.environment(False, 3)
    assert same["env_vars"]["PYTHONPATH"].startswith(str(ROOT)) and "working_dir" not in same
    assert sent["working_dir"] == str(ROOT) and "/results" in sent["excludes"] and "/.git" in sent["excludes"]
    assert "/benchmark" not in sent["excludes"]
    for each in (same, sent):
        assert each["env_vars"]["SYMERGE_CHECKPOINTS"] == "/experts" and each["env_vars"]["OMP_NUM_THREADS"] == "3"


def test_a_node_is_told_apart_by_the_code_it_has(tmp_path: Path) -> None:
    probe = nodes._prober()
    for name in ("one", "two"):
        (tmp_path / name / "methods").mkdir(parents=True)
        (tmp_path / name / "methods" / "a.py").write_text("A = 1\n")
    assert probe(str(tmp_path / "one"), ["methods"], False) == probe(str(tmp_path / "two"), ["methods"], False)
    (tmp_path / "two" / "methods" / "a.py").write_text("A = 2\n")
    assert probe(str(tmp_path / "one"), ["methods"], False) != probe(str(tmp_path / "two"), ["methods"], False)


def test_a_copy_without_history_says_the_commit_it_was_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = provenance.as_variable()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv(provenance.COMMIT, "0123abc dirty")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state.__wrapped__() == ("0123abc", True)
    monkeypatch.delenv(provenance.COMMIT)
    assert provenance.git_state.__wrapped__() == (None, None)
    assert set(told) <= {provenance.COMMIT}
