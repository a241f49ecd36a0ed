"""Runs that failed, were superseded or are stale: what boards leave out, validation skips, and `clean` removes."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.records import TASKS, make_record, make_spec

import methods
from benchmark import suites
from benchmark.board import rows, selection
from benchmark.cli import clean
from benchmark.cli import main as cli
from benchmark.records.record import Error, Provenance, Record
from benchmark.records.spec import RunSpec, checked_parameters, present_version, variant_label
from benchmark.records.store import RECORD, Store

SUITE = suites.load("vision-mini-8")
LONG_AGO = "2025-01-01T00:10:00+00:00"


def run(
    method: str, hour: int, command: str, *, failed: bool = False, seed: int | None = None, version: str = "",
    suite_version: str = "", **changed: Any,
) -> Record:  # fmt: skip
    """A run of the present code that began at this hour and took ten minutes; ``changed`` are its keywords."""
    try:
        parameters = checked_parameters(method, changed)
    except Exception:
        parameters = {**checked_parameters(method, {}), **changed}
    spec = make_spec(
        method, seed, parameters=parameters, suite_version=suite_version or SUITE.identity,
        method_version=version or present_version(method, parameters),
    )  # fmt: skip
    error = Error(type="ValueError", message="no", where=f"methods/{method}.py, line 3, in f") if failed else None
    return make_record(
        method, seed, spec=spec, variant=variant_label(method, changed), changed=changed,
        suite_tasks=TASKS, tasks={} if failed else TASKS, status="failed" if failed else "done", error=error,
        started=f"2026-01-01T{hour:02}:00:00.000+00:00", finished=f"2026-01-01T{hour:02}:10:00.000+00:00",
        provenance=Provenance(commit="0" * 40, dirty=False, argv=["run_all.sh", command]),
    )  # fmt: skip


def names(records: list[Record]) -> list[str]:
    return [selection.label(record) for record in records]


def left_out(*records: Record) -> list[tuple[str, str]]:
    return [(selection.label(each.record), each.why) for each in selection.left_out(records)]


def test_a_run_that_failed_is_superseded_by_the_corrected_one_of_a_later_command() -> None:
    wrong, right = run("ties", 1, "a", failed=True, keep=0.9), run("ties", 2, "b", keep=0.1)
    assert left_out(wrong, right) == [("ties:keep=0.9", "put right by ties:keep=0.1")]
    (board,) = rows.boards([wrong, right])
    assert board.incomplete.empty and board.rows["method"].tolist() == ["ties:keep=0.1"]
    assert any("ties:keep=0.9, put right by ties:keep=0.1" in note and "clean" in note for note in board.notes)


@pytest.mark.parametrize(
    "other",
    [
        run("ties", 2, "a", keep=0.1),
        run("ties", 0, "b", keep=0.1),
        run("ties", 2, "b", failed=True, keep=0.1),
        run("emr", 2, "b"),
        run("ties", 2, "b", keep=0.1).model_copy(update={"tasks": {}}),
    ],
    ids=["same command", "before", "failed too", "another method", "incomplete"],
)
def test_a_run_that_failed_stays_where_nothing_stands_for_it(other: Record) -> None:
    wrong = run("ties", 1, "a", failed=True, keep=0.9)
    assert left_out(wrong, other) == []
    (board,) = rows.boards([wrong, other])
    assert "ties:keep=0.9" in board.incomplete["method"].tolist()


def test_a_seed_that_failed_beside_others_of_its_row_is_never_put_right_by_another_row() -> None:
    seeds = [run("symerge", 1, "a", seed=seed, failed=seed == 3) for seed in range(5)]
    assert left_out(*seeds, run("symerge", 2, "b", seed=0, steps=5)) == []


def test_a_run_that_the_plan_refuses_by_now_counts_no_longer() -> None:
    wrong = run("symerge", 1, "a", failed=True, seed=0, adapt="foo")
    ((label, why),) = left_out(wrong)
    assert label == "symerge:adapt=foo" and "adapt=foo is not allowed" in why
    (board,) = rows.boards([wrong])
    assert board.incomplete.empty and board.rows.empty and "adapt=foo" in board.notes[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with one run of every kind."""
    store = Store(tmp_path / "results")
    records = [
        run("weight_average", 1, "a"),
        run("emr", 1, "a", failed=True),
        run("ties", 1, "a", failed=True, keep=0.9),
        run("ties", 2, "b", keep=0.1),
        run("pcb", 1, "a", version="old"),
        run("pcb", 2, "a"),
        run("tsv_m", 1, "a", version="old"),
        run("iso_c", 1, "a").model_copy(update={"status": "incomplete", "tasks": {}}),
    ]
    for record in records:
        path = store.save(record)
        (path.parent / "merged.safetensors").write_bytes(b"x" * 1000)
        (path.parent / ".lock").touch()
    return store.root


