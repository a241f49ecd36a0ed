"""A coefficient chosen on validation data says what was tried, and where the choice ended its grid."""

from __future__ import annotations

import pytest
from helpers.tiny import TinyBench, run

from benchmark.harness import tuning
from benchmark.harness.tuning import Choice
from benchmark.records.store import Store


@pytest.mark.parametrize(("value", "edge"), [(0.1, "first"), (0.2, None), (0.3, "last")])
def test_a_choice_at_the_end_of_its_grid_is_marked(value: float, edge: str | None) -> None:
    summary = Choice("scale", value, {0.1: 0.5, 0.2: 0.6, 0.3: 0.55}).summary()
    assert summary.get("edge") == edge and summary["scale"] == value
    assert summary["validation"] == {"0.1": 0.5, "0.2": 0.6, "0.3": 0.55}
    assert "edge" not in Choice("scale", 0.1, {0.1: 0.5}).summary()


def test_a_record_says_that_its_choice_ended_the_grid(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "grid", lambda about, key: [0.3, 0.30001])
    record = run(TinyBench(), Store(tmp_path), "task_arithmetic:scale=val")[-1]
    chosen = record.trace_summary["chosen"]
    assert chosen["edge"] == ("first" if chosen["scale"] == 0.3 else "last") and len(chosen["validation"]) == 2
