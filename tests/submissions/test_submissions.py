"""Submissions: packed whole, checked without a re-run, verified by one, labelled on the board; old records migrated."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.lacking import lacks
from helpers.records import EARLIER, classified, make_record, make_spec
from helpers.unlike import dense, glue

from benchmark.board import leaderboard, rows
from benchmark.cli import main as cli
from benchmark.cli import submit
from benchmark.common.errors import UserError
from benchmark.records import migrations
from benchmark.records.record import RECORD_VERSION, SOURCES, Record
from benchmark.records.spec import present_version, variant_label
from benchmark.records.store import Store
from benchmark.submissions import package as submissions
from benchmark.submissions.validation import Known, check

ROOT = Path(__file__).parents[2]
REFERENCE = Store(ROOT / "results" / "reference", read_only=True)
SUITE = "vision-mini-8"


@pytest.fixture(scope="module")
def genuine() -> list[Record]:
    """Records of the project's own, as a third party would submit them."""
    chosen = [record for record in REFERENCE.all(SUITE) if record.variant in ("ties", "symerge")]
    assert len(chosen) == 6
    return [of_today(record) for record in chosen]


def of_today(record: Record) -> Record:
    """The record as today's code of its method makes it."""
    version = present_version(record.spec.method, record.spec.parameters)
    spec = record.spec.model_copy(update={"method_version": version})
    return record.model_copy(update={"spec": spec, "run_id": spec.run_id})


def changed(record: Record, **fields) -> Record:
    return record.model_copy(update=fields, deep=True)


def errors(records: list[Record], **more) -> list[str]:
    return [finding.what for finding in check(records, **more) if finding.level == "error"]


def warned(records: list[Record], **more) -> list[str]:
    return [finding.what for finding in check(records, **more) if finding.level == "warning"]


def with_task(record: Record, edit: Callable[[dict], object]) -> Record:
    """The record with the fields of its first task's result edited."""
    fields = json.loads(record.model_dump_json())
    edit(fields["tasks"][record.suite_tasks[0]])
    return Record.model_validate(fields)


def test_genuine_records_pass_and_their_hashes_are_those_of_the_manifests(genuine: list[Record]) -> None:
    found = check(genuine, REFERENCE.all(SUITE), submit.manifests)
    assert [finding for finding in found if finding.level == "error"] == []


def test_a_packed_folder_is_read_back_whole_and_labelled(tmp_path: Path, genuine: list[Record]) -> None:
    for record in [*genuine, make_record("individual"), make_record("emr", tasks=[], status="failed")]:
        Store(tmp_path / "run").save(record)
    out = tmp_path / "mine.submission.json"
    words = ["--title", "Mine", "--authors", "A. Author", "B. Author", "--link", "arXiv:0000.00000"]
    assert cli.main(["submit", "pack", str(tmp_path / "run"), *words, "--out", str(out)]) == 0
    read = submissions.load(out)
    assert {record.run_id for record in read} == {record.run_id for record in genuine}
    assert {record.provenance.source for record in read} == {"submitted"}
    assert {record.run_id: record.tasks for record in read} == {record.run_id: record.tasks for record in genuine}
    assert cli.main(["submit", "validate", str(out), "--into", str(tmp_path / "filed")]) == 0
    filed = Store(tmp_path / "filed").all()
    assert len(filed) == len(genuine) and {record.provenance.source for record in filed} == {"submitted"}
    assert len(submissions.load(tmp_path)) == 3 * len(genuine) + 2, "a folder is read with all that lies in it"
    with pytest.raises(UserError, match="no complete record"):
        submissions.pack([make_record("individual")], title="x", authors=["y"])


