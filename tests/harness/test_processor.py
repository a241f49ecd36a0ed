"""A method's process: numbers below the normal ones are zero in all its threads, and freed memory stays in it."""

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
from methods.api import Experts, Merged

#: Below float32's least normal number, 1.2e-38.
LEAST = 1e-39
#: Enough elements for all threads, 40 MB.
COUNT = 10 << 20
PIECE = 20 << 20

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason=lacks("the C library has no mallopt", "a Linux with glibc")
)


def small_left() -> int:
    """How many numbers are not zero once they were halved, by all threads."""
    return int((torch.full((COUNT,), LEAST).mul_(0.5) != 0).sum())


def faults(rounds: int = 20) -> int:
    """Pages that were taken from the system by rounds that each take and free eight pieces of 20 MB."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        pieces = [library.malloc(PIECE) for _ in range(8)]
        for piece in pieces:
            ctypes.memset(piece, 1, PIECE)
        for piece in reversed(pieces):
            library.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def average(experts: Experts, **keywords: Any) -> Merged:
    merged = {n: experts.base[n] + experts.task_vectors(n).mean(0) for n in experts.names}
    return Merged(experts, merged, trace={"small": small_left(), "faults": faults()})


@glibc
def test_a_methods_process_is_set_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.set_flush_denormal(torch.set_flush_denormal(False)):
        pytest.skip(lacks("this processor cannot make small numbers zero", "an x86-64 or ARM64 processor"))
    torch.set_flush_denormal(False)
    monkeypatch.setitem(process.STAND_INS, "ties", average)
    record = run(TinyBench(), Store(tmp_path), "ties")[-1]
    assert record.status == "done", record.error
    said = record.trace_summary
    assert said["small"] == 0
    # 20 rounds of 160 MB in pages of 4 kB are 800,000; the first round takes 40,000.
    assert said["faults"] < 200_000


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from harness.test_processor import faults, small_left
import torch
if {prepared}:
    from benchmark.common.processor import prepare_cpu
    prepare_cpu()
torch.set_num_threads(2)
print(small_left(), faults())
"""


@glibc
@pytest.mark.parametrize("prepared", [True, False])
def test_threads_take_it_over_and_without_it_it_is_otherwise(prepared: bool) -> None:
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(tests=tests, prepared=prepared)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    small, taken = map(int, done.stdout.split())
    assert (small == 0) is prepared
    assert (taken < 200_000) is prepared
