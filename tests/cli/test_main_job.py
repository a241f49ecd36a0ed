"""The main job from the command line, on the embedded suite: it ends in a table, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
FEW = "symerge:steps=3"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "benchmark", *words]


def call(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=300, **more)  # type: ignore[call-overload,no-any-return]


def records(folder: Path) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("*/*/*/record.json"))]
    return {r["variant"] + (f" {r['spec']['seed']}" if r["spec"]["seed"] is not None else ""): r for r in found}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run of the main job, with few adaptation steps."""
    folder = tmp_path_factory.mktemp("main")
    ended = call("run", "--suite", "vision-mini-8", "--methods", FEW, "ties", "--results", str(folder))
    assert ended.returncode == 0, ended.stderr
    assert "symerge:steps=3" in ended.stdout and "individual" in ended.stdout
    return folder


@pytest.mark.slow
def test_the_main_job_writes_records_and_boards(done: Path) -> None:
    found = records(done)
    assert set(found) == {"pretrained", "individual", "ties", "symerge:steps=3 0"}
    for record in found.values():
        assert record["status"] == "done" and len(record["tasks"]) == 8
        assert record["provenance"]["versions"]["torch"] and record["spec"]["checkpoints"]
        assert str(ROOT) not in json.dumps(record) and str(done) not in json.dumps(record)
    assert found["symerge:steps=3 0"]["access"] == ["unlabelled test"]
    assert found["symerge:steps=3 0"]["cost"]["images_drawn"] == 3 * 8 * 32
    board = pd.read_csv(done / "boards" / "vision-mini-8--ViT-mini--mini.csv")
    for name, record in found.items():
        row = board[board["method"] == name.partition(" ")[0]].iloc[0]
        assert row["mean"] == pytest.approx(sum(t["value"] for t in record["tasks"].values()) / 8)
    assert (done / "leaderboard.md").read_text().count("ties") >= 1 and (done / "leaderboard.csv").exists()


def test_experts_are_above_the_base_and_every_merge_is_between_chance_and_them(done: Path) -> None:
    means = {n: sum(t["value"] for t in r["tasks"].values()) / 8 for n, r in records(done).items()}
    assert 30 < means["pretrained"] < means["individual"] - 15
    assert means["individual"] > 85 and means["pretrained"] - 10 < means["ties"] < means["individual"]


def test_the_same_command_again_runs_nothing(done: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.glob("*/*/*/record.json")}
    assert call("run", "--suite", "vision-mini-8", "--methods", FEW, "ties", "--results", str(done)).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in done.glob("*/*/*/record.json")} == before


def kill_when(folder: Path, ready: Callable[[dict[str, dict]], bool]) -> None:
    """Start the main job and kill -9 it as soon as ``ready(records)``."""
    process = subprocess.Popen(
        command("run", "--suite", "vision-mini-8", "--methods", FEW, "--results", str(folder)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 200
        while not ready(records(folder)):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_killed_in_adaptation_and_in_evaluation_it_goes_on_to_the_same_scores(done: Path, tmp_path: Path) -> None:
    name = "symerge:steps=3 0"
    kill_when(tmp_path, lambda found: name in found and found[name]["cost"]["merge_seconds"] is None)
    assert not records(tmp_path)[name]["tasks"]
    kept = {n: r["finished"] for n, r in records(tmp_path).items() if r["status"] == "done"}
    assert set(kept) == {"pretrained", "individual"}
    kill_when(tmp_path, lambda found: name in found and bool(found[name]["tasks"]))
    half = records(tmp_path)[name]
    assert half["status"] == "running" and half["cost"]["adapt_seconds"] is not None
    assert call("run", "--suite", "vision-mini-8", "--methods", FEW, "--results", str(tmp_path)).returncode == 0
    found, whole = records(tmp_path), records(done)
    assert {n: r["finished"] for n, r in found.items() if n in kept} == kept
    assert found[name]["status"] == "done" and found[name]["cost"]["adapt_seconds"] == half["cost"]["adapt_seconds"]
    for variant, record in found.items():
        assert record["tasks"] == whole[variant]["tasks"], variant


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--methods", "symmerge"], ["unknown method 'symmerge'", "Did you mean symerge"]),
        (["run", "--suite", "vision-mini-9"], ["unknown suite 'vision-mini-9'", "did you mean vision-mini-8"]),
        (["run", "--methods", "ties:kep=1"], ["kep", "keep"]),
        (["run", "--methods", "ties", "--set", "symerge.steps=3"], ["--set names symerge"]),
        (["run", "--backbone", "ViT-B-32", "--methods", "ties"], ["unknown backbone", "ViT-S-14"]),
        (["run", "--device", "cuda:7", "--methods", "ties"], ["--device cpu"]),
        (["run", "--seeds", "1", "1"], ["--seeds"]),
        (["board", "--results", "nowhere"], ["no records under nowhere"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_input_says_what_to_type(words: list[str], said: list[str]) -> None:
    ended = call(*words)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert all(text in ended.stderr for text in said), ended.stderr


def test_the_plan_is_printed_and_nothing_is_written(tmp_path: Path) -> None:
    ended = call(
        "run",
        "--suite",
        "vision-mini-8",
        "--methods",
        "ties",
        "symerge",
        "--seeds",
        "0",
        "1",
        "--dry-run",
        "--results",
        str(tmp_path),
    )
    lines = [line for line in ended.stdout.splitlines() if " to do" in line]
    assert ended.returncode == 0 and len(lines) == 6 and "5 to do" in lines[-1] and "unlabelled test" in ended.stdout
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_ends_in_one_clear_message(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    ended = call("run", "--suite", "vision-mini-8", "--methods", "ties", "--results", str(blocked))
    assert ended.returncode == 2 and "cannot write" in ended.stderr and "Traceback" not in ended.stderr


def test_help_and_list_need_no_torch() -> None:
    code = (
        "import sys, benchmark.cli.main as c\n"
        "for a in (['--help'], ['run', '--help'], ['list']):\n"
        "    try: c.main(a)\n"
        "    except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0 and "symerge" in ended.stdout and "arXiv:2412.19098" in ended.stdout


def test_a_comparison_is_of_the_suites_first_family_unless_one_is_named() -> None:
    words = ("compare", "tsv_m", "task_arithmetic", "--suite", "llm-small")
    assert "on llm-small, family small, points" in call(*words).stdout
    assert "on llm-small, family full, points" in call(*words, "--family", "full").stdout


def test_two_methods_are_compared_on_the_same_samples(done: Path) -> None:
    ended = call("compare", FEW, "ties", "--suite", "vision-mini-8", "--results", str(done))
    assert ended.returncode == 0 and "wins" in ended.stdout and "| FashionMNIST |" in ended.stdout
    same = call("compare", "ties", "ties", "--suite", "vision-mini-8", "--results", str(done))
    assert "+0.00 [+0.00, +0.00]: tied" in same.stdout
