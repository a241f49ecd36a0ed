import io

import numpy as np
import pandas as pd
import pytest
from helpers.records import TASKS, classified, make_record, make_spec

from benchmark.board import columns, leaderboard, rows
from benchmark.records.record import Array, Cost, Error, Provenance, TaskResult, Values
from benchmark.records.store import Store
from benchmark.scores import statistics as stats

UNLABELLED = ["unlabelled test"]


def some_records():
    return [
        make_record("pretrained", accuracy=0.5),
        make_record("individual", accuracy=0.9),
        make_record("ties", accuracy=0.7),
        *(make_record("symerge", seed=seed, accuracy=0.85, access=UNLABELLED) for seed in range(5)),
    ]


@pytest.fixture
def board():
    (made,) = rows.boards(some_records())
    return made


def row_of(board, method):
    (found,) = board.rows[board.rows["method"] == method].to_dict("records")
    return found


def test_columns_are_fixed(board):
    assert list(board.rows.columns) == [*rows.FIRST, *TASKS, *rows.LAST]
    assert list(board.incomplete.columns) == rows.INCOMPLETE


def test_methods_are_ranked_by_mean_and_reference_rows_are_shown_unranked(board):
    assert board.rows["method"].tolist() == ["ties", "symerge", "individual", "pretrained"]
    for column, wanted in (("rank", [1, 1, None, None]), ("overall", [2, 1, None, None])):
        assert board.rows[column].astype(object).where(board.rows[column].notna(), None).tolist() == wanted


def test_seeds_of_one_variant_are_one_row_with_a_seed_interval(board):
    records = [record for record in some_records() if record.spec.method == "symerge"]
    row = row_of(board, "symerge")
    wanted = stats.seed_interval([rows.scores(record) for record in records])
    assert row["n"] == 5 and row["seeds"] == "0 1 2 3 4" and len(row["runs"].split()) == 5
    assert row["mean"] == pytest.approx(wanted.value)
    assert (row["low"], row["high"]) == pytest.approx((wanted.low, wanted.high))
    assert row["mnist"] == pytest.approx(np.mean([record.tasks["mnist"].value for record in records]))


def test_normalised_and_worst_are_against_the_expert_and_the_lowest_task():
    accuracy = {"mnist": 0.6, "fashion": 0.9, "optdigits": 0.3}
    records = [make_record("individual", accuracy=0.9), make_record("ties", accuracy=accuracy)]
    row = row_of(rows.boards(records)[0], "ties")
    expert, own = records[0].tasks, records[1].tasks
    assert row["normalised"] == pytest.approx(np.mean([100 * own[task].value / expert[task].value for task in TASKS]))
    assert row["worst_task"] == "optdigits" and row["worst"] == own["optdigits"].value


def test_a_method_that_adapts_on_the_test_inputs_says_so(board):
    assert row_of(board, "symerge")["access"] == "unlabelled test" and row_of(board, "ties")["access"] == "none"
    assert "unlabelled test" in leaderboard.markdown(board)


def test_a_method_that_saw_test_labels_is_not_ranked():
    oracle = make_record("symerge", seed=0, accuracy=0.99, changed={"labels": "truth"}, access=["labelled test"])
    (board,) = rows.boards([*some_records(), oracle])
    found = board.rows[board.rows["row"] == "oracle"]
    assert len(found) == 1 and found["rank"].isna().all() and board.rows["overall"].max() == 2
    assert found["track"].tolist() == ["reference"]


def test_incomplete_rows_stand_apart_with_what_is_missing():
    failed = make_record(
        "emr", tasks=["mnist"], accuracy=1.0, status="failed", error=Error(type="ValueError", message="a | b\nc")
    )
    partial = make_record("dare", seed=0, tasks=["mnist", "fashion"], accuracy=1.0, status="running")
    (board,) = rows.boards([*some_records(), failed, partial])
    assert not set(board.rows["method"]) & {"emr", "dare"}
    assert board.incomplete["method"].tolist() == ["dare", "emr"]
    assert board.incomplete["missing"].tolist() == ["optdigits", "fashion, optdigits"]
    assert board.incomplete["reason"].tolist() == ["", "ValueError: a | b c"]
    assert "ValueError: a \\| b c" in leaderboard.markdown(board)


def test_done_without_all_tasks_is_incomplete():
    (board,) = rows.boards([*some_records(), make_record("emr", tasks=["mnist"], accuracy=1.0)])
    assert "emr" not in set(board.rows["method"]) and board.incomplete["method"].tolist() == ["emr"]


