"""What a record says of the seconds that a method worked on data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import TinyBench, run

from benchmark.harness.child import process
from benchmark.records.store import Store
from methods.api import Experts, Merged, Stream

LONG = 0.2


def _merged(experts: Experts, **more: Any) -> Merged:
    return Merged(experts, {n: experts.base_tensor(n) + experts.task_vectors(n).mean(0) for n in experts.names}, **more)


def _looks_and_says_nothing(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    time.sleep(LONG)
    stream.draw(stream.tasks[0], 4)
    time.sleep(LONG)
    return _merged(experts)


def _says(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    stream.draw(stream.tasks[0], 4)
    time.sleep(LONG)
    return _merged(experts, trace={"adapt_seconds": 0.125})


def _sees_nothing(experts: Experts, **keywords: Any) -> Merged:
    return _merged(experts)


@pytest.fixture
def cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(name: str, function: Any) -> Any:
        monkeypatch.setitem(process.STAND_INS, name, function)
        (record,) = [r for r in run(TinyBench(), Store(tmp_path), name) if r.spec.method == name]
        assert record.status == "done", record.error
        return record.cost

    return of


def test_a_method_that_does_not_say_so_worked_on_data_from_its_first_sample_on(cost: Any) -> None:
    """What a user's own loop took is neither 0 nor all of the run."""
    said = cost("symerge", _looks_and_says_nothing)
    assert said.adapt_seconds >= LONG and said.merge_seconds >= LONG and said.images_drawn == 4


def test_what_a_method_says_itself_and_what_sees_no_data_stay_as_they_are(cost: Any) -> None:
    assert cost("symerge", _says).adapt_seconds == 0.125
    assert cost("ties", _sees_nothing).adapt_seconds == 0
