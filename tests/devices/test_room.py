"""Where an evaluation does not fit into a device, a smaller batch is found, nothing is kept, and it is said."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.emulated import Machine
from helpers.lacking import lacks
from helpers.on_device import TinyBenchOn
from helpers.tiny import TinyBench

from benchmark.harness.child.process import Elsewhere, Failure
from benchmark.harness.job import Options
from benchmark.harness.recording import SMALLER
from benchmark.harness.room import NoRoom, fitting
from benchmark.harness.runner import execute, plan
from benchmark.records.record import Record
from benchmark.records.store import Store

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def errors() -> list[Exception]:
    return [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), Failure("OutOfMemoryError", "CUDA ...")]


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_a_smaller_batch_is_tried_with_the_memory_of_the_last_one_free(error: Exception) -> None:
    alive, said, tried = [0], [], []

    class Held:
        def __init__(self) -> None:
            alive[0] += 1

        def __del__(self) -> None:
            alive[0] -= 1

    def attempt(size: int) -> str:
        assert not alive[0], "the traceback of the last attempt holds its tensors"
        tried.append(size)
        held = Held()
        held.itself = held  # type: ignore[attr-defined]
        if size > 3:
            raise type(error)(*error.args) if not isinstance(error, Failure) else Failure(error.kind, error.message)
        return "result"

    assert fitting(attempt, 16, CPU, said.append) == ("result", 2)
    assert tried == [16, 8, 4, 2] and [int(re.findall(r"\d+", text)[-1]) for text in said] == [8, 4, 2]


def test_another_error_is_raised_at_once() -> None:
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fitting(attempt, 16, CPU, lambda text: None)
    assert tried == [16]


def test_one_sample_that_does_not_fit_is_said() -> None:
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(NoRoom, match="one sample do not fit into the memory of cpu"):
        fitting(attempt, 4, CPU, lambda text: None)


def evaluated(folder: Path, batch: int, **more: Any) -> Record:
    bench = TinyBenchOn(CUDA, tasks=2)
    (record,) = execute(plan(bench, ["ties"], seeds=[0])[2:], bench, Store(folder), Options(batch_size=batch, **more))
    return record


def test_a_device_with_too_little_memory_evaluates_in_smaller_batches_or_says_so(
    cuda: Machine | None, tmp_path: Path
) -> None:
    if cuda is None:
        pytest.skip(lacks("a device whose memory can be chosen", "the same test without -m cuda"))
    peaks, records = {}, {}
    for batch in (24, 6):
        torch.cuda.reset_peak_memory_stats(CUDA)
        records[batch] = evaluated(tmp_path / str(batch), batch)
        gc.collect()
        peaks[batch] = torch.cuda.max_memory_allocated(CUDA)
        assert records[batch].status == "done" and SMALLER not in records[batch].trace_summary
    rest = torch.cuda.memory_allocated(CUDA)
    assert peaks[24] > peaks[6] > rest
    cuda.memory = peaks[6]
    smaller = evaluated(tmp_path / "smaller", 24)
    assert smaller.status == "done", smaller.error
    sizes = smaller.trace_summary[SMALLER]
    assert sizes["t0"] == sizes["t1"] in (6, 12), "the second task begins with what the first one found"
    assert smaller.tasks == records[6].tasks and smaller.run_id == records[24].run_id
    cuda.memory = peaks[6] - 1
    failed = evaluated(tmp_path / "failed", 24)
    gc.collect()
    assert failed.status == "failed" and failed.error is not None and failed.error.type == "out of memory"
    assert "fit into the memory of cuda:0" in failed.error.message and "--dtype" in failed.error.message
    assert torch.cuda.memory_allocated(CUDA) == rest, "what an attempt held is given back"
    cuda.memory = 16 << 30
    again = evaluated(tmp_path / "failed", 24)
    assert again.status == "done" and SMALLER not in again.trace_summary


def test_the_process_of_a_method_that_has_no_room_is_handed_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Elsewhere.forward

    def greedy(self: Elsewhere, inputs: torch.Tensor) -> Any:
        if len(inputs) > 4:
            raise Failure("OutOfMemoryError", "CUDA out of memory")
        return forward(self, inputs)

    monkeypatch.setattr(Elsewhere, "forward", greedy)
    bench = TinyBench(tasks=2)
    jobs = plan(bench, ["surgery:steps=1"], seeds=[0])[2:]
    (record,) = execute(jobs, bench, Store(tmp_path), Options(batch_size=12))
    assert record.status == "done", record.error
    assert record.trace_summary[SMALLER] == {"t0": 3, "t1": 3} and all(r.n == 24 for r in record.tasks.values())