def test_packed_is_what_was_named_and_counts_today(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], genuine: list[Record]
) -> None:
    ties = next(record for record in genuine if record.variant == "ties")

    def variant(**parameters: Any) -> Record:
        spec = ties.spec.model_copy(update={"parameters": {**ties.spec.parameters, **parameters}})
        label = variant_label("ties", parameters)
        return changed(ties, spec=spec, run_id=spec.run_id, variant=label, changed=parameters)

    def of_before(variant: str) -> Record:
        record = next(each for each in genuine if each.variant == variant)
        spec = record.spec.model_copy(update={"method_version": "0" * 16})
        times = {"started": "2000-01-01T00:00:00+00:00", "finished": "2000-01-01T00:01:00+00:00"}
        return changed(record, spec=spec, run_id=spec.run_id, **times)

    for record in [ties, variant(scale=0.5), variant(scale=0.5, keep=0.1), of_before("ties"), of_before("symerge")]:
        Store(tmp_path / "run").save(record)

    def packed(*names: str) -> set[str]:
        out = tmp_path / "out.submission.json"
        words = ["submit", "pack", str(tmp_path / "run"), "--title", "x", "--authors", "y", "--out", str(out)]
        assert cli.main([*words, *(["--methods", *names] if names else [])]) == 0
        records = submissions.load(out)
        assert all(record.spec.method_version == ties.spec.method_version for record in records)
        return {record.variant for record in records}

    assert packed("ties") == {"ties"}
    said = capsys.readouterr().out
    assert "left out: ties:scale=0.5: not named" in said and "local changes" not in said
    assert packed("ties", "ties:scale=0.5") == {"ties", "ties:scale=0.5"}
    assert packed("ties:keep=0.1,scale=0.5") == {"ties:scale=0.5,keep=0.1"}
    assert packed() == {"ties", "ties:scale=0.5", "ties:scale=0.5,keep=0.1"}
    assert "symerge: made by an earlier version of methods/symerge" in capsys.readouterr().out


def _packed(records: list[Record], folder: Path) -> Path:
    path = folder / "some.submission.json"
    submissions.save(submissions.pack(records, title="x", authors=["y"]), path)
    return path


def test_verifying_wants_the_methods_file_in_the_commit_that_its_record_will_name(
    genuine: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.harness import provenance

    commit, _ = provenance.git_state()
    if commit is None:
        pytest.skip(lacks("this is no git checkout", "git clone the project"))
    monkeypatch.setattr(provenance, "holds", lambda commit, file: file != "methods/ties.py")
    with pytest.raises(UserError, match=r"methods/ties.py is not in commit(.|\n)*git add methods/ties.py"):
        cli.do(["submit", "verify", str(_packed(genuine, tmp_path))])


def test_data_that_a_suite_hands_every_row_are_not_the_methods_to_draw(genuine: list[Record]) -> None:
    record = changed(genuine[0], access=["unlabelled train (statistics)"])
    record.cost.images_drawn = 0
    assert not [what for what in warned([record]) if "drew no samples" in what]
    assert [what for what in warned([changed(record, access=["unlabelled test"])]) if "drew no samples" in what]


def test_a_changed_score_or_bit_is_found(genuine: list[Record]) -> None:
    record = genuine[0]
    raised = with_task(record, lambda task: task.update(value=task["value"] + 0.5))
    (said,) = errors([raised], reference=[record])
    assert "its statistics give" in said
    for fields, wanted in (
        ({"n": 9}, "statistics hold"),
        ({"metric": "f1"}, "not computed from correct bits"),
        ({"metric": "bleu"}, "cannot be recomputed"),
        ({"higher_is_better": False}, "better higher"),
    ):
        assert any(wanted in what for what in errors([with_task(record, lambda task, new=fields: task.update(new))]))


def test_angles_that_no_histogram_gives_are_an_error() -> None:
    tasks = dense(0.8)
    record = changed(make_record("ties", tasks=[], suite_tasks=list(tasks)), tasks=tasks)
    assert any("angle_sum is not that of its histogram" in what for what in errors([record]))


def test_statistics_of_every_kind_are_recomputed() -> None:
    for tasks in (dense(0.8), glue(0.8)):
        good = changed(make_record("ties", tasks=[], suite_tasks=list(tasks)), tasks=tasks)
        assert not any("statistics" in what for what in errors([good]))
        for task in tasks:
            altered = tasks | {task: tasks[task].model_copy(update={"value": tasks[task].value * 1.01 + 0.01})}
            said = errors([changed(good, tasks=altered)])
            assert any(what.startswith(f"{task}: says") for what in said)


def test_other_data_checkpoints_metrics_or_tasks_are_errors(genuine: list[Record]) -> None:
    record = genuine[0]
    good = Known(lambda access: record.spec.data, record.spec.checkpoints, {})
    assert errors([record], reference=[record], manifests=lambda *_: good) == []
    test = {"test": {**record.spec.data["test"], "MNIST": "0" * 64}}
    other = Known(lambda access: test, {"base": "1"}, {"MNIST": "f1"})
    said = errors([record], manifests=lambda *_: other)
    assert any("on other data: MNIST (test) had sha256" in what for what in said)
    assert any("checkpoints differ" in what for what in said) and any("measured by f1" in what for what in said)
    assert any("were not checked: gone" in what for what in warned([record], manifests=lambda *_: "gone"))
    assert any("its tasks are" in what for what in errors([changed(record, suite_tasks=record.suite_tasks[::-1])]))
    elsewhere = make_record("ties", spec=make_spec("ties", suite="my-suite"))
    assert any("not one of this project" in what for what in errors([elsewhere]))
    old = make_record("ties", spec=make_spec("ties", suite_version="0"))
    assert any("version 0 of the suite" in what for what in errors([old]))


def test_what_a_method_cannot_be_is_an_error(genuine: list[Record]) -> None:
    symerge = next(record for record in genuine if record.variant == "symerge")
    ties = next(record for record in genuine if record.variant == "ties")
    assert any("access is none" in what for what in errors([changed(symerge, access=[])])), "hidden access"
    assert any("keywords" in what for what in errors([make_record("ties", changed={"kep": 1})]))
    fields = ties.spec.model_dump() | {"seed": 3}
    seeded = changed(ties, spec=ties.spec.model_validate(fields))
    assert any("deterministic one has none" in what for what in errors([seeded]))
    assert any("send its file too" in what for what in warned([make_record("mine")]))
    assert any("only complete" in what for what in errors([changed(ties, status="running")]))


def test_impossible_values_are_errors_and_odd_ones_warnings(genuine: list[Record]) -> None:
    record = genuine[0]
    later = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)).isoformat()
    for fields, said in (
        (dict(cost=record.cost.model_copy(update={"adapt_seconds": -1.0})), "adapt_seconds is -1.0"),
        (dict(started=record.finished, finished=record.started), "before it started"),
        (dict(finished="yesterday"), "ISO 8601"),
        (dict(finished=later), "in the future"),
    ):
        assert any(said in what for what in errors([changed(record, **fields)])), said
    task = record.suite_tasks[0]
    perfect = changed(record, tasks={**record.tasks, task: classified(np.ones(record.tasks[task].n, bool))})
    assert any("every one of" in what for what in warned([perfect]))
    assert any("above the task's own expert" in what for what in warned([perfect], reference=REFERENCE.all(SUITE)))
    assert any("differs from the project's own" in what for what in warned([perfect], reference=[record]))
    dirty = changed(record, provenance=record.provenance.model_copy(update={"dirty": True}))
    assert any("local changes" in what for what in warned([dirty]))
    assert any("stands twice" in what for what in errors([record, record]))


