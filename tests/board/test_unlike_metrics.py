"""Boards and comparisons of suites whose tasks have metrics of their own: no raw mean, arrows, Δm, paired intervals."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.unlike import DENSE, GLUE, N, dense, glue, record, row_of

from benchmark import suites
from benchmark.board import columns, leaderboard, rows
from benchmark.board import comparison as compare
from benchmark.records import metrics
from benchmark.records.record import Array, Record, TaskResult, Values
from benchmark.scores import relative
from benchmark.scores import statistics as stats


def dense_records() -> list[Record]:
    return [
        record("individual", dense(0.9)),
        record("ties", dense(0.7)),
        *(record("symerge", dense(0.82 + 0.002 * seed, seed), seed=seed) for seed in range(5)),
    ]


def test_unlike_metrics_have_no_raw_mean_and_rank_by_the_expert_normalised_one() -> None:
    (board,) = rows.boards(dense_records())
    assert not board.averaged and board.rows["mean"].isna().all()
    assert board.rows["method"].tolist() == ["symerge", "ties", "individual"]
    row, records = row_of(board, "ties"), dense_records()
    value, expert = ({task: result.value for task, result in each.tasks.items()} for each in (records[1], records[0]))
    ratios = [value["seg"] / expert["seg"], *(expert[task] / value[task] for task in ("depth", "normal"))]
    assert row["normalised"] == pytest.approx(100 * np.mean(ratios))
    changes = [(value["seg"] - expert["seg"]) / expert["seg"]]
    changes += [(expert[task] - value[task]) / expert[task] for task in ("depth", "normal")]
    assert row["delta"] == pytest.approx(100 * np.mean(changes)) and row["delta"] < 0
    assert row["worst_task"] in ("depth", "normal") and row["worst"] == pytest.approx(100 * min(ratios))
    own = row_of(board, "individual")
    assert own["normalised"] == 100 and own["delta"] == 0 and own["normalised_low"] == own["normalised_high"] == 100


@pytest.mark.parametrize("shared", [False, True])
def test_relative_intervals_are_those_of_resampling_both_models_together(shared: bool) -> None:
    mine, expert = record("ties", dense(0.7)), record("individual", dense(0.9))
    found = relative.relative([mine], expert, list(DENSE), shared=shared)
    rng, shares = np.random.default_rng(1), []
    weights = rng.multinomial(N, np.full(N, 1 / N), size=2000)
    for task, metric in DENSE.items():
        if not shared:
            weights = rng.multinomial(N, np.full(N, 1 / N), size=2000)
        value, target = (metrics.resample(metric, r.tasks[task].statistics, weights) for r in (mine, expert))
        shares.append(value / target if metric == "miou" else target / value)
    replicates = 100 * np.mean(shares, axis=0)
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert found.normalised.low == pytest.approx(low, abs=0.3)
    assert found.normalised.high == pytest.approx(high, abs=0.3)
    # The linear shares, which the intervals over seeds use, spread as the replicates do.
    linear = relative.shares(mine, expert, list(DENSE))
    assert linear is not None
    interval = stats.bootstrap_interval(stats.pooled(linear) if shared else linear)
    assert interval.value == pytest.approx(found.normalised.value)
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.15)


def test_tasks_that_share_their_samples_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    (apart,) = rows.boards(dense_records())
    given = suites.load("vision-mini-8").model_copy(update={"shared_samples": True})
    monkeypatch.setattr(suites, "names", lambda: ["dense-test"])
    monkeypatch.setattr(suites, "load", lambda name: given)
    (together,) = rows.boards(dense_records())
    for method in ("ties", "symerge"):
        rows_of = [row_of(board, method) for board in (together, apart)]
        assert rows_of[0]["normalised"] == rows_of[1]["normalised"]
        wide, narrow = (row["normalised_high"] - row["normalised_low"] for row in rows_of)
        assert wide > 1.1 * narrow
    assert "symerge is better" in compare.compare(dense_records(), "symerge", "ties", "dense-test")


def test_the_interval_over_seeds_holds_the_value_and_the_difference_is_paired() -> None:
    (board,) = rows.boards(dense_records())
    row = row_of(board, "symerge")
    assert row["n"] == 5 and row["normalised_low"] < row["normalised"] < row["normalised_high"]
    assert row["delta_low"] < row["delta"] < row["delta_high"] < 0
    below = row_of(board, "ties")
    assert below["above_tied"] == "worse" and below["above"] < 0 and below["rank_low"] == below["rank_high"] == 2


def test_the_board_shows_each_metric_with_its_arrow() -> None:
    (board,) = rows.boards(dense_records())
    text = leaderboard.markdown(board)
    for heading in ("seg (miou ↑)", "depth (abs_err ↓)", "normal (mean_angle, ° ↓)", "Δm", "normalised"):
        assert heading in text, heading
    assert not re.search(r"\| +mean +\|", text) and "lower is better" in text
    assert [column.name for column in columns.terminal(board)][2:4] == ["norm", "Δm"]
    assert "dense-test" in leaderboard.overview_markdown([board])


def test_percents_are_averaged_only_where_the_suite_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record("individual", glue(0.95), "glue-test"), record("ties", glue(0.8), "glue-test")]
    assert not rows.boards(records)[0].averaged
    given = suites.load("vision-mini-8").model_copy(update={"average_percents": True})
    monkeypatch.setattr(suites, "names", lambda: ["glue-test", "dense-test"])
    monkeypatch.setattr(suites, "load", lambda name: given)
    (board,) = rows.boards(records)
    row = row_of(board, "ties")
    assert board.averaged and row["mean"] == pytest.approx(np.mean([row[task] for task in GLUE]))
    assert row["low"] < row["mean"] < row["high"]
    shares = {task: row[task] / row_of(board, "individual")[task] for task in GLUE}
    assert row["worst_task"] == min(shares, key=shares.__getitem__), "the worst is by share of the expert"
    text = leaderboard.markdown(board)
    assert "cola (mcc ↑)" in text and "stsb (pearson_spearman ↑)" in text and re.search(r"\| +mean +\|", text)
    assert not rows.boards(dense_records())[0].averaged, "errors are never averaged with percents"


def test_a_comparison_knows_that_lower_is_better() -> None:
    text = compare.compare(dense_records(), "symerge", "ties", "dense-test")
    assert "symerge is better" in text and "expert-normalised" in text
    line = next(line for line in text.splitlines() if line.startswith("| depth"))
    assert "abs_err" in line and "| -0." in line and line.endswith("| win |")
    assert "3 wins, 0 ties, 0 losses" in text
    back = compare.compare(dense_records(), "ties", "symerge", "dense-test")
    assert "symerge is better" in back and "3 losses" in back


def test_values_that_no_metric_explains_give_a_board_without_intervals() -> None:
    odd = TaskResult(metric="bleu", value=30.0, n=2, statistics=Values(arrays={"x": Array.of([1.0, 2.0])}))
    (board,) = rows.boards([record("individual", {"a": odd, **dense(0.9)}), record("ties", {"a": odd, **dense(0.7)})])
    row = row_of(board, "ties")
    assert np.isnan(row["normalised_low"]) and not np.isnan(row["normalised"])
    assert "a (bleu)" in leaderboard.markdown(board)
