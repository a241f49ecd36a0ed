"""The numbers that the README states are those of the tree and of the committed records."""

from __future__ import annotations

import re

import methods
from benchmark import suites
from benchmark.common.project import DEFAULT_SUITE, REFERENCE, ROOT
from benchmark.records.store import Store
from benchmark.report.methods_page import parity

README = (ROOT / "README.md").read_text(encoding="utf-8")


def stated(words: str) -> int:
    found = re.search(rf"(\d[\d,]*) {words}", " ".join(README.split()))
    assert found, f"the README does not state how many {words} there are"
    return int(found[1].replace(",", ""))


def test_the_counts_are_those_of_the_tree() -> None:
    names = methods.names()
    assert stated("methods") == len(names)
    assert stated("of them held against the authors' own code") == len(set(parity()) & set(names))
    assert stated("suites") == len(suites.names())
    # More may have come since: a count of records that is too low claims nothing.
    assert (
        0.8 * len(list(REFERENCE.glob("*/*/*/record.json")))
        <= stated("records of runs")
        <= len(list(REFERENCE.glob("*/*/*/record.json")))
    )


def test_the_board_shown_first_is_that_of_the_first_seeds_records() -> None:
    (block,) = re.findall(r"```\n(vision-small-8 ·.*?)```", README, re.S)
    shown = {name: float(mean) for name, mean in re.findall(r"([a-z_]+)(?: \(not ranked\))? +([\d.]+) ±", block)}
    assert set(shown) == {"pretrained", "individual", "symerge", "ties"}
    records = Store(REFERENCE, read_only=True).all(DEFAULT_SUITE)
    for record in records:
        if record.variant in shown and record.spec.seed in (None, 0) and record.status == "done":
            mean = sum(result.value for result in record.tasks.values()) / len(record.tasks)
            assert abs(shown[record.variant] - mean) < 1, f"{record.variant}: {mean:.1f}"


def test_the_readme_can_be_read_at_one_sitting() -> None:
    assert len(README.splitlines()) <= 105