def test_leftovers_are_of_three_kinds_and_what_counts_or_can_go_on_is_none(folder: Path) -> None:
    found = clean.leftovers(Store(folder, read_only=True).all())
    said = {(each.record.variant, each.kind) for each in found}
    assert said == {("emr", "failed"), ("ties:keep=0.9", "superseded"), ("pcb", "superseded"), ("tsv_m", "stale")}
    assert all(each.why for each in found)


def test_a_run_on_other_data_is_as_good_as_ever_and_stays(folder: Path) -> None:
    store = Store(folder)
    usual = make_spec("breadcrumbs")
    version = present_version("breadcrumbs", parameters := checked_parameters("breadcrumbs", {}))
    fields = {
        **usual.model_dump(),
        "parameters": parameters,
        "method_version": version,
        "suite_version": SUITE.identity,
    }
    other = RunSpec(**{**fields, "data": {"test": dict.fromkeys(TASKS, "ee")}})
    elsewhere = make_record("breadcrumbs", spec=other, started="2025-01-01T00:00:00+00:00", finished=LONG_AGO)
    store.save(elsewhere)
    everything = store.all()
    assert [each.record.run_id for each in selection.current(everything).of_other_data] == [elsewhere.run_id]
    assert elsewhere.run_id not in {each.record.run_id for each in clean.leftovers(everything)}
    assert cli.main(["clean", "--yes", "--results", str(folder)]) == 0
    assert elsewhere.run_id in {record.run_id for record in store.all()}


def variants(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["variant"] for path in folder.rglob(RECORD))


ALL = ["emr", "iso_c", "pcb", "pcb", "ties:keep=0.1", "ties:keep=0.9", "tsv_m", "weight_average"]


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.parametrize("text", ["n\n", "\n", "yess\n"])
def test_clean_says_what_would_go_and_removes_nothing_unless_told(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, text)
    assert cli.main(["clean", "--results", str(folder)]) == 0
    said = capsys.readouterr().out
    assert variants(folder) == ALL and "nothing was removed" in said
    assert "emr on vision-mini-8, ViT-mini: ValueError: no (methods/emr.py, line 3, in f)" in said
    assert "put right by ties:keep=0.1" in said and "Remove 3 runs, " in said
    assert "stale: 1 run, which stays unless named: clean stale" in said


def test_clean_asks_nobody_when_nobody_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "")
    assert cli.main(["clean", "--results", str(folder)]) == 2
    assert "--yes" in capsys.readouterr().err and variants(folder) == ALL


def test_clean_removes_folders_and_writes_the_boards_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["board", "--results", str(folder)]) == 0
    (board,) = (folder / "boards").glob("*.md")
    assert "emr" in board.read_text()
    answer(monkeypatch, "y\n")
    assert cli.main(["clean", "--results", str(folder)]) == 0
    assert variants(folder) == ["iso_c", "pcb", "ties:keep=0.1", "tsv_m", "weight_average"]
    assert len([path for path in folder.glob("vision-mini-8/*/*") if path.is_dir()]) == 5
    assert "emr" not in board.read_text()
    assert cli.main(["clean", "--results", str(folder), "--yes"]) == 0
    assert len(variants(folder)) == 5, "there is nothing more"


def test_clean_removes_the_kinds_and_suites_that_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clean", "stale", "--yes", "--results", str(folder)]) == 0
    assert variants(folder) == [name for name in ALL if name != "tsv_m"]
    assert cli.main(["clean", "--yes", "--results", str(folder), "--suite", "vision-mini-9"]) == 2
    assert "did you mean vision-mini-8" in capsys.readouterr().err
    assert cli.main(["clean", "everything", "--yes", "--results", str(folder)]) == 2
    assert "allowed: failed, superseded, stale" in capsys.readouterr().err
    assert len(variants(folder)) == 7


