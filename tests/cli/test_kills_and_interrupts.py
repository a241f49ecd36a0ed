"""Kills, interrupts and two processes at once: nothing computed is lost, nothing is done twice, scores are the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forks import end, fork
from helpers.tiny import TinyBench, run
from safetensors.torch import load_file, save_file

from benchmark import suites
from benchmark.checkpoints import families
from benchmark.common.errors import UserError
from benchmark.harness import runner
from benchmark.records.store import Store

RUNS = 8
ROOT = Path(__file__).parents[2]


class Slow(TinyBench):
    """The tiny bench with a moment's pause whenever data are opened, so that a signal can fall anywhere."""

    pause = 0.02

    def source(self, *arguments: Any, **keywords: Any) -> Any:
        time.sleep(self.pause)
        return super().source(*arguments, **keywords)


def start(folder: Path, pause: float = 0.02) -> int:
    """The tiny plan in a process of its own; its id. It writes ``merged-PID``, how many merges it made."""

    def work() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        bench, merged, merge = Slow(), [], runner.merge
        bench.pause = pause
        runner.merge = lambda *arguments: merged.append("one") or merge(*arguments)  # type: ignore[func-returns-value]
        try:
            run(bench, Store(folder), "symerge", "adamerging", "ties", "task_arithmetic", seeds=(0, 1))
        except KeyboardInterrupt:
            return 130
        (folder / f"merged-{os.getpid()}").write_text(str(len(merged)))
        return 0

    return fork(work)


def results(folder: Path) -> dict[str, dict]:
    """Per-task results of every run that is done."""
    found = [json.loads(p.read_text()) for p in folder.glob("*/*/*/record.json")]
    return {f"{r['variant']} {r['spec']['seed']}": r["tasks"] for r in found if r["status"] == "done"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("whole")
    assert end(start(folder)) == 0
    assert len(results(folder)) == RUNS
    return results(folder)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_score_and_lose_no_record(whole: dict, tmp_path: Path) -> None:
    rng = random.Random(0)
    done: dict[str, dict] = {}
    for attempt in range(20):
        child = start(tmp_path)
        time.sleep(rng.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        end(child)
        now = results(tmp_path)
        lost = [name for name, tasks in done.items() if now.get(name) != tasks]
        assert not lost, f"kill {attempt} lost or changed {lost}"
        done = now
    assert end(start(tmp_path)) == 0
    assert results(tmp_path) == whole
    assert not list(tmp_path.rglob(".writing-*"))


def test_two_processes_on_one_folder_do_every_run_once(whole: dict, tmp_path: Path) -> None:
    pair = [start(tmp_path), start(tmp_path)]
    assert [end(child) for child in pair] == [0, 0]
    assert results(tmp_path) == whole
    assert sum(int((tmp_path / f"merged-{child}").read_text()) for child in pair) == RUNS


def test_ctrl_c_keeps_what_is_done_and_says_so(tmp_path: Path) -> None:
    child = start(tmp_path, pause=1.0)
    while True:
        found = [json.loads(p.read_text()) for p in tmp_path.glob("*/*/*/record.json")]
        if any(r["status"] == "done" for r in found) and any(r["status"] == "running" and r["tasks"] for r in found):
            break
        time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    assert end(child) == 130
    kept = [json.loads(p.read_text()) for p in tmp_path.glob("*/*/*/record.json")]
    assert {r["status"] for r in kept} == {"done", "incomplete"}
    (stopped,) = (r for r in kept if r["status"] == "incomplete")
    assert stopped["tasks"]
    assert stopped["error"]["type"] == "interrupted" and "the same command goes on" in stopped["error"]["message"]


def test_sigterm_ends_the_command_as_ctrl_c_does(tmp_path: Path) -> None:
    """Batch systems send it, and ``kill``."""
    command = [
        sys.executable,
        "-m",
        "benchmark",
        "run",
        "--suite",
        "vision-mini-8",
        "--methods",
        "symerge",
        "--threads",
        "1",
    ]
    process = subprocess.Popen([*command, "--results", str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not list(tmp_path.glob("*/*/*/record.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command goes on from here" in said
    kept = [json.loads(p.read_text()) for p in tmp_path.glob("*/*/*/record.json")]
    assert "running" not in {r["status"] for r in kept}


@pytest.mark.parametrize(
    ("harm", "said"),
    [("truncate", "truncated"), ("nan", "NaN or Inf"), ("keys", "missing keys"), ("flip", "sha256")],
)
def test_a_damaged_checkpoint_is_refused_with_what_mends_it(
    harm: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(families.MINI / "ViT-mini", tmp_path / "ViT-mini")
    path = tmp_path / "ViT-mini" / "MNIST.safetensors"
    manifest = json.loads((tmp_path / "ViT-mini" / "manifest.json").read_text())
    if harm == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    else:
        tensors = load_file(path)
        name = sorted(tensors)[0]
        if harm == "nan":
            tensors[name] = torch.full_like(tensors[name], float("nan"))
        else:
            tensors["other"] = tensors.pop(name)
        save_file(tensors, path)
        manifest["files"][path.name].update(sha256=families.sha256(path), bytes=path.stat().st_size)
        (tmp_path / "ViT-mini" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("benchmark.checkpoints.families.MINI", tmp_path)
    with pytest.raises(UserError, match=said):
        suites.open_bench(suites.load("vision-mini-8"))
