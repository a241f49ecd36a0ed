"""`leaderboard.html` is one file that works from disk without a network, and shows the rows of the boards."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from helpers.pages import HOSTILE, some_records
from helpers.tables import assert_same_but_for_rounding

from benchmark.board import leaderboard, rows
from benchmark.board.columns import MEANING
from benchmark.common.project import DEFAULT_SUITE
from benchmark.report import page
from benchmark.scores import published

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "benchmark" / "report" / "templates" / "vendor"


def data_of(text: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_the_page_holds_the_rows_of_the_boards(written: Path) -> None:
    boards = rows.boards(some_records(HOSTILE))
    shown = {each["name"]: each for each in data_of(written.read_text())["boards"]}
    assert set(shown) == {board.name for board in boards} | {"published"}
    for board in boards:
        for row, there in zip(board.rows.to_dict("records"), shown[board.name]["rows"], strict=True):
            assert all(there[name] == pytest.approx(row[name]) for name in ("mean", "normalised", *board.tasks))
            assert there["method"] == row["method"]
    full = {row["method"]: row for row in shown["vision-8--ViT-B-32--tall"]["rows"]}
    assert full["tsv_m"]["published"] == 85.86 and full["tsv_m"]["printed"]["DTD"] > 0


def test_what_is_published_says_on_the_page_whether_it_lies_within_the_rows_interval(written: Path) -> None:
    boards = {board.name: board for board in rows.boards(some_records(HOSTILE)) if len(board.beside)}
    shown = {each["name"]: each for each in data_of(written.read_text())["boards"]}
    judged = set()
    for name, board in boards.items():
        (column,) = [each for each in shown[name]["columns"] if each["field"] == "within"]
        assert column["visible"] and column["meaning"] == MEANING["within"]
        for row in shown[name]["rows"]:
            lines = board.beside[board.beside["method"] == row["method"]].set_index("task")["within"]
            assert (row["within"] or "") == lines.get(published.AVERAGE, "")
            assert row["outside"] == [task for task in board.tasks if lines.get(task) == "no"]
            judged |= {row["within"], bool(row["outside"])}
    assert {"yes", "no", True, False} <= judged
    others = [each for name, each in shown.items() if name not in {*boards, "published"}]
    assert others and all(
        not column["visible"] for each in others for column in each["columns"] if column["field"] == "within"
    )


def test_a_board_says_on_the_page_how_well_it_predicts(written: Path) -> None:
    boards = {board.name: board for board in rows.boards(some_records(HOSTILE))}
    shown = {each["name"]: each for each in data_of(written.read_text())["boards"]}
    said = {name for name, board in boards.items() if board.validity is not None}
    assert said and {name for name in boards if "How well this ranking predicts" in shown[name]["predicts"]} == said


def test_every_number_has_its_record_and_every_record_is_there(written: Path) -> None:
    for board in data_of(written.read_text())["boards"]:
        for row in board["rows"]:
            if board["name"] != "published":
                assert len(row["links"]) == row["n"]
                for link in row["links"]:
                    record = json.loads((written.parent / link["href"]).read_text())
                    assert record["run_id"] == link["run"] and str(record["spec"]["seed"] or "") in str(link["seed"])


def test_nothing_on_the_page_comes_from_elsewhere(written: Path) -> None:
    text = written.read_text()
    assert "default-src 'none'" in text and not re.search(r"<(script|img|iframe)[^>]+src=", text.split("<script>")[0])
    assert "sourceMappingURL" not in text and "@import" not in text
    assert text.count("</script>") == 3, "data of a record must not end a script"


def test_the_library_is_the_one_its_readme_says() -> None:
    told = dict(re.findall(r"\| (tabulator\S*) \| ([0-9a-f]{64}) \|", (VENDOR / "README.md").read_text()))
    files = [path for path in VENDOR.iterdir() if path.name != "README.md"]
    assert told == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_column_says_what_it_means(written: Path) -> None:
    for board in data_of(written.read_text())["boards"]:
        for column in board["columns"]:
            assert len(column["meaning"]) > 8 or column["field"] == "method", column


def test_the_committed_page_is_what_the_records_say() -> None:
    reference = ROOT / "results" / "reference"
    boards = leaderboard.load(reference)
    made = page.html(boards, page.record_links(boards, ROOT / "results", [reference]))
    stored = (ROOT / "results" / "leaderboard.html").read_text()
    assert_same_but_for_rounding(made, stored, "type ./run_all.sh board --reference")


def test_without_records_there_is_still_the_published_tab(tmp_path: Path) -> None:
    assert [board["name"] for board in data_of(page.write([], tmp_path, []).read_text())["boards"]] == ["published"]


def test_the_committed_page_opens_on_the_default_suite() -> None:
    first = data_of((ROOT / "results" / "leaderboard.html").read_text())["boards"][0]
    assert first["name"].startswith(f"{DEFAULT_SUITE}--")
