"""What a suite measures beside its tasks is a column of its board, and in no mean and no rank."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.records import make_record

from benchmark.board.leaderboard import board_csv, markdown
from benchmark.board.rows import boards
from benchmark.records.claims import untrue
from benchmark.records.record import Array, BystanderResult, Values
from benchmark.report.page_board import board_data


def perplexity(loss: float, data: str = "d" * 64) -> dict[str, BystanderResult]:
    """Of one text of ten tokens."""
    import math

    kept = Values(arrays={"nll_sum": Array.of([10 * loss]), "count": Array.of([10])})
    value = math.exp(loss)
    about = {"metric": "perplexity", "value": value, "higher_is_better": False, "n": 1, "statistics": kept}
    return {"perplexity": BystanderResult(**about, data=data)}


@pytest.fixture
def records():
    return [
        make_record("ties", accuracy=0.7, bystanders=perplexity(2.0), finished="2026-01-01T00:00:01.000+00:00"),
        make_record("dare", seed=0, accuracy=0.6, bystanders=perplexity(1.0), finished="2026-01-01T00:00:02.000+00:00"),
        make_record("dare", seed=1, accuracy=0.6, bystanders=perplexity(3.0), finished="2026-01-01T00:00:02.000+00:00"),
        make_record("task_arithmetic", accuracy=0.5, finished="2026-01-01T00:00:01.000+00:00"),
    ]


def values(records) -> dict[str, float]:
    (board,) = boards(records)
    return dict(zip(board.rows["method"], board.rows["perplexity"], strict=True))


def test_the_column_has_the_mean_over_seeds_and_a_dash_for_records_of_before(records):
    (board,) = boards(records)
    assert values(records)["ties"] == pytest.approx(7.389, abs=1e-3)
    assert values(records)["dare"] == pytest.approx((2.718 + 20.086) / 2, abs=1e-3)
    assert pd.isna(values(records)["task_arithmetic"])
    lines = markdown(board).splitlines()
    heading = next(line for line in lines if "| mean rank |" in line)
    place = heading.split("|").index(next(cell for cell in heading.split("|") if "perplexity ↓" in cell))
    row = next(line for line in lines if "task_arithmetic" in line and line.count("|") == heading.count("|"))
    assert row.split("|")[place].strip() == "–"
    assert "perplexity" in board_csv(board).splitlines()[0]
    shown = {column["field"]: column for column in board_data(board, {})["columns"]}
    assert shown["perplexity"]["digits"] == 2 and shown["perplexity"]["descending"] is False


def test_it_is_in_no_mean_and_no_rank(records):
    plain = [record.model_copy(update={"bystanders": {}}) for record in records]
    (board,), (without,) = boards(records), boards(plain)
    pd.testing.assert_frame_equal(board.rows.drop(columns="perplexity"), without.rows)


def test_a_row_with_a_seed_that_lacks_it_or_of_other_data_than_the_last_has_none(records):
    records[1] = records[1].model_copy(update={"bystanders": {}})
    assert pd.isna(values(records)["dare"])
    records[0] = records[0].model_copy(update={"bystanders": perplexity(2.0, "e" * 64)})
    assert pd.isna(values(records)["ties"])


def test_a_value_that_its_statistics_do_not_give_is_no_valid_record(records):
    assert untrue(records[0]) == []
    records[0].bystanders["perplexity"].value = 1.5
    assert untrue(records[0]) == ["perplexity: says 1.5, its statistics give 7.38906"]
