"""What is one row and what is two, and what is averaged: nothing is joined, dropped or averaged without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers.records import TASKS, make_record, make_spec
from helpers.unlike import N, dense, record, result

from benchmark.board import leaderboard, rows
from benchmark.records.record import MethodInfo, Record
from benchmark.report import page_board


def told(method: str, seed: int | None = None, versions: dict[str, str] | None = None, **fields: Any) -> Record:
    made = make_record(method, seed, **fields)
    return made.model_copy(
        update={"provenance": made.provenance.model_copy(update={"versions": versions or {"torch": "2.1.0"}})}
    )


def test_two_methods_of_equal_title_paper_and_size_are_two_rows_in_every_output() -> None:
    about = MethodInfo(title="Same", paper="arXiv:0000.00000")
    (board,) = rows.boards([make_record(name).model_copy(update={"method": about}) for name in ("alpha", "beta")])
    assert sorted(board.rows["method"]) == ["alpha", "beta"]
    assert len(page_board.board_data(board, {})["rows"]) == 2
    assert all(leaderboard.markdown(board).count(f"| {name} ") >= 3 for name in ("alpha", "beta"))


def test_a_row_of_two_sources_is_shown_twice_and_says_which_is_which() -> None:
    mine = make_record("ties", accuracy=0.6)
    theirs = make_record("ties", accuracy=0.8, spec=make_spec("ties", parameters={"keep": 0.3}))
    theirs = theirs.model_copy(update={"provenance": theirs.provenance.model_copy(update={"source": "submitted"})})
    (board,) = rows.boards([mine, theirs])
    assert board.rows["source"].tolist() == ["submitted", "measured here"]
    assert "ties (submitted)" in leaderboard.markdown(board)


def test_the_note_on_earlier_versions_names_their_methods() -> None:
    old = make_record("ties", finished="2025-01-01T00:00:00+00:00")
    new = make_record(spec=make_spec("ties", method_version="v2"))
    (board,) = rows.boards([old, new])
    assert len(board.rows) == 1 and "1 records of earlier versions" in board.notes[0] and "ties" in board.notes[0]


def test_a_missing_task_leaves_no_mean_and_no_rank() -> None:
    lacking = make_record("emr", tasks=TASKS[:2], accuracy=0.99)
    (board,) = rows.boards([make_record("ties"), lacking])
    assert board.rows["method"].tolist() == ["ties"] and board.incomplete["missing"].tolist() == [TASKS[2]]
    assert not {"mean", "rank"} & set(board.incomplete.columns)


def test_seeds_of_two_major_versions_of_a_library_are_not_averaged() -> None:
    new = [told("symerge", seed, {"torch": "2.1.0", "timm": "1.0"}, finished=f"2026-02-0{seed + 1}") for seed in (0, 1)]
    old = told("symerge", 2, {"torch": "1.13.1", "timm": "1.0"}, finished="2026-01-01")
    (board,) = rows.boards([*new, old])
    (row,) = board.rows.to_dict("records")
    assert row["n"] == 2 and row["seeds"] == "0 1"
    assert board.incomplete["seed"].tolist() == ["2"]
    assert "torch 1.13.1, the last of its seeds with 2.1.0" in board.incomplete["reason"][0]


def test_minor_versions_are_averaged_but_for_libraries_below_one() -> None:
    found = [
        told("symerge", 0, {"torch": "2.0.0", "x": "0.4.1"}, finished="2026-01-01"),
        told("symerge", 1, {"torch": "2.9.1+cu", "x": "0.5.0"}, finished="2026-01-02"),
        told("symerge", 2, {"torch": "2.9.1", "x": "0.5.2"}, finished="2026-01-03"),
    ]
    (board,) = rows.boards(found)
    assert board.rows["seeds"].tolist() == ["1 2"] and "x 0.4.1" in board.incomplete["reason"][0]


def test_another_method_may_be_of_another_library() -> None:
    (board,) = rows.boards([told("ties", versions={"torch": "1.0"}), told("emr", versions={"torch": "2.0"})])
    assert len(board.rows) == 2 and not len(board.incomplete)


def test_constant_predictions_count_as_zero_and_are_noted() -> None:
    label, target = np.arange(N) % 2, np.arange(N) / 10
    tasks = {
        "cola": result("mcc", predicted=np.zeros(N, int), label=label),
        "stsb": result("pearson_spearman", predicted=np.full(N, 0.3), target=target),
    }
    usual = {
        "cola": result("mcc", predicted=label, label=label),
        "stsb": result("pearson_spearman", predicted=target, target=target),
    }
    (board,) = rows.boards([record("individual", usual, "glue-test"), record("ties", tasks, "glue-test")])
    row = board.rows.set_index("method").loc["ties"]
    assert row["cola"] == row["stsb"] == 0 and row["normalised"] == 0
    (note,) = [note for note in board.notes if "counts as 0" in note]
    assert "ties on cola (mcc)" in note and "ties on stsb (pearson_spearman)" in note and "individual" not in note
    text = leaderboard.markdown(board)
    assert note in text and "0 where predictions or labels are all one value" in text


def test_classes_that_no_sample_has_are_left_out_of_a_mean_and_noted() -> None:
    tasks = dense(0.8)
    confusion = np.zeros((N, 3, 3), "int32")
    confusion[:, :2, :2] = tasks["seg"].statistics.arrays["confusion"].numpy()  # type: ignore[union-attr]
    more = {**tasks, "seg": result("miou", confusion=confusion)}
    assert more["seg"].value == tasks["seg"].value
    (board,) = rows.boards([record("individual", dense(0.9)), record("ties", more)])
    (note,) = [note for note in board.notes if "left out of the mean" in note]
    assert "ties on seg (miou): 1" in note and "neither occur nor are predicted" in leaderboard.markdown(board)
