"""Numbers of different data never meet: the data are part of a run's identity, and what shows runs keeps them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.records import TASKS, make_record, make_spec
from helpers.tiny import TinyBench, only, run

from benchmark import suites
from benchmark.board import comparison as compare
from benchmark.board import leaderboard, rows, selection
from benchmark.budget import dry_run
from benchmark.cli import main as cli
from benchmark.cli import plans
from benchmark.common.errors import UserError
from benchmark.harness import runner
from benchmark.harness.runner import plan
from benchmark.records.record import Record
from benchmark.records.spec import other_data
from benchmark.records.store import Store
from benchmark.studies import settings, tables
from benchmark.studies.variants import AdaptOn, Corrupted, Subset
from benchmark.submissions.validation import Known, check
from methods.api import LABELLED, UNLABELLED, Access

EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"
OLD, NEW = {"test": dict.fromkeys(TASKS, "dd")}, {"test": {**dict.fromkeys(TASKS, "dd"), "mnist": "ee" * 8}}


class BySplit(TinyBench):
    """The tiny bench with other data in each split; of ``absent`` splits there are none."""

    def __init__(self, absent: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.absent, self.exchanged = absent, ""

    def fingerprint(self, content: str, split: str) -> str:
        if split in self.absent:
            raise UserError(f"no {split} images of {content}", "Copy them.")
        return f"{content} {split}{' exchanged' if split == self.exchanged else ''}".encode().hex()


def made(method: str, accuracy: float, data: dict[str, Any], finished: str = EARLY, seed: int | None = None) -> Record:
    spec = make_spec(method, seed, data=data)
    return make_record(method, seed, accuracy=accuracy, spec=spec, variant=method, finished=finished)


def two_data() -> list[Record]:
    """Everything on the old data, and all but SyMerge again after one test set was exchanged."""
    return [
        made("individual", 0.95, OLD), made("ties", 0.6, OLD), made("symerge", 0.9, OLD, seed=0),
        made("individual", 0.94, NEW, LATE), made("ties", 0.7, NEW, LATE),
    ]  # fmt: skip


def test_after_another_test_set_a_run_is_done_again_and_its_old_record_stays(tmp_path: Path) -> None:
    store, bench = Store(tmp_path), TinyBench()
    first = run(bench, store, "ties", "symerge")
    exchanged = TinyBench()
    exchanged.data = {**exchanged.data, "t0": "2" * 64}
    again = run(exchanged, store, "ties")
    assert exchanged.opened == 1, "nothing was run"
    assert not {r.run_id for r in first} & {r.run_id for r in again}
    assert len(store.all()) == 7
    assert run(exchanged, store, "ties") == again and exchanged.opened == 1, "done on these data already"
    (board,) = rows.boards(store.all())
    assert set(board.rows["method"]) == {"pretrained", "individual", "ties"} and set(board.rows["n"]) == {1}
    left = board.incomplete
    assert sorted(left["method"]) == ["individual", "pretrained", "symerge", "ties"]
    assert set(left["reason"]) == {"made on other data: t0 (test) had sha256 111111111111, now 222222222222"}
    assert "made on other data" in leaderboard.markdown(board)


def test_the_command_says_that_records_were_made_on_other_data(tmp_path: Path, capsys: Any) -> None:
    store, bench = Store(tmp_path), TinyBench()
    run(bench, store, "ties")
    plans.tell_of_other_data([(bench, plan(bench, ["ties", "emr"], seeds=[0]))], store)
    assert "other data" not in capsys.readouterr().err
    bench = TinyBench()
    bench.data = {**bench.data, "t0": "2" * 64}
    plans.tell_of_other_data([(bench, plan(bench, ["ties"], seeds=[0]))], store)
    said = capsys.readouterr().err
    assert "note: 3 records of tiny" in said and "t0 (test) had sha256 111111111111, now 222222222222" in said


def test_what_a_run_reads_is_its_identity_and_nothing_else_is() -> None:
    bench = BySplit()
    texts = ["ties", "ties:scale=val", "symerge", "fisher", "joint", "surgery"]
    read = {run.variant: list(run.spec.data) for run in plan(bench, texts, seeds=[0])}
    assert read == {
        "pretrained": ["test"], "individual": ["test"], "ties": ["test"], "ties:scale=val": ["test", "val"],
        "symerge": ["test"], "fisher": ["test", "train"], "joint": ["test", "train"], "surgery": ["test"],
    }  # fmt: skip
    before = {run.variant: run.spec.run_id for run in plan(bench, texts, seeds=[0])}
    other = BySplit()
    other.exchanged = "train"
    after = {run.variant: run.spec.run_id for run in plan(other, texts, seeds=[0])}
    assert {name for name in before if before[name] != after[name]} == {"fisher", "joint"}


def test_the_data_of_changed_benches_are_those_their_streams_read() -> None:
    bench, some = BySplit(), Access(test=UNLABELLED)
    assert list(bench.data_of(some)) == ["test"]
    on_train = AdaptOn(bench, "on-train", "train", None)
    assert list(on_train.data_of(some)) == ["test", "train"] and list(on_train.data_of(Access())) == ["test"]
    assert list(Corrupted(on_train, "jpeg-3", "jpeg", 3).data_of(some)) == ["test"]
    assert Subset(bench, ["t1"]).data_of(Access(val=LABELLED)) == {
        split: {"t1": bench.fingerprint("t1", split)} for split in ("test", "val")
    }


def test_the_embedded_suites_name_what_their_manifests_say() -> None:
    from benchmark.domains.dense import scenes as scenes_data
    from benchmark.domains.vision import embedded as vision

    bench = suites.open_bench(suites.load("vision-mini-8"))
    data = bench.data_of(Access(train=UNLABELLED, val=LABELLED))
    assert data["val"]["MNIST"] == vision.info("MNIST").arrays_sha256["validation"]
    assert {split: sorted(tasks) for split, tasks in data.items()} == dict.fromkeys(
        ("test", "train", "val"), sorted(bench.tasks)
    )
    scenes = suites.open_bench(suites.load("dense-mini"))
    known = scenes_data.manifest()["splits"]
    assert scenes.data_of(Access()) == {
        split: {"segmentation": parts["label"], "depth": parts["depth"], "normals": parts["normal"],
                "images": parts["image"]}
        for split, parts in known.items() if split != "val"
    }, "running statistics are estimated on the training images, for every method"  # fmt: skip
    merged = suites.open_bench(suites.load("dense-mini-merged-statistics"))
    assert list(merged.data_of(Access())) == ["test"]


def test_a_plan_is_refused_before_anything_runs_where_data_of_a_method_are_missing(capsys: Any) -> None:
    with pytest.raises(UserError, match="fisher, joint: no run without the data it reads: no train images") as error:
        plan(BySplit(absent=("train",)), ["ties", "fisher", "joint"], seeds=[0])
    assert "Copy them." in error.value.hint and "leave out of --methods: fisher joint" in error.value.hint
    shown = plan(BySplit(absent=("train",)), ["ties", "fisher"], seeds=[0], without_data=True)
    text = dry_run.show(BySplit(absent=("train",)), shown, Store("/nowhere"), None, None)
    (line,) = (line for line in text.splitlines() if "fisher" in line)
    assert line.split()[0] == "-" and "lacks data" in line
    (line,) = (line for line in text.splitlines() if " ties " in line)
    assert line.split()[0] == next(run for run in shown if run.variant == "ties").spec.run_id


def test_a_dry_run_without_any_files_has_no_ids(capsys: Any, tmp_path: Path) -> None:
    argv = ["run", "--suite", "glue", "--methods", "ties", "--dry-run", "--results", str(tmp_path), "--data-root"]
    assert cli.main([*argv, str(tmp_path)]) == 0
    plan_of_runs = capsys.readouterr().out.partition("family ovo: 3 runs\n")[2].splitlines()
    assert [line.split()[0] for line in plan_of_runs[:5]] == ["run", "-", "-", "-", "total"]
    assert "?" not in "".join(plan_of_runs[:5])


def test_a_worker_with_other_data_or_checkpoints_refuses_the_run() -> None:
    planned = only(TinyBench(), "ties")
    runner.check_same(planned, TinyBench())
    other = TinyBench()
    other.data = {**other.data, "t1": "2" * 64}
    with pytest.raises(UserError, match="on other data: t1 .test. had sha256 111111111111, now 222222222222") as error:
        runner.check_same(planned, other)
    assert "--data-root" in error.value.hint
    other = TinyBench()
    other.checkpoints = {"base": "3" * 64}
    with pytest.raises(UserError, match="base had sha256 000000000000, now 333333333333"):
        runner.check_same(planned, other)


def test_a_board_shows_rows_of_the_last_data_and_lists_the_others_with_both_hashes() -> None:
    (board,) = rows.boards(two_data())
    ties = board.rows[board.rows["method"] == "ties"].iloc[0]
    assert sorted(board.rows["method"]) == ["individual", "ties"] and ties["n"] == 1
    assert ties["normalised"] == pytest.approx(100 * _mean(two_data()[4]) / _mean(two_data()[3]), abs=2)
    assert sorted(board.incomplete["method"]) == ["individual", "symerge", "ties"]
    assert set(board.incomplete["reason"]) == {"made on other data: mnist (test) had sha256 dd, now eeeeeeeeeeee"}


def _mean(record: Record) -> float:
    return sum(task.value for task in record.tasks.values()) / len(record.tasks)


def test_a_failed_run_on_other_data_takes_no_row_away() -> None:
    failed = made("ties", 0.5, NEW, LATE).model_copy(update={"status": "failed", "tasks": {}})
    (board,) = rows.boards([*two_data()[:3], failed])
    assert sorted(board.rows["method"]) == ["individual", "symerge", "ties"]
    assert board.incomplete["method"].tolist() == ["ties"]


def test_reference_records_of_other_data_stand_beside_nothing() -> None:
    own = [made("ties", 0.7, NEW)]
    (board,) = rows.boards(own, [made("individual", 0.95, OLD), made("ties", 0.6, OLD)])
    assert board.rows["method"].tolist() == ["ties"] and pd.isna(board.rows["reference"][0])
    (board,) = rows.boards(own, [made("individual", 0.95, NEW), made("ties", 0.6, NEW)])
    assert set(board.rows["method"]) == {"ties", "individual"} and board.rows["reference"].notna().any()


def test_training_data_that_differ_part_only_who_read_them() -> None:
    def read(sha256: str) -> dict[str, Any]:
        return {**OLD, "train": {"mnist": sha256}}

    records = [made("ties", 0.6, OLD), made("fisher", 0.5, read("aa")), made("regmean", 0.7, read("bb"), LATE)]
    (board,) = rows.boards(records)
    assert sorted(board.rows["method"]) == ["regmean", "ties"] and board.incomplete["method"].tolist() == ["fisher"]
    assert "mnist (train) had sha256 aa, now bb" in board.incomplete["reason"][0]


def test_a_comparison_pairs_no_samples_of_different_data() -> None:
    assert compare.compare(two_data(), "ties", "individual", "vision-mini-8").startswith("ties (n=1) minus")
    with pytest.raises(UserError, match="symerge has no record on the data .*mnist .test. had sha256 dd, now") as error:
        compare.compare(two_data(), "ties", "symerge", "vision-mini-8")
    assert "./run_all.sh --suite vision-mini-8 --methods symerge" in error.value.hint


def test_a_study_counts_records_of_one_data_only_and_says_so() -> None:
    elsewhere = make_record("ties", spec=make_spec("ties", suite="vision-mini-8+4-ab", data=OLD), variant="ties")
    with pytest.warns(UserWarning, match=r"left out: 4 records .*had sha256 dd, now eeeeeeeeeeee"):
        chosen = selection.of_each_place([*two_data(), elsewhere])
    assert {(r.spec.suite, r.variant) for r in chosen} == {("vision-mini-8", "individual"), ("vision-mini-8", "ties")}
    about = settings.Ablation.model_validate(
        {"question": "?", "suite": "vision-mini-8", "variants": ["ties", "symerge"], "name": "x", "settings": [{}]}
    )
    frame = tables.ablation(about, chosen)
    assert frame["variant"].tolist() == ["individual", "ties"] and set(frame["n"]) == {1}


def test_a_submission_of_other_data_is_refused_with_both_hashes() -> None:
    record = made("ties", 0.7, OLD)

    def says(data: dict[str, Any]) -> list[str]:
        known = Known(lambda access: data, record.spec.checkpoints, {})
        return [f.what for f in check([record], manifests=lambda *_: known) if "data" in f.what]

    assert says(OLD) == []
    assert says(NEW) == ["was made on other data: mnist (test) had sha256 dd, now eeeeeeeeeeee"]
    (more,) = says({**OLD, "val": OLD["test"]})
    assert more.startswith("names the data of test of 3 tasks; with these keywords a run reads test of 3 tasks, val")


def test_splits_that_only_one_run_read_make_no_difference() -> None:
    assert other_data({"test": {"a": "1"}}, {"train": {"a": "2"}}) is None
    assert other_data({"test": {"a": "1", "b": "1"}}, {"test": {"b": "1", "c": "2"}}) is None
