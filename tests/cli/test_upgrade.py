"""Records of earlier versions: read as they are, and upgraded on disk without losing one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.records import EARLIER

from benchmark.board import rows, selection
from benchmark.cli import main as cli
from benchmark.cli import upgrade
from benchmark.common.project import REFERENCE, RESULTS
from benchmark.harness.runner import plan
from benchmark.records.record import RECORD_VERSION, Record
from benchmark.records.spec import RunSpec
from benchmark.records.store import RECORD, Store
from benchmark.studies import tables
from benchmark.suites import load, open_bench

IDS = sorted(path.parent.name for path in EARLIER.rglob(RECORD))
#: One that a study transferred, and the runs it was made from.
TRANSFER, SOURCE, RECIPIENT = "d5a672b7b8e3cd0b", "55edae4451028497", "5d2cd5c6ecf7450a"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder of an earlier version, with a merged model beside one record."""
    shutil.copytree(EARLIER, tmp_path / "results")
    folder = next((tmp_path / "results").rglob(SOURCE))
    (folder / "merged.safetensors").write_bytes(b"weights")
    (folder / ".lock").touch()
    return tmp_path / "results"


def everything(results: Path) -> dict[str, dict[str, Any]]:
    """Each record as its file says, by method, variant and suite."""
    found = [json.loads(path.read_text()) for path in results.rglob(RECORD)]
    return {f"{r['spec']['suite']} {r['spec']['method']} {r['variant']}": r for r in found}


def upgraded(results: Path) -> upgrade.Upgrade:
    return upgrade.upgrade(upgrade.stores(results), upgrade.of_this_checkout)


def test_records_of_every_earlier_version_are_read_without_an_upgrade(results: Path) -> None:
    read = [record for folder in upgrade.stores(results) for record in Store(folder, read_only=True).all()]
    assert len(read) == len(IDS) == 7
    assert {record["version"] for record in everything(results).values()} == {1, 2}
    for record in read:
        before = everything(results)[f"{record.spec.suite} {record.spec.method} {record.variant}"]
        assert record.version == RECORD_VERSION and record.run_id not in IDS
        assert record.spec.data == {"test": before["provenance"]["data"]}
        assert record.spec.method_version == before["spec"]["method_version"]
    assert sorted(p.parent.name for p in results.rglob(RECORD)) == IDS, "reading writes nothing"


def test_an_upgrade_loses_nothing_and_renews_every_identity(results: Path) -> None:
    before = everything(results)
    done = upgraded(results)
    after = everything(results)
    assert sorted(done.ids) == IDS and not done.left and after.keys() == before.keys()
    for name, record in after.items():
        old = before[name]
        assert record["version"] == RECORD_VERSION and record["run_id"] == done.ids[old["run_id"]]
        assert record["run_id"] == RunSpec.model_validate(record["spec"]).run_id
        assert "data" not in record["provenance"] and record["sha256"] != old.get("sha256")
        assert record["spec"]["data"]["test"].items() >= old["provenance"]["data"].items()
        left = ("version", "run_id", "spec", "provenance", "sha256", "artifacts")
        same = {"bystanders": {}, **{k: v for k, v in old.items() if k not in left}}
        assert {k: v for k, v in record.items() if k not in left} == same
        assert record["provenance"] == {**{k: v for k, v in old["provenance"].items() if k != "data"}, "notes": []}
    stored = [record for folder in upgrade.stores(results) for record in Store(folder, read_only=True).all()]
    assert sorted(r.run_id for r in stored) == sorted(done.ids.values()), "in their own folders, with their own sha256"
    assert sorted(path.parent.name for path in results.rglob(RECORD)) == sorted(done.ids.values())
    assert not [path for name in IDS for path in results.rglob(name)], "old folders are gone"
    assert next(results.rglob("merged.safetensors")).parent.name == done.ids[SOURCE]


def test_records_that_name_others_name_them_by_their_new_ids(results: Path) -> None:
    done = upgraded(results)
    records = {r.run_id: r for r in Store(results / "studies" / "records", read_only=True).all()}
    given = records[done.ids[TRANSFER]].spec.parameters
    assert (given["source_run"], given["recipient_run"]) == (done.ids[SOURCE], done.ids[RECIPIENT])
    frame = tables.transfer(records.values(), records.values())
    assert frame["recipient"].tolist() == ["iso_c"] and frame["gain"].notna().all()


