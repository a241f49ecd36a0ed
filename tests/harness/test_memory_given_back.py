"""What a method has freed is the system's again before the suite's protocol runs on its merge."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.lacking import lacks
from helpers.tiny import TinyBench, TinySource, run

from benchmark.harness import measure
from benchmark.harness.child import process
from benchmark.harness.measure import anonymous_bytes, give_back
from benchmark.records.store import Store
from methods.api import Experts, Merged, Source

PIECES, PIECE = 3000, 1 << 14  # 196 MB of float32
KEPT = 100 << 20
#: What lives on above the pieces, so that freeing them alone gives nothing back, and the size before them.
LAST: list[Any] = []

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason=lacks("the C library has no malloc_trim", "a Linux with glibc"),
)


def size() -> int:
    found = anonymous_bytes()
    assert found is not None
    return found


def wasteful() -> None:
    give_back()  # what others have left, which the pieces would fill
    LAST[:] = [size()]
    pieces = [torch.ones(PIECE) for _ in range(PIECES)]
    LAST.append(torch.ones(PIECE))
    del pieces
    assert size() > LAST[0] + KEPT


def average(experts: Experts, **keywords: Any) -> Merged:
    wasteful()
    return Merged(experts, {n: experts.base[n] + experts.task_vectors(n).mean(0) for n in experts.names})


def small_again(merged: Merged, source: Source) -> Merged:
    assert size() < LAST[0] + KEPT, f"{size() >> 20} MB, {LAST[0] >> 20} MB before the method"
    return merged


def test_freed_pieces_are_given_back() -> None:
    wasteful()
    assert give_back()
    assert size() < LAST[0] + KEPT


def test_the_protocol_finds_what_the_method_has_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finishing(TinyBench):
        def finishing(self) -> tuple[Callable[[Merged, Source], Merged], Source]:
            return small_again, TinySource(0)

    monkeypatch.setitem(process.STAND_INS, "ties", average)
    record = run(Finishing(), Store(tmp_path), "ties")[-1]
    assert record.status == "done", record.error


def growing(experts: Experts, stream: Any, **keywords: Any) -> Merged:
    sizes = []
    for number in stream.progress(range(6), 6, "adapting"):
        sizes.append(size())
        if number == 3:
            torch.ones(20 * PIECES * (PIECE >> 4))  # 246 MB, which no other round takes, and freed at once
    merged = {n: experts.base[n] + experts.task_vectors(n).mean(0) for n in experts.names}
    return Merged(experts, merged, trace={"sizes": sizes})


def test_what_no_other_round_takes_is_given_back_between_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(process.STAND_INS, "adamerging", growing)
    record = run(TinyBench(), Store(tmp_path), "adamerging")[-1]
    assert record.status == "done", record.error
    sizes = record.trace_summary["sizes"]
    assert max(sizes) < sizes[2] + KEPT, [each >> 20 for each in sizes]


def test_only_growth_beyond_a_quarter_is_given_back_and_what_is_still_there_is_the_new_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, given = [100], []
    monkeypatch.setattr(measure, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(measure, "anonymous_bytes", lambda: held[0])
    monkeypatch.setattr(measure, "give_back", lambda: given.append(held[0]))
    kept = measure.KeptMemory()
    for held[0] in (80, 100, 125, 126, 150, 158):
        kept.after_round()
    assert given == [126, 158], "126 is in use after it was given back, and so the new measure"
    held[0] = None
    kept.after_round()
