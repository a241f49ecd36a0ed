"""Which records boards, comparisons and tables of studies show where several tell of the same runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.records import TASKS, make_record, make_spec
from helpers.unlike import dense, record, row_of

from benchmark.board import comparison as compare
from benchmark.board import leaderboard, rows, selection
from benchmark.common.errors import UserError
from benchmark.records.record import Record
from benchmark.scores import relative
from benchmark.studies import settings, tables

EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"


def made(method: str, seed: int | None = None, accuracy: float = 0.7, finished: str = EARLY, **spec: Any) -> Record:
    return make_record(
        method, accuracy=accuracy, finished=finished, spec=make_spec(method, seed, **spec), variant=method
    )


def versions() -> list[Record]:
    """Five seeds of an old version, one of a new one that has another keyword; and what they are compared with."""
    return [
        made("individual", accuracy=0.95),
        made("emr", accuracy=0.8),
        *(made("symerge", seed, 0.6, method_version="old", parameters={"steps": 1}) for seed in range(5)),
        made("symerge", 0, 0.9, LATE, method_version="new", parameters={"steps": 1, "clamp": True}),
    ]


def test_a_new_keyword_does_not_leave_the_old_version_on_the_board() -> None:
    (board,) = rows.boards(versions())
    assert board.rows["method"].tolist() == ["symerge", "emr", "individual"]
    assert row_of(board, "symerge")["n"] == 1 and "5 records of earlier versions" in board.notes[0]


@pytest.mark.parametrize("turned", [False, True])
def test_a_comparison_takes_the_runs_that_the_board_shows(turned: bool) -> None:
    given = versions()[::-1] if turned else versions()
    text = compare.compare(given, "symerge", "emr", "vision-mini-8")
    assert text.startswith("symerge (n=1) minus emr (n=1)") and "symerge is better" in text
    both = [*given, made("ties", accuracy=0.9), made("ties", accuracy=0.5, finished=LATE, dtype="bfloat16")]
    assert "ties is better" in compare.compare(both, "ties", "emr", "vision-mini-8")
    assert "emr is better" in compare.compare(both, "ties [bfloat16]", "emr", "vision-mini-8")


def test_a_comparison_over_several_backbones_asks_for_one() -> None:
    both = [made("ties"), made("emr", accuracy=0.8), made("emr", accuracy=0.2, backbone="ViT-L-14")]
    with pytest.raises(UserError, match=r"ViT-L-14 \(project\), ViT-mini \(project\)") as error:
        compare.compare(both, "emr", "ties", "vision-mini-8")
    assert "--backbone" in str(error.value.__dict__) + str(error.value)
    text = compare.compare(both, "emr", "ties", "vision-mini-8", backbone="ViT-mini", family="project")
    assert "emr is better" in text


@pytest.mark.parametrize("turned", [False, True])
def test_scores_are_normalised_by_the_experts_in_float32(turned: bool) -> None:
    records = [made("individual", accuracy=0.9), made("individual", accuracy=0.4, dtype="bfloat16", finished=LATE),
               made("ties", accuracy=0.7)]  # fmt: skip
    (board,) = rows.boards(records[::-1] if turned else records)
    expert = {task: result.value for task, result in records[0].tasks.items()}
    values = {task: result.value for task, result in records[2].tasks.items()}
    assert row_of(board, "ties")["normalised"] == pytest.approx(100 * np.mean([values[t] / expert[t] for t in TASKS]))


def test_runs_on_other_samples_are_set_apart_with_what_is_odd() -> None:
    records = [make_record(name, accuracy=0.7, n=200) for name in ("individual", "ties", "emr")]
    (board,) = rows.boards([*records, make_record("symerge", 0, n=199)])
    assert "symerge" not in set(board.rows["method"]) and board.rows["rank_low"].notna().sum() == 2
    (left,) = board.incomplete.to_dict("records")
    assert left["method"] == "symerge" and left["reason"] == "mnist was tested on 199 samples, in other runs on 200"


def test_every_command_and_commit_stands_below_a_board() -> None:
    records = versions()
    for place, each in enumerate(records):
        each.provenance.argv, each.provenance.commit = ["run", "--seeds", str(place)], f"{place:040d}"
    (board,) = rows.boards(records)
    text = leaderboard.markdown(board)
    assert all(f"`{command}`" in text for command in board.commands) and len(board.commands) == 3


def test_without_experts_unlike_metrics_are_not_ranked() -> None:
    (board,) = rows.boards([record("alpha", dense(0.5)), record("zeta", dense(0.9))])
    assert board.rows["rank"].isna().all() and "Nothing is ranked: individual" in board.notes[-1]
    leaderboard.markdown(board)


def test_the_mean_over_seeds_is_one_number_wherever_it_stands() -> None:
    runs = [record("symerge", dense(quality, seed), seed=seed) for seed, quality in enumerate((0.95, 0.95, 0.2))]
    records = [record("individual", dense(0.9)), record("ties", dense(0.8)), *runs]
    (board,) = rows.boards(records, records)
    row = row_of(board, "symerge")
    assert row["normalised"] == pytest.approx(row["reference"])
    shares = [relative.shares(run, records[0], list(run.suite_tasks)) for run in runs]
    assert row["normalised"] == pytest.approx(100 * np.mean([np.mean([v.mean() for v in s.values()]) for s in shares]))
    assert row["normalised_low"] <= row["normalised"] <= row["normalised_high"]


def test_tables_of_studies_show_one_version_on_one_backbone() -> None:
    about = settings.Ablation.model_validate(
        {"question": "?", "suite": "vision-mini-8", "variants": ["symerge"], "name": "x", "settings": [{}]}
    )
    other = made("symerge", 0, 0.1, EARLY, backbone="ViT-L-14")
    chosen = selection.of_each_place([*versions(), other])
    frame = tables.ablation(about, chosen)
    (line,) = frame[frame["variant"] == "symerge"].to_dict("records")
    assert line["n"] == 1 and line["mean"] > 80
    assert selection.of_each_place([*versions(), other], backbone="ViT-L-14") == [other]