def test_all_data_that_a_run_read_are_in_its_identity_where_they_are_known(results: Path) -> None:
    upgraded(results)
    read = {
        name.rpartition(" ")[2]: {split: sorted(data) for split, data in record["spec"]["data"].items()}
        for name, record in everything(results).items()
    }
    tasks, rooms = sorted(load("vision-mini-8").tasks), ["depth", "images", "normals", "segmentation"]
    assert read["symerge"] == read["iso_c"] == {"test": tasks}
    assert read["fisher"] == {"test": tasks, "train": tasks} and read["dare:scale=val"] == {"test": tasks, "val": tasks}
    assert read["individual"] == {"test": rooms, "train": rooms}


def test_data_that_cannot_be_known_are_left_out(results: Path) -> None:
    upgrade.upgrade(upgrade.stores(results), lambda record, splits: {})
    assert {tuple(record["spec"]["data"]) for record in everything(results).values()} == {("test",)}


def test_a_run_of_todays_code_stands_for_the_plan_after_an_upgrade(results: Path) -> None:
    """A version is carried over for the very code that had it, and stays what it was for any other."""
    known = yaml.safe_load(upgrade.VERSIONS.read_text())
    before = {name: record["spec"]["method_version"] for name, record in everything(results).items()}
    upgraded(results)
    after = {name: record["spec"]["method_version"] for name, record in everything(results).items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if known.get(name.split()[1], [""])[0] == before[name]} != set()
    (run,) = plan(open_bench(load("vision-mini-8")), ["fisher"], seeds=[0])[2:]
    name = "vision-mini-8 fisher fisher"
    made = Record.model_validate({**everything(results)[name], "sha256": None})
    same = made.spec.model_copy(update={"method_version": run.spec.method_version})
    assert same.run_id == run.spec.run_id and made.run_id != run.spec.run_id, "older code is not the present one"


def test_a_second_upgrade_and_one_after_an_interruption_change_nothing_more(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "again")
    first = upgraded(results)
    texts = {path.relative_to(results): path.read_text() for path in results.rglob(RECORD)}
    assert not upgraded(results).ids
    # Stopped after a record was written and before the old one was removed.
    for path in (tmp_path / "again").rglob(RECORD):
        new = next(p for p in texts if p.parent.name == first.ids[path.parent.name])
        (tmp_path / "again" / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / new).write_text(texts[new])
        break
    upgraded(tmp_path / "again")
    assert {p.relative_to(tmp_path / "again"): p.read_text() for p in (tmp_path / "again").rglob(RECORD)} == texts


def test_what_was_done_again_since_is_left_and_counts_once(results: Path) -> None:
    store = Store(results)
    (old,) = [r for r in store.all("vision-mini-8") if r.variant == "fisher"]
    whole = upgrade._spec(old, {}, upgrade.of_this_checkout)
    again = old.model_copy(update={"spec": whole, "run_id": whole.run_id, "finished": "2026-12-01T00:00:00+00:00"})
    store.save(again)
    done = upgraded(results)
    assert list(done.left.values()) == [f"the run was done again since, {again.run_id}"]
    kept = [r for r in store.all("vision-mini-8") if r.variant == "fisher"]
    assert again in kept and store.load(again.spec) == again


def test_damaged_records_are_named_and_left(results: Path) -> None:
    path = next(results.rglob(TRANSFER)) / RECORD
    path.write_text(path.read_text().replace('"value"', '"valeu"', 1))
    done = upgraded(results)
    assert path.is_file() and done.left[path].startswith("damaged:") and len(done.ids) == 6


def test_a_board_of_old_records_is_that_of_the_upgraded_ones(results: Path) -> None:
    def shown() -> list[Any]:
        boards = rows.boards(Store(results, read_only=True).all())
        return [board.rows.drop(columns="runs").to_csv() for board in boards] + [board.notes for board in boards]

    before = shown()
    upgraded(results)
    assert shown() == before and len(before) == 4


def test_the_command_says_what_it_did(results: Path, capsys: Any) -> None:
    assert cli.main(["upgrade", "--results", str(results)]) == 0
    assert "7 records of earlier versions upgraded" in capsys.readouterr().out
    assert cli.main(["upgrade", "--results", str(results)]) == 0
    assert "0 records" in capsys.readouterr().out
    assert cli.main(["upgrade", "--results", str(results / "nowhere")]) == 2
    assert "no records under" in capsys.readouterr().err


def test_the_projects_own_records_are_all_of_the_present_version() -> None:
    folders = (REFERENCE, RESULTS / "studies" / "records")
    files = [path for folder in folders for path in folder.rglob(RECORD)]
    assert len(files) >= 818
    assert {json.loads(path.read_text())["version"] for path in files} == {RECORD_VERSION}
    kept = selection.of_each_place(Store(REFERENCE, read_only=True).all())
    assert len({r.spec.suite for r in kept}) >= 7
