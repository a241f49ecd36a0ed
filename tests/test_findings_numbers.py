"""The numbers that docs/findings.md gives of methods are those of the boards that its sections link to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
import pytest

import methods
from benchmark.board import rows
from benchmark.common.project import REFERENCE, RESULTS, ROOT
from benchmark.records.store import Store

#: How the text calls methods besides their titles.
SPOKEN = {
    "weight average": "weight_average", "weight averaging": "weight_average", "Weight averaging": "weight_average",
    "task arithmetic": "task_arithmetic", "Fisher merging": "fisher", "Surgery": "surgery", "pretrained": "pretrained",
    "individual": "individual", "Consensus": "consensus", "PCB": "pcb", "EMR": "emr", "TIES": "ties", "LOT": "lot",
    "ACE": "ace", "WUDI": "wudi", "ESM": "esm",
}  # fmt: skip
TITLES = {methods.describe(name).title: name for name in methods.names()} | SPOKEN
#: A name that another word does not go on with.
NAME = rf"(?<![\w-])({'|'.join(sorted(map(re.escape, TITLES), key=len, reverse=True))})(?![\w+*-])"
SCORE = re.compile(NAME + r",? (?:has )?\(?(\d\d\.\d)(?!\d| ?%)")
GAP = re.compile(NAME + r" ([+-]\d+\.\d)\s\[([+-]?\d+\.\d), ([+-]?\d+\.\d)\]")
#: Parts whose numbers are of a study and not of a board.
STUDY = re.compile(r"\]\(\.\./results/(studies/|pilot|ablations)")


def parts() -> Iterator[tuple[list[str], str]]:
    """Each paragraph and bullet that tells of boards, with the names of the boards that its section links to."""
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    for section in re.split(r"^(?=## |On `)", text, flags=re.M):
        names = [name for name in re.findall(r"results/boards/([\w.-]+)\.md", section) if name]
        names += [f"vision-mini-{n}--ViT-mini--mini" for n in (8, 14, 20) if "`vision-mini-8` (pretrained" in section]
        for part in re.split(r"\n(?=- )|\n\n", section):
            if not STUDY.search(part):
                yield names, " ".join(part.split())


@cache
def means(board: str) -> pd.DataFrame:
    frame = pd.read_csv(RESULTS / "boards" / f"{board}.csv")
    return frame.assign(of=frame["method"].str.partition(":")[0])


SCORES = [(names, found[1], float(found[2])) for names, part in parts() for found in SCORE.finditer(part)]
GAPS = [
    (names, found[1], tuple(map(float, found.groups()[1:]))) for names, part in parts() for found in GAP.finditer(part)
]


@pytest.mark.parametrize(("boards", "title", "score"), SCORES)
def test_a_score_is_that_of_a_row_of_the_method(boards: list[str], title: str, score: float) -> None:
    tables = [means(board) for board in boards]
    known = [value for table in tables for value in table[table["of"] == TITLES[title]]["mean"]]
    assert any(abs(value - score) < 0.06 for value in known), f"{title} {score}: the boards have {known}"


@cache
def board_of(name: str) -> rows.Board:
    """Of the project's own records."""
    boards = rows.boards(Store(REFERENCE, read_only=True).all(name.partition("--")[0]))
    return next(board for board in boards if board.name == name)


def test_a_difference_is_that_of_the_method_to_another_row() -> None:
    for names, title, (value, low, high) in GAPS:
        board = board_of(names[0])
        assert board.versus is not None
        of = board.rows["method"].str.partition(":")[0].tolist()
        mine = [place for place, name in enumerate(of) if name == TITLES[title]]
        # Said of the method that gains, or of the one that it improves upon.
        middle = np.concatenate([board.versus.value[mine], -board.versus.value[mine]])
        half = np.concatenate([board.versus.half[mine]] * 2)
        # The text's intervals are bootstrapped, those of all pairs at once are by quantiles.
        near = (abs(middle - value) < 0.06) & (abs(middle - half - low) < 0.25) & (abs(middle + half - high) < 0.25)
        assert near.any(), f"{title} {value} [{low}, {high}]: {np.round(middle, 2)}"


def test_the_numbers_are_found() -> None:
    assert len(SCORES) > 40 and len(GAPS) > 8