def test_a_seed_that_failed_does_not_hide_the_others():
    failed = make_record("symerge", seed=9, tasks=[], status="failed", error=Error(type="Timeout", message="10 s"))
    (board,) = rows.boards([*some_records(), failed])
    assert row_of(board, "symerge")["n"] == 5 and board.incomplete["seed"].tolist() == ["9"]


def test_only_unfinished_runs_still_make_a_board():
    (board,) = rows.boards([make_record("emr", tasks=[], status="running")])
    assert len(board.rows) == 0 and "emr" in leaderboard.markdown(board)
    assert len(leaderboard.overview([board])) == 0


def test_the_reference_value_is_of_the_same_parameters_and_seeds():
    own = [make_record("symerge", seed=0, accuracy=0.8), make_record("ties"), make_record("dare", seed=7)]
    reference = [
        *(make_record("symerge", seed=seed, accuracy=0.9) for seed in range(3)),
        make_record("ties", changed={"keep": 0.5}),
        make_record("dare", seed=8),
    ]
    (board,) = rows.boards(own, reference)
    same_seed = np.mean([result.value for result in reference[0].tasks.values()])
    assert row_of(board, "symerge")["reference"] == pytest.approx(same_seed)
    assert np.isnan(row_of(board, "ties")["reference"]) and np.isnan(row_of(board, "dare")["reference"])


def test_missing_reference_rows_come_from_the_reference_records():
    (board,) = rows.boards([make_record("ties")], some_records())
    assert set(board.rows["method"]) == {"individual", "ties", "pretrained"}
    assert not np.isnan(row_of(board, "ties")["normalised"])
    other = make_record("individual", spec=make_spec("individual", checkpoints={"base": "bb"}))
    (board,) = rows.boards([make_record("ties")], [other])
    assert set(board.rows["method"]) == {"ties"}, "an expert of other checkpoints is no reference"


def test_backbones_families_and_suites_never_share_a_board():
    changes = [{}, {"backbone": "ViT-B-32"}, {"family": "other"}, {"suite": "vision-8"}]
    found = rows.boards([make_record(spec=make_spec(**change)) for change in changes])
    assert len(found) == 4 and len({board.name for board in found}) == 4
    assert [board.mini for board in found].count(False) == 1
    assert leaderboard.overview(found).groupby("scale").size().to_dict() == {"full": 1, "mini": 3}


def test_a_suites_first_family_comes_first_and_the_others_say_their_name():
    place = {"suite": "llm-small", "backbone": "SmolLM2-135M"}
    found = rows.boards([make_record(spec=make_spec(**place, family=family)) for family in ("full", "small")])
    assert [board.family for board in found] == ["small", "full"]
    assert [board.called for board in found] == ["llm-small", "llm-small (full)"]


def test_variants_and_precisions_are_rows_of_their_own():
    found = [
        make_record("ties"),
        make_record("ties", changed={"keep": 0.1}, variant="ties:keep=0.1"),
        make_record(spec=make_spec("ties", dtype="bfloat16")),
    ]
    (board,) = rows.boards(found)
    assert set(board.rows["method"]) == {"ties", "ties:keep=0.1", "ties [bfloat16]"}
    assert row_of(board, "ties:keep=0.1")["changed"] == '{"keep": 0.1}'


def test_of_two_versions_of_a_method_or_suite_the_last_run_is_shown_and_the_other_counted():
    old = make_record("ties", accuracy=0.9, finished="2025-01-01T00:00:00+00:00")
    new = make_record(spec=make_spec("ties", method_version="v2"), accuracy=0.5)
    (board,) = rows.boards([new, old])
    assert row_of(board, "ties")["runs"] == new.run_id and "1 records of earlier" in board.notes[0]
    new = make_record(spec=make_spec("ties", suite_version="2"))
    (board,) = rows.boards([old, new])
    assert board.suite_version == "2" and row_of(board, "ties")["runs"] == new.run_id and len(board.notes) == 1


def test_cost_is_shown_in_the_units_of_its_columns():
    cost = Cost(merge_seconds=2.0, adapt_seconds=30.0, model_bytes=2**20, storage_bytes=2**19, images_drawn=100)
    row = row_of(rows.boards([make_record("emr", cost=cost, needs_task_id=True)])[0], "emr")
    assert row["storage_models"] == 1.5 and row["extra_storage_mib"] == 0.5 and row["task_id"] == "yes"
    assert row["adapt_seconds"] == 30 and np.isnan(row["peak_cuda_mib"])


