"""The board of a full suite holds what papers print of the same family beside each measured row, and judges it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.records import classified, make_record, make_spec

from benchmark import suites
from benchmark.board import beside, leaderboard
from benchmark.board.rows import BESIDE, Board, boards
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.scores import published
from benchmark.scores import statistics as stats
from benchmark.scores.relative import scores

SUITE = suites.load("vision-8")
TASKS, FAMILY = SUITE.tasks, "task-arithmetic"
N = 1000


def fabricated(method: str, off: float | dict[str, float] = 0.0, family: str = FAMILY, n: int = N) -> Record:
    """A run that scores, on each task, what is printed and so many points more; no such run was ever made."""
    printed = published.per_task("vision-8", "ViT-B-32", FAMILY, method)
    more = off if isinstance(off, dict) else dict.fromkeys(TASKS, off)
    right = {task: round((printed[task]["accuracy"] + more.get(task, 0.0)) * n / 100) for task in TASKS}
    spec = make_spec(
        method, suite="vision-8", suite_version=SUITE.identity, backbone="ViT-B-32", family=family,
        data={"test": dict.fromkeys(TASKS, "dd")},
    )  # fmt: skip
    tasks = {task: classified(np.arange(n) < count) for task, count in right.items()}
    return make_record(method, spec=spec, suite_tasks=TASKS, tasks={}, n=n).model_copy(update={"tasks": tasks})


def board_of(*records: Record, place: Path) -> tuple[Board, str]:
    """The board, and its page, of records that were stored in a temporary folder."""
    store = Store(place)
    for record in records:
        store.save(record)
    (board,) = leaderboard.publish(store.all(), [], place)
    return board, (place / f"boards/{board.name}.md").read_text()


def test_each_row_stands_beside_the_printed_one_with_its_gap_and_whether_it_is_within(tmp_path: Path) -> None:
    records = [fabricated("individual"), fabricated("task_arithmetic", 0.1), fabricated("ties", -3.0)]
    board, page = board_of(*records, place=tmp_path)
    whole = board.beside[board.beside["task"] == published.AVERAGE].set_index("method")
    shown = published.beside("vision-8", "ViT-B-32", FAMILY, list(whole.index))
    assert set(whole.index) == {"individual", "task_arithmetic", "ties"}
    for method, line in whole.iterrows():
        row = board.rows[board.rows["method"] == method].iloc[0]
        assert line["published"] == shown[str(method)]["published"]
        assert line["gap"] == pytest.approx(row["mean"] - line["published"])
        assert (line["low"], line["high"]) == (row["low"], row["high"])
        inside = round(row["low"], 1) <= round(line["published"], 1) <= round(row["high"], 1)
        assert line["within"] == ("yes" if inside else "no")
    assert whole["within"].to_dict() == {"individual": "yes", "task_arithmetic": "yes", "ties": "no"}
    section = page.partition("## Published beside measured")[2].partition("\n## ")[0]
    assert "More than half a point from what is published: ties (-3." in section and "docs/full-scale.md" in section
    assert "task_arithmetic (" not in section.partition("More than half")[2].partition("\n")[0]
    assert "within" in section and "| no " in section and "| yes" in section
    assert "- **within**:" in page


def test_each_task_stands_beside_the_printed_one_with_the_interval_of_that_task(tmp_path: Path) -> None:
    off = {"SVHN": 2.0, "DTD": -0.2}
    board, page = board_of(fabricated("individual"), fabricated("ties", off), place=tmp_path)
    lines = board.beside[board.beside["method"] == "ties"].set_index("task")
    assert list(lines.index) == [published.AVERAGE, *TASKS]
    printed = published.per_task("vision-8", "ViT-B-32", FAMILY, "ties")
    (record,) = [r for r in Store(tmp_path).all() if r.spec.method == "ties"]
    for task in TASKS:
        assert lines["published"][task] == printed[task]["accuracy"]
        assert lines["gap"][task] == pytest.approx(record.tasks[task].value - printed[task]["accuracy"])
        of_task = stats.interval([{task: scores(record)[task]}])  # type: ignore[index]
        assert (lines["low"][task], lines["high"][task]) == pytest.approx(of_task[1:])
    assert (
        lines["within"]["MNIST"] == "yes" and lines["within"]["SVHN"] == "yes" and abs(lines["gap"]["SVHN"] - 2) < 0.1
    )
    wide = board_of(fabricated("ties", {"SVHN": 6.0}), place=tmp_path / "far")[1]
    assert "+6.0*" in wide and "*" not in page.partition("A star:")[2].partition("## ")[0]
    table = pd.read_csv(io.StringIO((tmp_path / f"boards/{board.name}--published.csv").read_text()))
    assert list(table.columns) == BESIDE and len(table) == len(board.beside) == 2 * 9


def test_other_families_and_small_suites_stand_beside_nothing(tmp_path: Path) -> None:
    board, page = board_of(fabricated("ties", family="local"), place=tmp_path)
    assert board.beside.empty and "Published beside" not in page
    assert not list(tmp_path.glob("boards/*--published.csv"))
    (small,) = boards([make_record("ties"), make_record("individual")])
    assert small.beside.empty and list(small.beside.columns) == BESIDE


def test_the_terminal_says_it_at_the_end_of_a_run(tmp_path: Path) -> None:
    board, _ = board_of(fabricated("individual"), fabricated("ties", -3.0), place=tmp_path)
    out = io.StringIO()
    leaderboard.print_board(board, out, 120)
    said = [line for line in out.getvalue().splitlines() if line.startswith("published: ")]
    assert len(said) == 2 and any("ties" in line and line.endswith("outside of its 95 % interval") for line in said)


@pytest.mark.parametrize(
    ("low", "high", "printed", "said"),
    [(70.0, 72.0, 71.0, "yes"), (71.04, 72.0, 71.0, "yes"), (71.06, 72.0, 71.0, "no"), (70.0, 70.94, 71.0, "no"),
     (np.nan, np.nan, 71.0, ""), (70.0, 72.0, np.nan, "")],
)  # fmt: skip
def test_within_is_judged_to_the_tenth_that_papers_print(low: float, high: float, printed: float, said: str) -> None:
    assert beside.within(low, high, printed) == said
