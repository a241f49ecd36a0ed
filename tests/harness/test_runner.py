"""A plan is carried out, recorded, resumed, and survives what methods do wrong."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.limits import time_is_up
from helpers.tiny import CLASSES, TASKS, TinyBench, only, run
from torch import nn

import methods
from benchmark.common.errors import UserError
from benchmark.harness import judging, provenance, recording, runner
from benchmark.harness.child import process
from benchmark.records.record import CorrectBits
from benchmark.records.store import Store
from methods.api import Experts, Merged, Stream


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def rogue(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace what the method ``ties``, or another one, does in its process; a function that pickle knows by name."""

    def use(function: Any, name: str = "ties") -> None:
        monkeypatch.setitem(process.STAND_INS, name, function)

    return use


def test_reference_rows_are_always_present_and_scores_follow_from_the_bits(store: Store) -> None:
    records = run(TinyBench(), store, "ties")
    assert [r.variant for r in records] == ["pretrained", "individual", "ties"]
    for record in records:
        assert record.status == "done" and not record.missing
        for result in record.tasks.values():
            assert isinstance(result.statistics, CorrectBits)
            bits = result.statistics.numpy()
            assert len(bits) == result.n == 24
            assert result.value == pytest.approx(100 * bits.mean(), abs=1e-4)


def test_individual_scores_each_task_on_its_own_expert(store: Store) -> None:
    bench = TinyBench()
    record = run(bench, store, "ties")[1]
    experts = bench.experts()
    for task in bench.tasks:
        source = bench.source(task, "test")
        logits = experts.head(task)(experts.forward(experts.state(task), task, source.images))
        right = logits.argmax(-1) == source.labels
        assert record.tasks[task].value == pytest.approx(100 * right.float().mean().item(), abs=1e-4)
    assert record.cost.storage_bytes == (TASKS - 1) * experts.nbytes()


def test_a_second_call_does_nothing_and_force_does_it_again(store: Store) -> None:
    bench = TinyBench()
    first = run(bench, store, "symerge")
    opened = bench.opened
    again = run(bench, store, "symerge")
    assert bench.opened == opened
    assert [r.finished for r in again] == [r.finished for r in first]
    forced = run(bench, store, "symerge", force=True)
    assert bench.opened > opened
    assert [r.tasks for r in forced] == [r.tasks for r in first]


def test_no_clock_decides_what_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(99, 0, -1))
    monkeypatch.setattr(recording, "now", lambda: f"2026-01-01T{next(hours):02}")
    bench = TinyBench()
    run(bench, store, "ties")
    opened = bench.opened
    forced = run(bench, store, "ties", force=True)
    assert bench.opened == 2 * opened and {r.status for r in forced} == {"done"}
    with monkeypatch.context() as broken:
        broken.setattr(judging, "evaluate", lambda *_, **__: 1 / 0)
        assert run(bench, store, "ties", force=True)[-1].status == "failed"
    assert run(bench, store, "ties")[-1].status == "done", "failures are tried again"


def test_a_stochastic_method_runs_once_a_seed_and_a_deterministic_one_once(store: Store) -> None:
    records = run(TinyBench(), store, "symerge", "ties", seeds=(0, 1))
    assert [(r.variant, r.spec.seed) for r in records[2:]] == [("symerge", 0), ("symerge", 1), ("ties", None)]
    curves = [r.trace_summary["losses"] for r in records[2:4]]
    assert curves[0] != curves[1]


def _tells_of_its_stream(experts: Experts, stream: Any = "none", **keywords: Any) -> Merged:
    return Merged(experts, trace={"stream": str(stream)})


