"""Fault injection at length, run by naming the folder: ``./run_all.sh --test tests/reliability``; counts at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture
def count(record_property: Any) -> Any:
    """``count("kills", 50)``: a number for the table at the end."""
    return record_property


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("counts")
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and report.user_properties:
                said = ", ".join(f"{name} {value}" for name, value in report.user_properties)
                terminalreporter.write_line(f"{outcome}  {report.nodeid.rpartition('::')[2]}: {said}")
