"""What hurts: hostile methods, files, records and words, among the usual tests; and fault injection at length.

The latter is run by naming the folder, ``./run_all.sh --test tests/reliability``; counts are at the end.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


#: Minutes each.
AT_LENGTH = (
    "test_checkpoint_files.py", "test_damage.py", "test_environment.py", "test_kills.py", "test_mutations.py",
)  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what runs at length, unless this folder or one of its files is named."""
    return True if collection_path.name in AT_LENGTH and not _named(config) else None


def _named(config: pytest.Config) -> bool:
    return any("reliability" in str(argument) for argument in config.args)


@pytest.fixture
def count(record_property: Any) -> Any:
    """``count("kills", 50)``: a number for the table at the end."""
    return record_property


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The counts of each test, summed over its cases, where this folder is named."""
    if not _named(config):
        return
    terminalreporter.section("counts")
    for outcome in ("passed", "failed"):
        sums: dict[str, Counter[str]] = {}
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and report.user_properties:
                test = report.nodeid.rpartition("::")[2].partition("[")[0]
                for name, value in report.user_properties:
                    # A number is added to; a word stands for one case.
                    numbered = (name, int(value)) if str(value).isdigit() else (f"{name} {value}", 1)
                    sums.setdefault(test, Counter()).update(dict([numbered]))
        for test, counts in sums.items():
            said = ", ".join(f"{name} {number:,}" for name, number in counts.items())
            terminalreporter.write_line(f"{outcome}  {test}: {said}")
