"""Pages made from the registry and the records are in step with both."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.tables import assert_same_but_for_rounding

import methods
from benchmark.board import leaderboard
from benchmark.records.store import Store
from benchmark.report.methods_page import methods_page, parity, unproved

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"


def test_the_page_of_methods_is_what_the_registry_and_the_records_say() -> None:
    made = methods_page(Store(REFERENCE, read_only=True).all())
    stored = (ROOT / "methods" / "README.md").read_text()
    assert_same_but_for_rounding(made, stored, "type ./run_all.sh board --reference")


def test_every_method_is_held_against_its_authors_code_or_the_page_says_why_not() -> None:
    proved, reasons = parity(), unproved()
    assert {*proved, *reasons} == set(methods.names()) and not proved.keys() & reasons.keys()
    for name, note in proved.items():
        assert 0 <= note["difference"] <= note["tolerance"] <= 5e-3, name
        assert note["sources"] and all("@" in source for source in note["sources"]), name


def test_the_committed_boards_are_what_the_records_say() -> None:
    boards = leaderboard.load(REFERENCE)
    assert {board.suite for board in boards} >= {"vision-mini-8", "vision-mini-14", "vision-mini-20"}
    for board in boards:
        stored = (ROOT / "results" / "boards" / f"{board.name}.md").read_text()
        assert_same_but_for_rounding(leaderboard.markdown(board), stored, "type ./run_all.sh board --reference")


def test_the_readme_shows_a_method_as_its_file_has_it() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert "@method(" in shown and shown in (ROOT / "methods" / "task_arithmetic.py").read_text()