def _tells_of_labels(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    labels = [stream.draw(task, 4).labels is not None for task in stream.tasks]
    with pytest.raises(methods.MergingError, match="its access is unlabelled test|its access is labelled test"):
        stream.draw(stream.tasks[0], 4, split="train")
    return Merged(experts, trace={"labels": labels})


def test_no_access_means_no_stream_and_unlabelled_means_no_labels(store: Store, rogue: Any) -> None:
    rogue(_tells_of_its_stream)
    assert run(TinyBench(), store, "ties")[-1].trace_summary["stream"] == "None"
    rogue(_tells_of_labels, "symerge")
    unlabelled, labelled = run(TinyBench(), store, "symerge", "symerge:labels=truth")[2:]
    assert unlabelled.trace_summary["labels"] == [False] * TASKS
    assert labelled.trace_summary["labels"] == [True] * TASKS


def test_a_resumed_run_reads_the_saved_merge(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TinyBench()
    whole = run(bench, Store(store.root / "whole"), "symerge")[-1]
    done: list[str] = []
    real = judging.evaluate

    def dies(*arguments: Any, **keywords: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append("one")
        return real(*arguments, **keywords)

    run(bench, store, "ties")
    monkeypatch.setattr(judging, "evaluate", dies)
    with pytest.raises(KeyboardInterrupt):
        run(bench, store, "symerge")
    monkeypatch.setattr(judging, "evaluate", real)
    half = store.load(only(bench, "symerge").spec)
    assert half is not None and half.status == "incomplete" and len(half.tasks) == 1
    merged = store.folder(half.spec) / runner.MERGED
    stamp = merged.stat().st_mtime_ns
    resumed = run(bench, store, "symerge")[-1]
    assert merged.stat().st_mtime_ns == stamp
    assert resumed.status == "done" and resumed.tasks == whole.tasks


def test_what_another_commit_evaluated_is_evaluated_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, commit = TinyBench(), ["a" * 40]
    monkeypatch.setattr(provenance, "git_state", lambda: (commit[0], False))
    real, done = judging.evaluate, []

    def dies(*arguments: Any, **keywords: Any) -> Any:
        if len(done) == 3 * TASKS - 1:
            raise KeyboardInterrupt
        done.append("one")
        return real(*arguments, **keywords)

    monkeypatch.setattr(judging, "evaluate", dies)
    with pytest.raises(KeyboardInterrupt):
        run(bench, store, "ties")
    monkeypatch.setattr(judging, "evaluate", lambda *a, **k: done.append("again") or real(*a, **k))
    commit[0] = "b" * 40
    record = run(bench, store, "ties")[-1]
    assert done.count("again") == TASKS and record.provenance.commit == "b" * 40 and record.status == "done"


def test_the_batch_size_of_the_evaluation_is_recorded(store: Store) -> None:
    assert [r.provenance.batch_size for r in run(TinyBench(), store, "ties")] == [10] * 3
    assert [r.provenance.batch_size for r in run(TinyBench(), store, "ties", force=True, batch_size=7)] == [7] * 3


class SharedHeads(TinyBench):
    """Hands every run the same heads, as the suites do."""

    def experts(self) -> Experts:
        made = super().experts()
        self.shared = getattr(self, "shared", None) or made.heads
        made.heads = self.shared
        return made


def _spoils(experts: Experts, **keywords: Any) -> Merged:
    for task in experts.tasks:
        with torch.no_grad():
            experts.head(task).weight.zero_()
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    os.chdir("/")
    return Merged(experts, {n: experts.base_tensor(n) for n in experts.names})


def test_what_a_method_changes_beside_its_result_reaches_no_other_run(store: Store, rogue: Any) -> None:
    names, folder = ["weight_average", "symerge"], os.getcwd()
    alone = run(SharedHeads(), Store(store.root / "alone"), *names)[2:]
    rogue(_spoils)
    _, _, spoiled, *after = run(SharedHeads(), Store(store.root / "beside"), "ties", *names)
    assert spoiled.status == "done" and [r.tasks for r in after] == [r.tasks for r in alone]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32 and os.getcwd() == folder
    base = run(TinyBench(), Store(store.root / "base"), "ties")[0]
    assert spoiled.tasks == base.tasks, "its own row is that of the merge it returned"


def _raises(experts: Experts, **keywords: Any) -> Merged:
    raise RuntimeError("the method is broken")


def _nothing(experts: Experts, **keywords: Any) -> Any:
    return {"not": "a merge"}


def _nan(experts: Experts, **keywords: Any) -> Merged:
    return Merged(experts, {n: torch.full_like(experts.base_tensor(n), torch.nan) for n in experts.names})


def _shape(experts: Experts, **keywords: Any) -> Merged:
    return Merged(experts, {n: torch.zeros(2, 3, 5) for n in experts.names})


def _memory(experts: Experts, **keywords: Any) -> Merged:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def _hangs(experts: Experts, **keywords: Any) -> Merged:
    time_is_up()
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (_raises, "RuntimeError", "the method is broken"),
        (_nothing, "MergingError", r"returned dict; expected Merged"),
        (_nan, "MergingError", "NaN or Inf in shared/"),
        (_shape, "MergingError", r"the shape \(2, 3, 5\); the base has"),
        (_memory, "out of memory", "try a smaller batch_size"),
        (_hangs, "timeout", "--time-limit SECONDS"),
    ],
)
def test_a_method_that_fails_is_recorded_and_the_others_run(
    store: Store, rogue: Any, function: Any, kind: str, words: str
) -> None:
    rogue(function)
    records = run(TinyBench(), store, "ties", "task_arithmetic", **({"time_limit": 90.0} if function is _hangs else {}))
    failed = records[2]
    assert failed.status == "failed" and failed.error.type == kind
    assert re.search(words, failed.error.message)
    if function is _hangs:  # The method's own process ends it first, and says where it was.
        assert "_hangs" in failed.error.where
    tests = str(Path(__file__).parents[1])
    assert str(Path.home()) not in failed.error.traceback and tests not in failed.error.traceback
    assert [r.status for r in (records[0], records[1], records[3])] == ["done"] * 3


def test_a_failed_run_is_done_again_by_the_same_command(store: Store, rogue: Any) -> None:
    rogue(_raises)
    assert run(TinyBench(), store, "ties")[-1].status == "failed"
    process.STAND_INS.clear()
    assert run(TinyBench(), store, "ties")[-1].status == "done"


def test_wrong_class_count_is_named(store: Store) -> None:
    class Wide(TinyBench):
        def experts(self) -> Experts:
            made = super().experts()
            made.heads = {t: nn.Linear(16, CLASSES + 2) for t in made.tasks}
            return made

    found = run(Wide(), store, "ties")[-1]
    assert found.status == "failed" and "gives (10, 7) on t0; expected (10, 5)" in found.error.message


def test_scale_chosen_on_validation_is_the_best_of_the_grid(store: Store) -> None:
    bench = TinyBench()
    record = run(bench, store, "task_arithmetic:scale=val")[-1]
    chosen, tried = record.trace_summary["chosen"]["scale"], record.trace_summary["chosen"]["validation"]
    assert len(tried) == 20 and tried[f"{chosen:g}"] == max(tried.values())
    assert record.access == ["labelled val"]
    same = run(bench, store, f"task_arithmetic:scale={chosen}")[-1]
    assert same.tasks == record.tasks and same.access == []


def test_an_expert_that_scores_nothing_cannot_choose_a_scale(store: Store) -> None:
    class Wrong(TinyBench):
        def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Any:
            source = super().source(task, split, dtype)
            expert = self.experts()
            predicted = expert.head(task)(expert.forward(expert.state(task), task, source.images)).argmax(-1)
            source.labels = (predicted + 1) % CLASSES
            return source

    record = run(Wrong(), store, "task_arithmetic:scale=val")[-1]
    assert record.status == "failed" and "expert of t0, t1, t2 scores 0 on validation" in record.error.message


def test_identity_holds_parameters_and_seed_but_not_the_evaluation_batch(store: Store) -> None:
    bench = TinyBench()
    one = only(bench, "ties").spec.run_id
    assert only(bench, "ties:keep=0.2").spec.run_id == one
    assert only(bench, "ties:keep=0.1").spec.run_id != one
    small = run(bench, store, "ties", batch_size=3)[-1]
    large = run(bench, store, "ties", batch_size=24, force=True)[-1]
    assert small.run_id == large.run_id and small.tasks == large.tasks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("symmerge", "Did you mean symerge"),
        ("ties:kep=0.1", "keep"),
        ("ties:keep=much", "is not allowed"),
        ("ties:seed=3", "seed"),
    ],
)
def test_wrong_names_are_refused_before_anything_runs(text: str, words: str) -> None:
    with pytest.raises((UserError, methods.MergingError), match=words):
        runner.plan(TinyBench(), [text], seeds=[0])


def test_full_disk_stops_the_plan_with_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TinyBench()
    run(bench, store, "ties")

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("benchmark.records.store.os.fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        run(bench, store, "task_arithmetic")
    monkeypatch.undo()
    assert [r.status for r in run(bench, store, "ties")] == ["done"] * 3
