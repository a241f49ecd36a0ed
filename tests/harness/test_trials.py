"""A trial on a few samples goes every step, and is never taken for, cached as, or tabled with a run on all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hub_data import parquet
from helpers.public_sets import small as small
from helpers.tiny import TinyBench, TinySource
from helpers.tiny import run as run_tiny

from benchmark import suites
from benchmark.board import leaderboard, trials
from benchmark.board.rows import boards
from benchmark.cli import clean
from benchmark.cli import main as cli
from benchmark.common import cache
from benchmark.common.errors import UserError
from benchmark.common.project import REFERENCE
from benchmark.domains.vision import public as full
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records.record import Record
from benchmark.records.spec import RunSpec
from benchmark.records.store import Store
from benchmark.submissions.package import pack
from benchmark.submissions.validation import check
from benchmark.suites.trial import Few, spread_over
from methods.api import Source

LIMIT = 12


class Tried(TinyBench):
    """The tiny bench as a trial; it keeps what every split was asked for."""

    limit = LIMIT

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:  # type: ignore[override]
        return self.limited(TinySource(hash((int(task[1:]), ["train", "val", "test"].index(split))) % 1000))


def test_a_trial_reads_so_many_samples_of_every_split_and_goes_every_step(tmp_path: Path) -> None:
    records = run_tiny(Tried(), Store(tmp_path), "symerge", "fisher", "task_arithmetic:scale=val")
    assert [record.status for record in records] == ["done"] * 5
    for record in records:
        assert record.spec.limit == LIMIT and {result.n for result in record.tasks.values()} == {LIMIT}
        assert json.loads((Store(tmp_path).folder(record.spec) / "record.json").read_text())["spec"]["limit"] == LIMIT
    assert len(records[-1].trace_summary["chosen"]["validation"]) > 3
    text = trials.text(records, "tiny")
    assert text.startswith("TRIAL of tiny on at most 12 samples a task: no result, not ranked")
    assert len(text.splitlines()) == 3 + len(records)


def test_every_domain_hands_out_no_more_than_the_limit() -> None:
    for name in ("vision-mini-8", "dense-mini"):
        bench = suites.open_bench(suites.load(name), limit=5)
        for split in ("train", "val", "test"):
            source = bench.source(next(iter(bench.tasks)), split)
            assert len(source) == 5 and len(source[torch.arange(5)][1]) == 5
        step = bench.finishing()
        assert step is None or len(step[1]) == 5
        whole = suites.open_bench(suites.load(name))
        task = next(iter(whole.tasks))
        every = whole.source(task, "test")
        rows = torch.from_numpy(spread_over(len(every), 5))
        few = bench.source(task, "test")
        assert torch.equal(few[torch.arange(5)][0], every[rows][0]) and few.ready == every.ready  # type: ignore[attr-defined]
        assert isinstance(few, Few) and torch.equal(few.stored(torch.arange(5))[0], every.stored(rows)[0])  # type: ignore[attr-defined]
        assert len(suites.open_bench(suites.load(name), limit=10**6).source(task, "test")) == len(every)


@pytest.mark.parametrize(("total", "limit"), [(10, 4), (7, 7), (1000, 3), (397, 100)])
def test_samples_of_a_trial_are_different_and_spread_over_the_split(total: int, limit: int) -> None:
    rows = spread_over(total, limit)
    assert len(set(rows.tolist())) == limit and rows[0] == 0 and rows[-1] >= total - -(-total // limit)
    assert np.diff(rows).max(initial=0) - np.diff(rows).min(initial=total) <= 1


def test_a_trials_identity_is_its_own_and_without_one_nothing_changes(tmp_path: Path) -> None:
    (whole, *_), (few, *_) = plan(TinyBench(), ["ties"], seeds=[0]), plan(Tried(), ["ties"], seeds=[0])
    assert (
        whole.spec.limit is None
        and "limit" not in whole.spec.model_dump()
        and "limit" not in whole.spec.model_dump_json()
    )
    assert whole.id != few.id and few.spec.model_copy(update={"limit": None}).run_id == whole.id
    assert RunSpec.model_validate(few.spec.model_dump()) == few.spec and "seed" not in few.spec.model_dump(
        exclude={"seed"}
    )
    # The project's own records are read back under the ids that they were written under.
    path = next(iter(sorted(REFERENCE.glob("vision-mini-8/*/*/record.json"))))
    record = Record.model_validate_json(path.read_text())
    assert record.spec.run_id == path.parent.name and record.trial == ""


def test_a_trial_stands_for_no_run_and_no_run_for_a_trial(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (few, *_) = run_tiny(Tried(), store, "ties")
    (whole, *_) = run_tiny(TinyBench(), store, "ties")
    assert few.run_id != whole.run_id and {r.n for r in whole.tasks.values()} == {24}
    assert {record.run_id for record in store.all()} == {r.run_id for r in store.all(trials=True) if not r.trial}
    assert len(store.all(trials=True)) == 2 * len(store.all()) == 6
    assert store.load(few.spec) == few and store.load(whole.spec) == whole
    jobs = plan(Tried(), ["ties"], seeds=[0])
    with pytest.raises(UserError, match="planned with --limit 12, and is to be carried out with None"):
        execute(jobs, TinyBench(), store, Options())


def test_a_board_lists_trials_apart_and_ranks_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_tiny(TinyBench(), store, "ties")
    (before,) = boards(store.all(trials=True))
    run_tiny(Tried(), store, "ties", "symerge")
    (board,) = boards(store.all(trials=True))
    assert board.rows.equals(before.rows) and board.n_test == before.n_test and board.notes == before.notes
    assert list(board.trials["method"]) == ["individual", "pretrained", "symerge", "ties"]
    assert set(board.trials["limit"]) == {LIMIT}
    page = leaderboard.markdown(board)
    assert "## Trials" in page and "symerge" not in page.partition("## Trials")[0]
    assert "symerge" not in leaderboard.board_csv(board)
    only = Store(tmp_path / "only")
    run_tiny(Tried(), only, "ties")
    (board,) = boards(only.all(trials=True))
    assert board.rows.empty and len(board.trials) == 3
    assert "no results" in leaderboard.markdown(board) and leaderboard.overview([board]).empty


def test_trials_are_neither_packed_nor_accepted(tmp_path: Path) -> None:
    records = run_tiny(Tried(), Store(tmp_path), "ties")
    with pytest.raises(UserError, match="no complete record to submit"):
        pack(records, title="t", authors=["a"])
    said = [str(finding) for finding in check(records)]
    assert sum("is a trial on at most 12 samples a task (--limit 12): no result" in each for each in said) == 3
    assert all(each.startswith("error") for each in said if "a trial" in each)


def test_clean_removes_trials_where_they_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    whole = run_tiny(TinyBench(), store, "ties")
    run_tiny(Tried(), store, "ties")
    kinds = [each.kind for each in clean.leftovers(store.all(trials=True))]
    assert kinds.count("trial") == 3
    assert cli.main(["clean", "--results", str(tmp_path), "--yes"]) == 0
    assert (
        len(store.all(trials=True)) == 6 and "3 runs, which stay unless named: clean trial" in capsys.readouterr().out
    )
    assert cli.main(["clean", "trial", "--results", str(tmp_path), "--yes"]) == 0
    assert {r.run_id for r in store.all(trials=True)} == {r.run_id for r in whole}


def test_a_full_splits_few_images_are_decoded_alone_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Any
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    about = full.info("MNIST")
    small(MNIST=30)
    parquet(tmp_path / about.folder, {"train": 40, "test": 30}, about.classes, label=about.label)
    asked: list[int] = []
    real = full._decode
    monkeypatch.setattr(full, "_decode", lambda *a: (asked.append(len(a[3]) if a[3] is not None else -1), real(*a))[1])
    few = full.load_split("MNIST", "test", root=tmp_path, image_size=8, limit=6)
    whole = full.load_split("MNIST", "test", root=tmp_path, image_size=8)
    assert len(few) == 6 and len(whole) == 30 and asked == [6, -1]
    rows = spread_over(30, 6)
    assert np.array_equal(few.images, whole.images[rows]) and np.array_equal(few.labels, whole.labels[rows])
    assert len(full.load_split("MNIST", "val", root=tmp_path, image_size=8, limit=2)) == 2
    names = {path.relative_to(cache.cache_dir()).parts[1] for path in cache.cache_dir().glob("vision/*MNIST*")}
    assert len(names) >= 3 and sum("-trial" in name for name in names) >= 2, names


def test_the_command_runs_a_trial_and_says_that_it_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--suite", "vision-mini-8", "--methods", "ties", "--results", str(tmp_path), "--limit", "10"]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "a trial on at most 10 samples a task, which gives no result" in capsys.readouterr().out
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "TRIAL of vision-mini-8 on at most 10 samples a task: no result, not ranked" in said
    assert "rank" not in said.replace("ranked", "")
    assert "## Trials" in (tmp_path / "boards/vision-mini-8--ViT-mini--mini.md").read_text()
    for more in (["--reference"], ["--limit", "0"]):
        rest = [word for word in command if more != ["--reference"] or word not in ("--results", str(tmp_path))]
        assert cli.main([*rest, *more]) == 2
