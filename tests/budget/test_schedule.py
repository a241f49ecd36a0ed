"""The simulated schedule against cases worked out by hand and the bounds of list scheduling; the scaling of costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import methods
from benchmark import suites
from benchmark.budget import dry_run, estimate, schedule
from benchmark.budget.schedule import Slot, makespan, simulate
from benchmark.cli import main as cli
from benchmark.common.project import REFERENCE
from benchmark.records.store import Store


def test_two_workers_take_the_runs_as_worked_out_by_hand() -> None:
    assert simulate([3, 2, 2], 2) == [Slot(0, 0, 0, 3), Slot(1, 1, 0, 2), Slot(2, 1, 2, 4)]
    assert makespan([1, 1, 1, 3], 2) == 4 and makespan([3, 1, 1, 1], 2) == 3
    # Longest first is not always best: 3 + 3 beside 2 + 2 + 2 would end at 6.
    assert makespan([3, 3, 2, 2, 2], 2) == 7
    assert makespan([5], 64) == 5 and makespan([], 8) == 0


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 12))
def test_no_run_is_lost_no_worker_does_two_at_once_and_the_bounds_hold(lengths: list[int], workers: int) -> None:
    slots = simulate(lengths, workers)
    assert [slot.run for slot in slots] == list(range(len(lengths)))
    assert [slot.end - slot.start for slot in slots] == lengths
    for worker in range(workers):
        own = [slot for slot in slots if slot.worker == worker]
        assert all(before.end == after.start for before, after in zip(own, own[1:], strict=False))
    longest, total, end = max(lengths, default=0), sum(lengths), makespan(lengths, workers)
    assert max(longest, total / workers) <= end <= total / workers + (1 - 1 / workers) * longest + 1e-6


@pytest.fixture(scope="module")
def measured() -> schedule.Measured:
    return schedule.measured(Store(REFERENCE, read_only=True), ["vision-mini-8"])


def test_the_records_of_the_small_suite_come_out_as_they_were_measured(measured: schedule.Measured) -> None:
    """Scaling the count of a suite to itself gives the recorded seconds again."""
    around = dry_run.setting(dry_run.Planned(suites.load("vision-mini-8"), None, None))
    assert around is not None
    records = Store(REFERENCE, read_only=True).all("vision-mini-8")
    for record in (r for r in records if r.spec.method in ("emr", "wudi") and r.status == "done"):
        method, speed = record.spec.method, (measured.flops, schedule.CORE_BANDWIDTH)
        count = estimate.work(method, record.spec.parameters, around, *speed)
        cost = record.cost
        taken = cost.merge_seconds + cost.adapt_seconds + cost.evaluate_seconds  # type: ignore[operator]
        assert measured.factors[method] * count == pytest.approx(taken)
    assert 1e9 < measured.flops < 1e12 and 0.2 < measured.usual < 5


def test_work_grows_with_steps_images_and_the_grid_that_is_searched() -> None:
    around = dry_run.setting(dry_run.Planned(suites.load("vision-mini-8"), None, None))
    assert around is not None

    def work(name: str, setting: dry_run.Setting = around, **changed: object) -> float:
        return estimate.work(name, {**methods.describe(name).parameters, **changed}, setting, 1e10, 1e10)

    assert work("symerge", steps=200) > 1.8 * work("symerge", steps=100)
    more = replace(around, samples={**around.samples, "test": 2 * (around.samples["test"] or 0)})
    assert work("weight_average", more) > 1.5 * work("weight_average")
    grid = methods.describe("task_arithmetic").grids["scale"][2]
    assert work("task_arithmetic", scale="val") > grid * 0.2 * work("task_arithmetic")


def test_the_command_names_the_longest_run_and_what_is_assumed(capsys: pytest.CaptureFixture) -> None:
    words = ["schedule", "--suite", "vision-mini-8", "--methods", "symerge", "ties", "--seeds", "0", "1"]
    assert cli.main([*words, "--gpus", "1", "2", "--tflops", "0.03", "--bandwidth", "0.01"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("5 runs: vision-mini-8 on ViT-mini. The longest, `symerge`")
    assert "it bounds the whole from" in said and "Assumed: a GPU of 0.03 TFLOP/s" in said
    assert cli.main(["schedule", "--gpus", "0"]) == 2 and "--gpus is 0; a number from 1" in capsys.readouterr().err


def test_what_merges_adapters_one_expert_or_two_is_no_part_of_a_board(capsys: pytest.CaptureFixture) -> None:
    words = ["schedule", "--suite", "vision-mini-8", "--methods", "ties", "robustmerge", "slerp", "arcee_fusion"]
    assert cli.main([*words, "--seeds", "0", "--gpus", "1"]) == 0
    assert capsys.readouterr().out.startswith("3 runs: vision-mini-8")
