"""No checkpoint file, however damaged, is run, hangs the reader, or fails without a clear error.

A slice of ``tests/reliability/test_checkpoint_files.py``, which tries 12,000 files.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from helpers.fuzzing import TARGETS, fuzz


@pytest.mark.parametrize("target", TARGETS)
def test_an_altered_checkpoint_is_read_or_refused(target: str) -> None:
    found = fuzz(target, 60)
    assert found.files == 60 and found.refused > 5 and not found.faults, found


class Attack:
    def __reduce__(self) -> tuple:
        return eval, ("__import__('os').getcwd()",)


def test_the_watch_sees_a_reader_that_runs_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsafe(path: Path) -> None:
        pickle.loads(path.read_bytes())

    monkeypatch.setitem(TARGETS, "unsafe", (unsafe, ".pt", lambda: [pickle.dumps([Attack()] * 30)]))
    assert any("Forbidden: exec" in fault or "Forbidden: compile" in fault for fault in fuzz("unsafe", 10).faults)