def test_a_folder_that_is_named_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clean", "--yes", "--results", str(tmp_path / "typo")]) == 2
    assert "no records under" in capsys.readouterr().err


def test_the_board_of_a_suite_without_runs_goes_too(tmp_path: Path) -> None:
    Store(tmp_path).save(run("emr", 1, "a", failed=True))
    assert cli.main(["board", "--results", str(tmp_path)]) == 0
    assert list((tmp_path / "boards").iterdir())
    assert cli.main(["clean", "--yes", "--results", str(tmp_path)]) == 0
    assert (
        not list((tmp_path / "boards").iterdir())
        and "No finished runs yet" in (tmp_path / "leaderboard.md").read_text()
    )


def test_what_another_process_holds_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (held,) = [r for r in Store(folder).all() if r.variant == "emr"]
    with Store(folder).try_lock(held.spec) as mine:
        assert mine and cli.main(["clean", "--yes", "--results", str(folder)]) == 1
    assert "stays, as another process has it: emr" in capsys.readouterr().err
    assert "emr" in variants(folder) and "ties:keep=0.9" not in variants(folder)


def test_a_run_that_was_done_again_meanwhile_is_not_removed(folder: Path) -> None:
    store = Store(folder)
    (failed,) = [r for r in store.all() if r.variant == "emr"]
    store.save(run("emr", 3, "b"))
    assert not store.remove(failed) and store.load(failed.spec).status == "done"


def test_a_lock_that_was_removed_with_its_run_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that opened the lock before its run was removed must not think that it holds the run."""
    store, record = Store(tmp_path), run("emr", 1, "a", failed=True)
    store.save(record)
    opened, once = os.open, []

    def late(path: Any, *arguments: Any) -> int:
        handle = opened(path, *arguments)
        if str(path).endswith(".lock") and not once:
            once.append(path)
            assert Store(tmp_path).remove(record)
        return handle

    monkeypatch.setattr("benchmark.records.store.os.open", late)
    with store.try_lock(record.spec) as mine:
        assert not mine
    with store.try_lock(record.spec) as mine:
        assert mine


def test_validation_of_a_folder_skips_what_was_put_right_and_says_how_to_remove_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.cli import submit

    monkeypatch.setattr(submit, "check", lambda records, *rest: [])
    seen: list[list[Record]] = []
    monkeypatch.setattr(submit, "_report", lambda records, hashes=True: seen.append(list(records)) or 0)
    store = Store(tmp_path)
    for record in (run("ties", 1, "a", failed=True, keep=0.9), run("ties", 2, "b", keep=0.1)):
        store.save(record)
    assert cli.do(["submit", "validate", str(tmp_path)]) == 0
    assert names(seen[-1]) == ["ties:keep=0.1"]
    said = capsys.readouterr().out
    assert "left out: ties:keep=0.9" in said and "put right by ties:keep=0.1" in said and "clean" not in said
    store.save(run("emr", 1, "a", failed=True))
    cli.do(["submit", "validate", str(tmp_path)])
    assert sorted(names(seen[-1])) == ["emr", "ties:keep=0.1"]
    assert f"./run_all.sh clean --results {tmp_path}" in capsys.readouterr().out
    cli.do(["submit", "validate", str(store.folder(run("ties", 1, "a", keep=0.9).spec) / RECORD)])
    assert names(seen[-1]) == ["ties:keep=0.9"], "a record that is named is not skipped"


def test_what_a_worker_was_told_is_not_what_the_user_typed() -> None:
    from benchmark.executors import processes as devices

    typed = ["run", "--device", "cpu", "cpu"]
    worker = devices.command(typed, "cpu", Path("told.json"))[4:]
    assert devices.typed(worker) == devices.typed(typed) == typed


def test_the_registry_of_the_tests_is_the_present_one() -> None:
    assert {"ties", "emr", "pcb", "tsv_m", "iso_c"} <= set(methods.names())
