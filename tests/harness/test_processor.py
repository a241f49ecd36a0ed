"""A method's process: numbers below the normal ones are zero in all its threads, and rounds keep freed memory."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.lacking import lacks
from helpers.tiny import TinyBench, run

from benchmark.harness.child import process
from benchmark.records.store import Store
from methods.api import Experts, Merged, Stream

#: Below float32's least normal number, 1.2e-38.
LEAST = 1e-39
#: Enough elements for all threads, 40 MB.
COUNT = 10 << 20
PIECE, MANY = 40 << 20, 200_000

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason=lacks("the C library has no mallopt", "a Linux with glibc")
)


def can_flush() -> bool:
    """Whether this processor can make small numbers zero; it is left as it was."""
    able = torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)
    return able


flushing = pytest.mark.skipif(
    not can_flush(), reason=lacks("this processor cannot make small numbers zero", "an x86-64 or ARM64 processor")
)


def small_left() -> int:
    """How many numbers are not zero once they were halved, by all threads."""
    return int((torch.full((COUNT,), LEAST).mul_(0.5) != 0).sum())


def faults(rounds: int = 10) -> int:
    """Pages that were taken from the system by rounds that each take and free four pieces of 40 MB."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        pieces = [library.malloc(PIECE) for _ in range(4)]
        for piece in pieces:
            ctypes.memset(piece, 1, PIECE)
        for piece in reversed(pieces):
            library.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def merged(experts: Experts, **trace: int) -> Merged:
    return Merged(experts, {n: experts.base[n] + experts.task_vectors(n).mean(0) for n in experts.names}, trace=trace)


def average(experts: Experts, **keywords: Any) -> Merged:
    return merged(experts, small=small_left(), faults=faults())


def adapted(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    found = [faults() for _ in stream.progress(range(1), 1, "adapting")]
    return merged(experts, small=small_left(), faults=found[0])


@glibc
@flushing
def test_a_methods_process_is_set_so_and_keeps_memory_in_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(process.STAND_INS, "ties", average)
    monkeypatch.setitem(process.STAND_INS, "adamerging", adapted)
    *_, plain, rounds = run(TinyBench(), Store(tmp_path), "ties", "adamerging")
    assert plain.status == rounds.status == "done", (plain.error, rounds.error)
    assert plain.trace_summary["small"] == rounds.trace_summary["small"] == 0
    # Ten rounds of 160 MB are 400,000 pages of 4 kB.
    assert rounds.trace_summary["faults"] < MANY < plain.trace_summary["faults"]


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from harness.test_processor import faults, small_left
import torch
if {prepared}:
    from benchmark.common.processor import flush_small_numbers, keep_freed_memory
    flush_small_numbers()
    keep_freed_memory()
torch.set_num_threads(2)
print(small_left(), faults())
"""


@glibc
@flushing
@pytest.mark.parametrize("prepared", [True, False])
def test_threads_take_it_over_and_without_it_it_is_otherwise(prepared: bool) -> None:
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(tests=tests, prepared=prepared)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    small, taken = map(int, done.stdout.split())
    assert (small == 0) is prepared
    assert (taken < MANY) is prepared