def test_seeds_that_are_copies_of_each_other_are_noticed(genuine: list[Record]) -> None:
    seeds = [record for record in genuine if record.variant == "symerge"]
    assert not any("another seed" in what for what in warned(seeds))
    copied = [seeds[0], changed(seeds[1], tasks=seeds[0].tasks)]
    assert sum("another seed" in what for what in warned(copied)) == 2


def test_files_that_are_no_submission_say_what_is_wrong(tmp_path: Path, genuine: list[Record]) -> None:
    path = tmp_path / "x.submission.json"
    for text, said in (
        ("{", "no valid submission"),
        ('{"title": "x", "authors": ["y"], "records": []}', "records"),
        ('{"title": "x", "authors": ["y"], "records": [{"version": 2}]}', "records.0"),
        ("[" * 100000, "no valid submission"),
        ('{"title": "x", "authors": ["y"], "records": [{"version": 0}]}', "version 0"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            submissions.load(path)
    with pytest.raises(UserError, match="does not exist"):
        submissions.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no"):
        submissions.load(tmp_path / "empty")


def test_validation_fails_the_command_and_names_the_record(tmp_path: Path, capsys, genuine: list[Record]) -> None:
    bad = with_task(genuine[0], lambda task: task.update(value=99.0))
    made = submissions.Submission(title="x", authors=["y"], records=[bad])
    submissions.save(made, tmp_path / "x.submission.json")
    into = tmp_path / "filed"
    assert cli.main(["submit", "validate", str(tmp_path / "x.submission.json"), "--into", str(into)]) == 1
    assert not into.exists()
    out = capsys.readouterr().out
    assert f"error: {bad.variant}" in out and bad.run_id in out and "1 errors in 1 records" in out


def test_records_of_the_first_version_are_read_and_migrated(tmp_path: Path) -> None:
    (path,) = EARLIER.glob("vision-mini-8/*/88c640008980c280/record.json")
    fields = json.loads(path.read_text())
    assert fields["version"] == 1 and "artifacts" not in fields
    (read,) = submissions.load(path)
    assert read.version == RECORD_VERSION and read.provenance.source == "measured here"
    assert json.loads(read.model_dump_json())["tasks"] == fields["tasks"] and read.artifacts == {}
    fields["provenance"]["source"] = "my own machine"
    path = tmp_path / "vision-mini-8" / "ViT-mini" / fields["run_id"] / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(fields))
    (read,) = Store(tmp_path).all()
    assert read.provenance.source == "submitted"
    whole = tmp_path / "x.submission.json"
    whole.write_text(json.dumps({"title": "x", "authors": ["y"], "records": [fields]}))
    assert submissions.load(whole)[0].version == RECORD_VERSION
    assert sorted(migrations.STEPS) == list(range(1, RECORD_VERSION)), "a version without a way to the present one"
    for damaged in ({"spec": {}}, {"spec": fields["spec"] | {"method": "ties"}}, {"run_id": "0" * 16}):
        path.write_text(json.dumps(fields | damaged))
        with pytest.warns(UserWarning, match="damaged"):
            assert Store(tmp_path).all() == []


@pytest.mark.parametrize("kind", ["record", "submission"])
def test_the_published_schema_is_that_of_the_code(kind: str) -> None:
    path = ROOT / "docs" / "schema" / f"{kind}.schema.json"
    assert path.read_text() == submissions.schema(kind), "type ./run_all.sh submit schema"


def test_a_submitted_row_says_so_and_is_no_seed_of_a_measured_one() -> None:
    def labelled(seed: int, source: str) -> Record:
        record = make_record("symerge", seed=seed)
        return changed(record, provenance=record.provenance.model_copy(update={"source": source}))

    (board,) = rows.boards([labelled(0, SOURCES[0]), labelled(1, SOURCES[1]), labelled(2, SOURCES[2])])
    assert sorted(board.rows["source"]) == sorted(SOURCES[:3]) and board.rows["n"].tolist() == [1, 1, 1]
    text = leaderboard.markdown(board)
    assert "symerge (submitted) " in text and "symerge (submitted, verified by re-run)" in text


def test_a_submission_is_run_again_and_accepted_only_where_it_agrees(tmp_path: Path, capsys) -> None:
    assert (
        cli.main(["run", "--suite", "vision-mini-8", "--methods", "weight_average", "--results", str(tmp_path / "run")])
        == 0
    )
    (record,) = (each for each in Store(tmp_path / "run").all() if each.variant == "weight_average")
    same = tmp_path / "same.submission.json"
    submissions.save(submissions.pack([record], title="x", authors=["y"]), same)
    into = tmp_path / "accepted"
    assert cli.main(["submit", "verify", str(same), "--into", str(into)]) == 0
    assert "identical in every prediction" in capsys.readouterr().out
    (accepted,) = Store(into).all()
    assert accepted.provenance.source == "submitted, verified by re-run" and accepted.tasks == record.tasks
    assert accepted.provenance.commit == record.provenance.commit and accepted.cost != record.cost, "as run here"
    for told in ({"variant": "symerge"}, {"needs_task_id": True}, {"changed": {"scale": 5}}, {"access": ["none"]}):
        assert submit.verify(changed(record, **told), Store(tmp_path / "run")).startswith("differs in")
    task = record.suite_tasks[0]
    better = changed(record, tasks={**record.tasks, task: classified(np.ones(record.tasks[task].n, bool))})
    done = Store(tmp_path / "run")
    assert submit.verify(better, done).startswith("differs by"), "the run of that folder is the re-run"
    assert submit.verify(better, done, tolerance=100.0).startswith("within")
    other = record.spec.model_copy(update={"method_version": "0" * 16})
    with pytest.raises(UserError, match="differs in method_version"):
        submit.verify(changed(record, spec=other, run_id=other.run_id), Store(tmp_path / "again"))


def test_the_tolerance_of_depths_and_angles_is_relative_to_the_value() -> None:
    record = next(r for r in REFERENCE.all("dense-mini") if r.variant == "ties")
    depth = record.tasks["depth"]
    other = depth.model_copy(update={"value": depth.value * 0.9})
    assert submit._points(other, depth) == pytest.approx(10) and depth.value < 1
    percent = record.tasks["segmentation"]
    assert submit._points(percent.model_copy(update={"value": percent.value + 0.4}), percent) == pytest.approx(0.4)


def test_genuine_records_of_a_suite_with_unlike_metrics_pass() -> None:
    chosen = [record for record in REFERENCE.all("dense-mini") if record.variant in ("ties", "symerge")]
    assert len(chosen) >= 2
    found = check(chosen, REFERENCE.all("dense-mini"), submit.manifests)
    assert [str(finding) for finding in found if finding.level == "error"] == []
