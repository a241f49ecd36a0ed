"""A record counts for what its own samples give: with another score, or no hash, it is left out, and a line says so."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.records import EARLIER, make_record

from benchmark.board import comparison, rows
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.records import claims
from benchmark.records.record import Record
from benchmark.records.store import DamagedRecord, Store, digest, read_record

Fields = dict[str, Any]


def forge(store: Store, record: Record, edit: Callable[[Fields], object], *, hashed: bool = True) -> Path:
    """Writes the record with other fields, and the hash that they have, as a forger would."""
    path = store.save(record)
    fields = json.loads(path.read_text())
    edit(fields)
    fields["sha256"] = digest(fields) if hashed else None
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None or key != "sha256"}))
    return path


def raised(fields: Fields) -> None:
    for result in fields["tasks"].values():
        result["value"] = 99.0


def lowered(fields: Fields) -> None:
    for result in fields["tasks"].values():
        result["higher_is_better"] = False


FORGERIES: dict[str, tuple[Callable[[Fields], object], str]] = {
    "values": (raised, "says 99, its statistics give"),
    "direction": (lowered, "accuracy is better higher"),
    "number of samples": (lambda f: f["tasks"]["mnist"].update(n=9), "says 9 samples, its statistics hold 200"),
    "metric": (lambda f: f["tasks"]["mnist"].update(metric="bleu"), "metric 'bleu' cannot be recomputed"),
    "further metric": (lambda f: f["tasks"]["mnist"].update(others={"accuracy": 99.0}), "says accuracy 99"),
    "bits": (lambda f: f["tasks"]["mnist"]["statistics"].update(bits=""), "do not hold 200 bits"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_record_whose_scores_its_samples_do_not_give_is_on_no_board(kind: str, tmp_path: Path) -> None:
    store, (edit, said) = Store(tmp_path), FORGERIES[kind]
    genuine = make_record("emr", accuracy=0.5)
    store.save(genuine)
    path = forge(store, make_record("ties", accuracy=0.4), edit)
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=said):
        records = store.all()
    assert records == [genuine] and rows.boards(records)[0].rows["method"].tolist() == ["emr"]
    assert path.with_name("record.json.damaged-1").read_bytes() == before, "it is kept, aside"


def test_a_record_without_its_hash_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path, read_only=False)
    path = forge(store, make_record("ties"), lambda fields: None, hashed=False)
    with pytest.warns(UserWarning, match="carries no sha256"):
        assert Store(tmp_path, read_only=True).all() == []
    assert path.is_file()
    with pytest.raises(DamagedRecord, match="carries no sha256"):
        read_record(path)


def test_only_the_first_version_may_lack_its_hash() -> None:
    for path in EARLIER.rglob("record.json"):
        fields = json.loads(path.read_text())
        assert read_record(path) and ("sha256" in fields or fields["version"] == 1)


def test_a_score_that_is_not_the_samples_is_never_written(tmp_path: Path) -> None:
    record = make_record("ties")
    record.tasks["mnist"] = record.tasks["mnist"].model_copy(update={"value": 99.0})
    with pytest.raises(ValueError, match="its statistics give"):
        Store(tmp_path).save(record)
    assert Store(tmp_path).all() == []


def test_every_command_that_shows_records_leaves_the_forged_one_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.save(make_record("emr"))
    forged = make_record("ties", accuracy=0.4)
    forge(store, forged, raised)
    folder = ["--results", str(tmp_path)]
    assert cli.main(["compare", "ties", "emr", "--suite", "vision-mini-8", *folder]) == 2
    assert "its statistics give" in capsys.readouterr().err
    assert cli.main(["board", *folder]) == 0
    assert "its statistics give" in capsys.readouterr().err
    for page in (tmp_path / "leaderboard.md", tmp_path / "leaderboard.csv", tmp_path / "leaderboard.html"):
        text = page.read_text()
        assert "emr" in text and not any(said in text for said in ("| ties ", ",ties,", forged.run_id))


def test_the_committed_records_say_what_their_samples_give() -> None:
    root = Path(__file__).parents[2] / "results" / "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = Store(root, read_only=True).all()
    assert len(records) == len(list(root.rglob("record.json"))) and not any(map(claims.untrue, records))


def test_two_runs_on_other_numbers_of_samples_are_not_compared() -> None:
    with pytest.raises(UserError, match="200 samples of mnist.*99"):
        comparison.compare([make_record("ties", n=99), make_record("emr")], "ties", "emr", "vision-mini-8")


def test_a_task_of_another_metric_is_in_no_mean_with_the_others() -> None:
    odd = make_record("ties")
    odd.tasks["mnist"] = odd.tasks["mnist"].model_copy(update={"metric": "f1"})
    (board,) = rows.boards([odd, make_record("emr"), make_record("dare")])
    assert sorted(board.rows["method"]) == ["dare", "emr"]
    assert board.incomplete["reason"].item() == "mnist was measured by f1, in other runs by accuracy"
