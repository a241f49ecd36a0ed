"""What a command says while it works: each finished run with its score, an honest time left; nothing if quiet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.tiny import TinyBench, run

from benchmark.budget import dry_run
from benchmark.cli import main as cli
from benchmark.harness.progress import Progress, Remaining
from benchmark.records.store import Store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_the_work_and_counts_no_run_that_was_there() -> None:
    clock = Clock()
    remaining = Remaining({"short": 1.0, "long": 9.0}, clock)
    assert remaining.seconds() is None
    remaining.at("short", 0.0)
    clock.now = 3.0
    remaining.end("was there")
    assert remaining.seconds() is None
    remaining.end("short")
    assert remaining.seconds() == pytest.approx(27)
    remaining.at("long", 1 / 3)
    clock.now = 13.0
    assert remaining.seconds() == pytest.approx(13 * 6 / 4)
    remaining.end("long")
    assert remaining.seconds() == 0


def test_each_finished_run_is_a_line_with_its_score_and_the_end_sums_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run(TinyBench(), Store(tmp_path), "ties")
    said = capsys.readouterr().err
    for record in records:
        values = [result.value for result in record.tasks.values()]
        assert f"{record.variant}: accuracy {sum(values) / len(values):.1f}" in said
    assert "3 runs in " in said and "kept" not in said
    run(TinyBench(), Store(tmp_path), "ties", "task_arithmetic")
    said = capsys.readouterr().err
    assert "task_arithmetic: accuracy" in said and "ties: accuracy" not in said
    assert "1 run in " in said and "; 3 done before and kept" in said
    assert "\r" not in said and "|" not in said, "no bars where there is no terminal"


def test_a_log_says_every_half_a_minute_where_a_run_is_and_a_terminal_has_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with Progress({"one": 1.0, "two": 1.0}, clock=clock) as progress:
        progress.begin("symerge", 0, "one")
        for done in range(51):
            clock.now = float(done)
            progress.rounds(done, 50, "adapting")
        clock.now = 61.0
        progress.stage("evaluating MNIST")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "0 of 2 runs done, about 81 s left, symerge seed 0: adapting, 30 of 50 rounds",
        "0 of 2 runs done, about 75 s left, symerge seed 0: evaluating MNIST",
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress({"one": 1.0}) as progress:
        progress.begin("symerge", 0, "one")
        progress.rounds(3, 50, "adapting")
    said = capsys.readouterr().err
    assert "runs 0/1 |" in said and "symerge seed 0 adapting" in said and "\r" in said


def test_quiet_shows_the_board_alone_and_json_is_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.suites.open_bench", lambda suite, **keywords: TinyBench())
    words = ["run", "--suite", "vision-mini-8", "--results", str(tmp_path), "--methods", "ties"]
    assert cli.main([*words, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert "ties" in shown.out and not shown.err
    assert cli.main([*words, "--json"]) == 0
    (board,) = json.loads(capsys.readouterr().out)["boards"]
    assert board["suite"] == "tiny" and {row["method"] for row in board["rows"]} == {"ties", "pretrained", "individual"}
    assert cli.main([*words, "--json", "--dry-run"]) == 2


def test_the_work_of_runs_follows_what_they_do() -> None:
    from benchmark.harness.runner import plan
    from benchmark.suites import load

    bench = dry_run.Planned(load("vision-small-8"), None, None)
    jobs = plan(bench, ["ties", "symerge"], seeds=[0], without_data=True)
    work = dry_run.work([(bench, jobs)])
    by_name = {job.spec.method: work[job.id] for job in jobs}
    assert by_name["symerge"] > 5 * by_name["ties"] > 0


def test_the_time_left_of_runs_that_are_done_again_is_told_and_of_none_is_not_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.suites.open_bench", lambda suite, **keywords: TinyBench())
    asked: list[int] = []
    monkeypatch.setattr(dry_run, "work", lambda plans, options: asked.append(1) or {})
    words = ["run", "--suite", "vision-mini-8", "--results", str(tmp_path), "--methods", "ties"]
    for more, times in (([], 1), ([], 1), (["--force"], 2)):
        assert cli.main([*words, *more]) == 0
        assert len(asked) == times, more
