"""What a less trusted source says never takes the place of what a more trusted one measured; both are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.records import classified, make_record

from benchmark.board import leaderboard, rows
from benchmark.board.selection import current, left_out
from benchmark.cli import validity
from benchmark.records.record import SOURCES, Record
from benchmark.records.store import RECORD, Store, beside
from benchmark.submissions.package import accepted, labelled

HERE, VERIFIED, SENT, _ = SOURCES


def forgery(record: Record, source: str = SENT) -> Record:
    """The same run with better samples, finished later."""
    tasks = {task: classified(np.ones(result.n, bool)) for task, result in record.tasks.items()}
    better = record.model_copy(update={"tasks": tasks, "finished": "2026-01-09T00:00:00+00:00"})
    return labelled(better, source)


@pytest.mark.parametrize("trusted", [HERE, VERIFIED])
def test_a_forged_submission_is_kept_beside_a_more_trusted_record_of_the_run(trusted: str, tmp_path: Path) -> None:
    store, genuine = Store(tmp_path), labelled(make_record("ties"), trusted)
    path = store.save(genuine)
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="stays; what was submitted lies beside it"):
        written = store.save(forgery(genuine))
    assert path.read_bytes() == before and store.all() == [genuine]
    assert written == path.with_name("record.submitted.json") and json.loads(written.read_text())["tasks"]


@pytest.mark.parametrize(("former", "now"), [(SENT, VERIFIED), (SENT, HERE), (VERIFIED, HERE)])
def test_a_more_trusted_record_takes_the_place_and_the_other_is_kept(former: str, now: str, tmp_path: Path) -> None:
    store, genuine = Store(tmp_path), labelled(make_record("ties"), now)
    path = store.save(forgery(genuine, former))
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="lies beside it"):
        assert store.save(genuine) == path
    assert store.all() == [genuine] and path.with_name(beside(former)).read_bytes() == before
    store.save(genuine)
    assert store.remove(genuine) and not path.parent.exists()


def test_a_run_of_a_plan_is_not_done_because_others_sent_it(tmp_path: Path) -> None:
    store, record = Store(tmp_path), make_record("ties")
    store.save(labelled(record, SENT))
    assert store.load(record.spec) is None and len(store.all()) == 1


@pytest.mark.parametrize("order", [1, -1])
def test_of_one_run_in_two_folders_the_more_trusted_is_shown_and_the_board_says_so(order: int) -> None:
    genuine, other = make_record("ties"), make_record("emr")
    fake = forgery(genuine)
    records = [genuine, fake, other][::order]
    (board,) = rows.boards(records)
    row = board.rows[board.rows["method"] == "ties"]
    assert row["source"].tolist() == [HERE] and row["mean"].item() < 90
    assert "ties (submitted): the same run is measured here" in leaderboard.markdown(board)
    assert [each.record for each in current(records).of_less_trust] == [fake]
    assert left_out(records) == [], "clean removes it from no folder"


def test_a_submission_decides_neither_the_version_of_the_suite_nor_the_data_of_a_board() -> None:
    genuine = make_record("ties")
    for place, value in (
        ("suite_version", "9"), ("checkpoints", {"base": "ff"}), ("data", {"test": {"mnist": "ff"}}),
    ):  # fmt: skip
        spec = genuine.spec.model_copy(update={place: value, "method": "emr"})
        later = forgery(make_record("emr", spec=spec))
        (board,) = rows.boards([genuine, later])
        assert board.rows["method"].tolist() == ["ties"], place


def test_what_failed_here_hides_no_submission() -> None:
    failed = make_record("ties", tasks=[], status="failed")
    (board,) = rows.boards([failed, forgery(make_record("ties"))])
    assert board.rows["source"].tolist() == [SENT] and len(board.incomplete) == 1


def test_nothing_in_the_folder_of_submissions_was_measured_here(tmp_path: Path) -> None:
    for method, source in (("ties", HERE), ("emr", VERIFIED), ("dare", SENT)):
        Store(tmp_path).save(labelled(make_record(method), source))
    assert sorted(record.provenance.source for record in accepted(tmp_path)) == sorted((SENT, VERIFIED, SENT))


def test_validity_counts_the_more_trusted_record_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = make_record("ties")
    Store(tmp_path / "reference").save(genuine)
    Store(tmp_path / "local").save(forgery(genuine))
    counted: list[Record] = []
    monkeypatch.setattr(validity, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(validity, "LOCAL", tmp_path / "local")
    monkeypatch.setattr(validity.validity, "validity", counted.extend)
    with pytest.raises(Exception, match="no finished run"):
        validity.show("vision-mini-8", None, genuine.spec.backbone, genuine.spec.family)
    assert counted == [genuine] and (tmp_path / "local").rglob(RECORD)
