"""Names and texts of a record are data: none becomes a folder, a row, HTML, a formula or an order to a terminal."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import pandas as pd
import pytest
from helpers.records import make_record, make_spec

from benchmark.board import leaderboard, rows
from benchmark.cli import main as cli
from benchmark.common import escapes, tables
from benchmark.common.errors import UserError
from benchmark.records.record import Error, MethodInfo, Provenance, Record
from benchmark.records.store import Store
from benchmark.submissions import package

RED, WIPE = "\x1b[31m", "\x1b]0;owned\x07"
HOSTILE = [
    "../../x",
    "a\nb | 1 | 99.0 |",
    "a\r\n\n| 1 | 99 |",
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "[click](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "a | 1 | 99.0",
    "a \\| 99.0 \\",
    "`` ` ``",
    "=HYPERLINK(0)",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    " =1",
    f"{RED}red{WIPE}",
    "\x9b31m",
    "left\u202eright",
    "line\u2028line",
    "a\x00b",
]


def hostile(text: str) -> Record:
    """A finished record with the text wherever a record holds one."""
    spec = make_spec(text, suite=text, backbone=text, family=text, suite_version=text)
    return make_record(
        spec=spec,
        variant=text,
        access=[text],
        provenance=Provenance(commit=text, argv=[text], notes=[text]),
        suite_tasks=[text, "plain"],
        tasks=[],
    ).model_copy(
        update={
            "method": MethodInfo(title=text, paper=text),
            "tasks": {each: make_record().tasks["mnist"] for each in (text, "plain")},
        }
    )


def board_of(text: str) -> rows.Board:
    failed = hostile(text).model_copy(
        update={"status": "failed", "tasks": {}, "error": Error(type=text, message=text, where=text)}
    )
    spec = failed.spec.model_copy(update={"seed": 1})
    failed = failed.model_copy(update={"spec": spec, "run_id": spec.run_id})
    (board,) = rows.boards([hostile(text), failed])
    return board


@pytest.mark.parametrize("text", HOSTILE)
def test_a_board_in_markdown_holds_no_html_no_link_and_no_row_of_a_text(text: str) -> None:
    board = board_of(text)
    for page in (leaderboard.markdown(board), leaderboard.overview_markdown([board])):
        plain = [part for i, part in enumerate(page.split("`")) if i % 2 == 0]
        assert not any("<script" in part or "<img" in part for part in plain)
        assert not any(f"]({where}" in part for part in plain for where in ("javascript", "http://example"))
        assert all(char.isprintable() or char == "\n" for char in page)
        for table in _tables(page):
            assert len({_bars(line) for line in table}) == 1, table


def _tables(page: str) -> list[list[str]]:
    """Lines of each table."""
    found: list[list[str]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def _bars(line: str) -> int:
    """Bars that divide cells: those behind an even number of backslashes."""
    count = 0
    for i, char in enumerate(line):
        before = line[:i]
        count += char == "|" and (len(before) - len(before.rstrip("\\"))) % 2 == 0
    return count


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_csv_is_no_formula_and_numbers_stay_numbers(text: str) -> None:
    board = board_of(text)
    for page in (leaderboard.board_csv(board), escapes.csv(leaderboard.overview([board]))):
        heading, *lines = csv.reader(io.StringIO(page))
        assert len(lines) == 1 and not any(map(_is_formula, [*heading, *lines[0]]))
    mean = pd.read_csv(io.StringIO(leaderboard.board_csv(board)))["mean"].item()
    assert mean == board.rows["mean"].item()


def _is_formula(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.lstrip()[:1] in ("=", "+", "-", "@") or cell[:1] in ("\t", "\r")
    return False


def test_numbers_and_plain_texts_of_csv_stay_as_they_are() -> None:
    frame = pd.DataFrame({"number": [-0.5, 1e-9], "text": ["-0.5", "ties"], "mixed": [1, -2.5], "none": [None, "x"]})
    frame["mixed"] = frame["mixed"].astype(object)
    assert escapes.csv(frame) == frame.to_csv(index=False)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_is_told_nothing_by_a_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard.print_board(board_of(text), width=400)
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out)
    assert len(out.splitlines()) == 6, "title, heading, rule, the track, the row, the one that failed"


@pytest.mark.parametrize("text", HOSTILE)
def test_files_stay_in_their_folder(text: str, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "results"
    record = hostile(text)
    Store(root).save(record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Store(root).all() == [record]
    leaderboard.write([board_of(text)], root)
    assert all(path.is_relative_to(root) for path in tmp_path.rglob("*") if path.is_file())
    assert all(str(path).isprintable() for path in root.rglob("*"))


def test_a_packed_submission_is_named_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record(spec=make_spec("../../x"))
    Store(tmp_path / "deep" / "results").save(record)
    here = tmp_path / "deep" / "er" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    cli.main(["submit", "pack", str(tmp_path / "deep" / "results"), "--title", "x", "--authors", "y"])
    assert [path.parent for path in tmp_path.rglob(f"*{package.SUFFIX}")] == [here]


def test_errors_and_warnings_reach_a_terminal_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(argv: object) -> int:
        warnings.warn(f"odd {RED}", stacklevel=1)
        raise UserError(f"unknown {WIPE}", "Type\nthis")

    monkeypatch.setattr(cli, "do", fails)
    assert cli.main([]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\x07" not in err and "unknown \\x1b]0;owned\\x07\n  Type\nthis" in err


def test_tables_escape_what_is_not_the_projects_own_markup() -> None:
    (line,) = tables.markdown(["x"], [[escapes.Markup("[a](b.py)")]], "<")[2:]
    assert line == "| [a](b.py) |"
    assert tables.line(["[a](b.py)", "a|b", "<b>"]) == "| [a]\\(b.py) | a\\|b | &lt;b> |"
