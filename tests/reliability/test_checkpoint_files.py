"""Checkpoint files altered at random, thousands of them: see ``tests/fuzzing.py``."""

from __future__ import annotations

import os
from typing import Any

import pytest
from helpers.fuzzing import TARGETS, fuzz

FILES = int(os.environ.get("SYMERGE_FUZZ", 12_000))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", TARGETS)
def test_every_altered_checkpoint_is_read_or_refused(target: str, count: Any) -> None:
    wanted = -(-FILES // len(TARGETS))
    found = fuzz(target, wanted, seed=1)
    count("files", found.files)
    count("refused", found.refused)
    count("read", found.read)
    count("faults", len(found.faults))
    assert found.files == wanted and not found.faults, found.faults[:5]
