"""From the command line: a fault ends in one clear message and a status that is not 0; the other runs are done."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forks import output
from helpers.limits import time_is_up
from helpers.tiny import TinyBench

from benchmark.cli import main as cli
from benchmark.harness.child import process
from methods.api import Experts, Merged


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs the tiny bench, whatever suite is named."""
    monkeypatch.setattr("benchmark.suites.open_bench", lambda suite, **keywords: TinyBench())
    monkeypatch.setattr("warnings.showwarning", cli._warning)


def run(folder: Path, *words: str) -> int:
    return cli.main(
        ["run", "--suite", "vision-mini-8", "--results", str(folder), "--methods", "ties", "task_arithmetic", *words]
    )


def only(folder: Path, method: str) -> int:
    return cli.main(["run", "--suite", "vision-mini-8", "--results", str(folder), "--methods", method])


def statuses(folder: Path) -> dict[str, str]:
    found = [json.loads(p.read_text()) for p in folder.glob("tiny/*/*/record.json")]
    return {record["variant"]: record["status"] for record in found}


def small_files(size: int) -> Callable[[], None]:
    """Files take ``size`` bytes, then writing fails as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def after(before: Callable[[], None], function: Callable[[], int]) -> Callable[[], int]:
    def both() -> int:
        before()
        return function()

    return both


def _raises(experts: Experts, **keywords: Any) -> Merged:
    raise RuntimeError("the method is broken")


def _exits(experts: Experts, **keywords: Any) -> Merged:
    raise SystemExit(0)


def _nan(experts: Experts, **keywords: Any) -> Merged:
    return Merged(experts, {n: torch.full_like(experts.base_tensor(n), torch.nan) for n in experts.names})


def _shape(experts: Experts, **keywords: Any) -> Merged:
    return Merged(experts, {n: torch.zeros(2, 3, 5) for n in experts.names})


def _memory(experts: Experts, **keywords: Any) -> Merged:
    return Merged(experts, {"more": torch.empty(1 << 60)})


def _hangs(experts: Experts, **keywords: Any) -> Merged:
    time_is_up()
    while True:
        signal.pause()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_raises, "RuntimeError: the method is broken"),
        (_exits, "SystemExit"),
        (_nan, "NaN or Inf in shared/"),
        (_shape, "the shape (2, 3, 5); the base has"),
        (_memory, "out of memory: .*try a smaller batch_size"),
        (_hangs, "timeout: .*--time-limit SECONDS"),
    ],
)
def test_a_failing_method_costs_no_other_run_and_the_command_says_so(
    function: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(process.STAND_INS, "ties", function)
    assert run(tmp_path, *(("--time-limit", "90") if function is _hangs else ())) == 1
    shown = capsys.readouterr()
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("failed: ties on tiny: ") and _says(said, last) and "Traceback" not in shown.err
    assert statuses(tmp_path) == {
        "pretrained": "done", "individual": "done", "ties": "failed", "task_arithmetic": "done",
    }  # fmt: skip
    assert "incomplete: ties: failed" in shown.out and (tmp_path / "leaderboard.md").is_file()


def _says(said: str, text: str) -> bool:
    return all(part in text for part in said.split(".*"))


def test_a_disk_that_takes_no_more_ends_in_one_message_and_keeps_what_is_done(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("record.json")}
    status, said = output(after(small_files(500), lambda: only(tmp_path, "emr")))
    assert status == 2 and "Traceback" not in said
    assert "error: cannot write" in said and "record.json: File too large" in said and "--results DIR" in said
    assert {p: p.read_bytes() for p in tmp_path.rglob("record.json") if p in before} == before
    assert not list(tmp_path.rglob(".writing-*"))
    assert only(tmp_path, "emr") == 0


def _leaves_no_room(experts: Experts, **keywords: Any) -> Merged:
    merged = Merged(experts, {name: experts.base_tensor(name) for name in experts.names})
    small_files(20_000)()
    return merged


def test_a_merge_that_does_not_fit_on_the_disk_is_no_fault_of_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setitem(process.STAND_INS, "emr", _leaves_no_room)
        status, said = output(lambda: only(tmp_path, "emr"))
    assert status == 2 and "Traceback" not in said
    assert "error: cannot write" in said and "merged.safetensors: File too large" in said, said
    assert not list(tmp_path.rglob(".writing-*")) and "failed" not in statuses(tmp_path).values()
    assert only(tmp_path, "emr") == 0


def nobody() -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def test_experts_that_do_not_fit_into_the_temporary_folder_are_no_fault_of_a_method(tmp_path: Path) -> None:
    status, said = output(after(small_files(20_000), lambda: only(tmp_path, "emr")))
    assert status == 2 and "Traceback" not in said
    assert "error: cannot write experts to" in said and "Set TMPDIR to a folder with more room" in said
    assert "failed" not in statuses(tmp_path).values()
    assert only(tmp_path, "emr") == 0


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    assert only(tmp_path, "ties") == 0
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    folders = [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        status, said = output(after(nobody, lambda: only(tmp_path, "emr")))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert status == 2 and "Traceback" not in said
    assert "error: cannot write" in said and "the folder cannot be written" in said and "--results DIR" in said
    assert only(tmp_path, "emr") == 0
