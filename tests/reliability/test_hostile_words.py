"""Words of the command line that make no sense: refused at once, in one line, before anything is opened or run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.limits import limited

import methods
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.records.spec import checked_parameters, parse_method

ROOT = Path(__file__).parents[2]
NINES = "9" * 400
LONG = "9" * 5000

RUN = ["run", "--suite", "vision-mini-8", "--dry-run", "--methods"]
#: What is typed, and what is said of it.
REFUSED: dict[str, tuple[list[str], str]] = {
    "a scale of 400 nines": ([*RUN, f"ties:scale={NINES}"], "400 characters"),
    "a scale of 5,000 nines": ([*RUN, f"ties:scale={LONG}"], "5,000 characters"),
    "steps of 400 nines": ([*RUN, f"adamerging:steps={NINES}"], "a number up to 9,007,199,254,740,992 is wanted"),
    "a negative scale of 400 nines": ([*RUN, f"ties:scale=-{NINES}"], "a number up to"),
    "nines in a list": ([*RUN, f"tall_mask:mask_scale=[0.1,{NINES}]"], "a number up to"),
    "an infinite scale": ([*RUN, "ties:scale=1e400"], "scale=1e400 is not allowed; allowed: a number"),
    "no scale": ([*RUN, "ties:scale=none"], "scale=none is not allowed; allowed: a number"),
    "a list of scales": ([*RUN, "ties:scale=[0.1,0.2]"], "scale=[0.1,0.2] is not allowed; allowed: a number"),
    "a scale that is a table": ([*RUN, 'ties:scale={"a":1}'], "is not allowed; allowed: a number"),
    "3,000 brackets": ([*RUN, "ties:scale=" + "[" * 3000], "is not allowed; allowed: a number"),
    "one keyword set twice": (
        [*RUN, "ties", "--set", "ties.keep=0.1", "--set", "ties.keep=0.2"], "--set gives ties.keep twice"),
    "a seed of 400 nines": ([*RUN, "symerge", "--seeds", NINES], "different whole numbers from 0"),
    "a seed below 0": ([*RUN, "symerge", "--seeds", "-1"], "--seeds -1: different whole numbers from 0"),
    "ten million threads": ([*RUN, "ties", "--threads", "10000000"], "--threads is 10000000; a number from 1 to 4,096"),
    "no threads": ([*RUN, "ties", "--threads", "0"], "--threads is 0; a number from 1"),
    "a batch of 400 nines": ([*RUN, "ties", "--batch-size", NINES], "--batch-size is a number of many digits"),
    "a time limit that is none": ([*RUN, "ties", "--time-limit", "nan"], "--time-limit is nan; a number above 0"),
    "300 million GPUs": (["schedule", "--gpus", "300000000"], "--gpus is 300000000; a number from 1 to 100,000"),
    "no GPU among others": (["schedule", "--gpus", "8", "0"], "--gpus is 0; a number from 1"),
    "memory below 0": (["schedule", "--memory", "-1"], "--memory is -1.0; a number above 0"),
    "memory that is none": (["schedule", "--memory", "nan"], "--memory is nan; a number above 0"),
    "infinite bandwidth": (["schedule", "--bandwidth", "inf"], "--bandwidth is inf; a number above 0"),
    "speed that is none": (["schedule", "--tflops", "nan"], "--tflops is nan; a number above 0"),
    "fewer than no runs named": (["schedule", "--longest", "-1"], "--longest is -1; a number from 0"),
    "seeds of a schedule twice": (["schedule", "--seeds", "1", "1"], "--seeds 1 1: different whole numbers"),
    "threads of a study": (["study", "pilot", "--threads", "-2"], "--threads is -2; a number from 1"),
    "steps of a study": (["study", "pilot", "--steps", "-2"], "--steps is -2; a number from 0"),
    "a tolerance without end": (["submit", "verify", "x", "--tolerance", "inf"], "--tolerance is inf; a number from 0"),
    "a seed of a study": (["study", "pilot", "--seeds", "-2"], "--seeds -2: different whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_words_that_make_no_sense_are_refused_at_once(what: str, monkeypatch: pytest.MonkeyPatch, count: Any) -> None:
    def opened(*words: Any, **keywords: Any) -> Any:
        raise AssertionError("something was opened before the words were checked")

    monkeypatch.setattr("benchmark.suites.open_bench", opened)
    monkeypatch.setattr("benchmark.budget.schedule.measured", opened)
    typed, said = REFUSED[what]
    status, text = limited(lambda: cli.main(typed), memory=1 << 30, seconds=20)
    lines = [line for line in text.splitlines() if not line.startswith("warning:")]
    assert (status, lines[-1]) == (0, "2"), text  # what main returned
    assert lines[0].startswith("error: ") and said in lines[0] and len(lines) <= 3 and len(text) < 600, text
    count("refused", 1)


@pytest.mark.parametrize("value", ["none", "[0.1]", '{"a":1}', "true", "fast"])
def test_a_keyword_without_an_annotation_takes_what_its_default_is(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    about = methods.describe("ties")
    monkeypatch.setattr(about, "allowed", {})
    with pytest.raises(UserError, match="scale=.*(is not allowed; allowed: a number|a number is wanted)"):
        checked_parameters(*parse_method(f"ties:scale={value}"))
    assert checked_parameters("ties", {"scale": 1})["scale"] == 1.0
    assert checked_parameters("ties", {"scale": "val"})["scale"] == "val", "searched on the validation split"
    monkeypatch.setattr(about, "parameters", {**about.parameters, "trim": True})
    with pytest.raises(UserError, match="trim=.*(is not allowed; allowed: true or false|true or false is wanted)"):
        checked_parameters(*parse_method("ties:trim=often"))


def test_none_is_taken_where_the_annotation_has_it() -> None:
    assert checked_parameters("tsv_m", {"keep": None})["keep"] is None
    assert checked_parameters("adarank", {"prior": None})["prior"] is None


@pytest.mark.timeout(300)
def test_a_closed_terminal_ends_the_command_as_sigterm_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmark", "run", "--suite", "vision-mini-8", "--methods", "symerge"]
    process = subprocess.Popen(
        [*command, "--threads", "1", "--results", str(tmp_path)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    while not list(tmp_path.glob("*/*/*/record.json")):
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(2):  # the shell's, and the system's
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP and "the same command goes on from here" in said, said
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*/*/*/record.json")]
    assert "running" not in {record["status"] for record in kept}


def test_what_nohup_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(cli, "do", lambda argv: os.kill(os.getpid(), signal.SIGHUP) or 0)
        assert cli.main([]) == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