def test_metrics_that_differ_have_no_plain_mean_and_rank_by_normalised():
    def record(method, miou, error):
        values = Values(arrays={"x": Array.of(np.zeros(2, "float32"))})
        tasks = {
            "mnist": TaskResult(metric="miou", value=miou, n=2, statistics=values),
            "fashion": TaskResult(metric="abs_err", value=error, higher_is_better=False, n=2, statistics=values),
        }
        return make_record(method, tasks=[], suite_tasks=list(tasks)).model_copy(update={"tasks": tasks})

    (board,) = rows.boards([record("individual", 50, 0.5), record("ties", 40, 1.0), record("emr", 45, 0.6)])
    assert board.rows["method"].tolist() == ["emr", "ties", "individual"]
    assert board.rows["mean"].isna().all() and row_of(board, "ties")["normalised"] == 65.0
    assert row_of(board, "ties")["worst_task"] == "fashion" and row_of(board, "emr")["mean_rank"] == 1.0


def test_equal_counts_share_their_rank_whatever_float32_makes_of_them():
    def run(method, seed, counts, n=750):
        results = {}
        for task, count in zip(TASKS, counts, strict=True):
            exact = classified(np.arange(n) < count)
            results[task] = exact.model_copy(update={"value": float(np.float32(exact.value))})
        return make_record(method, seed).model_copy(update={"tasks": results})

    equal = [(333, 335), (334, 334), (300, 368)]
    records = [run(f"m{i}", seed, [pair[seed]] * 3) for i, pair in enumerate(equal) for seed in (0, 1)]
    means = {np.mean([record.tasks["mnist"].value for record in records[2 * i : 2 * i + 2]]) for i in range(3)}
    assert len(means) > 1, "as stored they differ"
    (board,) = rows.boards([*records, run("better", None, [335] * 3)])
    ranks = dict(zip(board.rows["method"], board.rows["mean_rank"], strict=True))
    assert ranks == {"better": 1.0, "m0": 3.0, "m1": 3.0, "m2": 3.0}
    assert len(set(board.rows["mean"])) == 2
    assert board.rows["method"].tolist() == ["better", "m0", "m1", "m2"]


def test_files_hold_the_same_rows_at_full_precision(tmp_path, board):
    written = leaderboard.write([board], tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in written)
    stem = "boards/vision-mini-8--ViT-mini--project"
    assert names == [f"{stem}.csv", f"{stem}.md", "leaderboard.csv", "leaderboard.md"]
    table = pd.read_csv(tmp_path / f"{stem}.csv")
    assert table["mean"].tolist() == board.rows["mean"].tolist()
    assert list(table.columns[:4]) == ["suite", "suite_version", "backbone", "family"]
    assert f"({stem}.md)" in (tmp_path / "leaderboard.md").read_text()
    text = (tmp_path / f"{stem}.md").read_text()
    for method in board.rows["method"]:
        assert f"| {method}" in text and f"{row_of(board, method)['mean']:.1f}" in text


def test_a_board_names_its_command_commit_and_every_column():
    told = Provenance(commit="a" * 40, dirty=True, argv=["./run_all.sh", "--methods", "ties"])
    (board,) = rows.boards([make_record("ties", provenance=told)])
    text = leaderboard.markdown(board)
    assert "./run_all.sh --methods ties" in text and "aaaaaaaaaaaa with local changes" in text
    for name, _, _ in columns.scores(board)[1:]:
        assert f"**{name}**" in text


def test_no_records_still_write_an_overview(tmp_path):
    assert leaderboard.publish([], [], tmp_path) == []
    assert "No finished runs" in (tmp_path / "leaderboard.md").read_text()


def test_boards_are_read_from_folders(tmp_path):
    for record in some_records():
        Store(tmp_path / "own").save(record)
    Store(tmp_path / "reference").save(make_record("ties"))
    (board,) = leaderboard.load(tmp_path / "own", tmp_path / "reference")
    assert not np.isnan(row_of(board, "ties")["reference"])
    assert leaderboard.load(tmp_path / "nothing") == []


@pytest.mark.parametrize("width", [30, 50, 80, 120])
def test_the_terminal_table_keeps_within_the_width(board, width):
    out = io.StringIO()
    leaderboard.print_table(board.rows, out, width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and len(lines) == 2 + len(board.rows) + len(set(board.rows["track"]))
    assert "rank" in lines[0] and "mean" in lines[0] and ("access" in lines[0]) == (width > 70)


def test_the_terminal_lists_incomplete_runs(board):
    failed = make_record("emr", seed=1, tasks=[], status="failed", error=Error(type="ValueError", message="why"))
    out = io.StringIO()
    leaderboard.print_board(rows.boards([*some_records(), failed])[0], out, 100)
    assert "incomplete: emr seed 1: failed, 0 of 3 tasks. ValueError: why" in out.getvalue()
