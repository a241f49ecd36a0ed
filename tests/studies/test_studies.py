"""Studies: layers placed on other merges, their controls, cross-task performance; all on the tiny bench."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import TinyBench, only, run

import methods
from benchmark import suites
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.harness import adapted, runner
from benchmark.harness.job import Options
from benchmark.records.store import Store
from benchmark.studies import pilot, tables, transfer
from benchmark.studies.adaptation import adapt_layer, budget
from benchmark.studies.derived import merged_file
from benchmark.studies.variants import Subset
from methods.api import UNLABELLED, Access, Merged, StateFile, Stream

SMALL = {"symerge": {"steps": 4, "batch_size": 8}, "surgery": {"steps": 4, "batch_size": 8}}


def bench() -> TinyBench:
    return TinyBench(**SMALL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transfers from three sources to a merge, the base, the experts and each other."""
    folder = tmp_path_factory.mktemp("transfer")
    runs, derived = stores(folder)
    sources, recipients = ["symerge", "symerge:adapt=last_block", "surgery"], ["ties", "surgery"]
    found = transfer.run(bench(), sources, recipients, seeds=[0], runs=runs, derived=derived, options=Options())
    failed = [record for record in found if record.status != "done"]
    assert len(found) == 22 and [r.variant for r in failed] == ["surgery with its own last_block "
                                                                "(symerge:adapt=last_block)"]  # fmt: skip
    assert failed[0].error.type == "NotApplicable"
    transfer.run(bench(), ["symerge"], ["ties"], seeds=[1], runs=runs, derived=derived, options=Options())
    return folder


def stores(folder: Path) -> tuple[Store, Store]:
    return Store(folder), Store(folder / "studies" / "records")


def record_of(store: Store, method: str, seed: int | None = 0, **parameters: object) -> object:
    (found,) = [
        r
        for r in store.all()
        if r.spec.method == method and r.spec.seed == seed and parameters.items() <= r.spec.parameters.items()
    ]
    return found


@pytest.mark.parametrize("source", ["symerge", "symerge:adapt=last_block", "surgery"])
def test_transferred_layers_are_the_sources_and_the_rest_is_the_recipients(done: Path, source: str) -> None:
    runs, derived = stores(done)
    b = bench()
    experts = b.experts()
    giver = Merged.load(merged_file(runs.load(only(b, source).spec), runs), experts)
    taker = Merged.load(merged_file(runs.load(only(b, "ties").spec), runs), experts)
    record = record_of(derived, "study.transfer", source=source, recipient="ties")
    for task in b.tasks:
        inputs, labels = b.source(task, "test")[torch.arange(24)]
        encoder = taker.model(task).encoder
        if source == "symerge:adapt=last_block":
            state = {**taker.state_dict(task), **giver.layers[task]}
            outputs = experts.head(task)(experts.forward(state, task, inputs))
        elif source == "surgery":
            outputs = taker.head(task)(giver.model(task).encoder[1](encoder(inputs)))
        else:
            outputs = giver.head(task)(encoder(inputs))
        right = (outputs.argmax(-1) == labels).numpy()
        assert np.array_equal(record.tasks[task].statistics.numpy(), right)


def test_a_heads_own_adaptation_is_what_symerge_does_without_coefficients(done: Path) -> None:
    b = bench()
    experts = b.experts()
    streams = [
        Stream({"test": {t: b.source(t, "test") for t in b.tasks}}, Access(test=UNLABELLED), seed=3) for _ in range(2)
    ]
    whole = methods.get("symerge")(experts, streams[0], steps=6, batch_size=8, coefficients=False, prior=0.3)
    start = methods.get("task_arithmetic")(experts, scale=0.3)
    own = adapt_layer(start, streams[1], **budget("head", {"steps": 6, "batch_size": 8}))
    for task in b.tasks:
        for name, value in whole.heads[task].items():
            assert torch.allclose(own.heads[task][name], value, atol=1e-5)
            if name == "weight":
                assert (value - experts.head(task).state_dict()[name]).abs().max() > 1e-3
    assert torch.equal(own.shared[experts.names[0]], start.shared[experts.names[0]])


def test_a_corrections_own_adaptation_is_what_surgery_does_on_its_inner_merge(done: Path) -> None:
    _, derived = stores(done)
    runs = Store(done)
    b = bench()
    inner = run(b, runs, "task_arithmetic")[-1]
    found = transfer.run(b, ["surgery"], ["task_arithmetic"], seeds=[0], runs=runs, derived=derived, options=Options())
    control = next(
        r for r in found if r.spec.method == "study.self_adapted" and r.spec.parameters["recipient_run"] == inner.run_id
    )
    whole = runs.load(only(b, "surgery").spec)
    for task in b.tasks:
        assert np.array_equal(control.tasks[task].statistics.numpy(), whole.tasks[task].statistics.numpy())


def test_a_study_resumes_and_leaves_the_records_of_its_runs_as_they_are(done: Path) -> None:
    runs, derived = stores(done)
    before = {p: p.read_bytes() for p in done.rglob("record.json")}
    for path in done.glob("*/*/*/merged.safetensors"):
        path.unlink()
    assert not list((done / "studies").rglob("merged.safetensors")), "derived merges are not kept"
    transfer.run(bench(), ["symerge"], ["ties"], seeds=[0, 1], runs=runs, derived=derived, options=Options())
    assert {p: p.read_bytes() for p in done.rglob("record.json")} == before
    assert (runs.folder(only(bench(), "ties").spec) / runner.MERGED).is_file(), "a discarded merge is made again"


def test_adapted_layers_are_saved_with_their_hash(done: Path) -> None:
    runs, _ = stores(done)
    found = {r.variant: r for r in runs.all() if r.spec.seed in (None, 0)}
    for name in ("symerge", "surgery", "symerge:adapt=last_block"):
        path = runs.folder(found[name].spec) / adapted.ADAPTED
        assert found[name].artifacts[adapted.ADAPTED] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert StateFile(path).shapes and not [n for n in StateFile(path) if n.startswith("shared/")]
    assert adapted.ADAPTED not in {**found["ties"].artifacts, **found["individual"].artifacts}


def test_records_say_what_data_the_layers_saw(done: Path) -> None:
    _, derived = stores(done)
    assert {tuple(r.access) for r in derived.all()} == {("unlabelled test",)}


def test_a_source_without_adapted_layers_is_an_error_that_names_some(tmp_path: Path) -> None:
    for source, words in (("emr", "emr adapts no layer.*\n.*symerge"), ("symerg", "unknown method 'symerg'")):
        with pytest.raises((UserError, methods.MergingError), match=words):
            transfer.run(bench(), [source], ["ties"], seeds=[0], runs=Store(tmp_path), derived=Store(tmp_path / "d"),
                         options=Options())  # fmt: skip
    assert not Store(tmp_path).all(), "said before anything runs"


def test_the_table_of_transfers_holds_paired_differences(done: Path) -> None:
    runs, derived = stores(done)
    frame = tables.transfer(derived.all(), runs.all()).set_index(["source", "recipient"])
    row = frame.loc[("symerge", "ties")]
    means = [
        np.mean([tables.score(record_of(derived, kind, s, source="symerge", recipient="ties")) for s in (0, 1)])
        for kind in ("study.transfer", "study.self_adapted")
    ]
    own = tables.score(record_of(runs, "ties", None))
    assert row["n"] == 2 and row["own"] == pytest.approx(own)
    assert row["transferred"] == pytest.approx(means[0]) and row["self_adapted"] == pytest.approx(means[1])
    assert row["gain"] == pytest.approx(means[0] - own, abs=1e-4) and row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert row["beyond"] == pytest.approx(means[0] - means[1], abs=1e-4)
    assert ("symerge", "symerge") not in frame.index and ("symerge", "individual") in frame.index


@pytest.fixture(scope="module")
def piloted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("pilot"))
    pilot.run(bench(), ["weight_average", "ties"], sets={2: 3}, seeds=[0], derived=store, options=Options(), steps=2)
    return store


def test_cross_task_scores_are_heads_on_other_experts_encoders(piloted: Store) -> None:
    b = bench()
    experts = b.experts()
    cross = tables.cross_task(piloted.all())
    for (i, encoder), (j, head) in itertools.product(enumerate(b.tasks), repeat=2):
        inputs, labels = b.source(head, "test")[torch.arange(24)]
        predicted = experts.head(head)(experts.forward(experts.state(encoder), head, inputs)).argmax(-1)
        assert cross.before[i, j] == pytest.approx(100 * float((predicted == labels).float().mean()))
    assert np.isfinite(cross.adapted).all() and not np.array_equal(cross.adapted, cross.before)
    assert np.allclose(np.diag(cross.normalised(cross.before)), 100)


def test_points_hold_the_merge_of_each_set_and_its_pairs(piloted: Store) -> None:
    frame = tables.points(piloted.all())
    assert len(frame) == 9 and set(frame["heads"]) == {"own", "adapted"}
    cross = tables.cross_task(piloted.all())
    b = bench()
    row = frame[(frame["merger"] == "ties") & (frame["tasks"] == "t0+t2")].iloc[0]
    assert row["cross"] == pytest.approx((cross.before[0, 2] + cross.before[2, 0]) / 2)
    merged: Merged = methods.get("ties")(b.experts().subset(["t0", "t2"]))
    scores = []
    for task in ("t0", "t2"):
        inputs, labels = b.source(task, "test")[torch.arange(24)]
        scores.append(100 * float((merged.model(task)(inputs).argmax(-1) == labels).float().mean()))
    assert row["merge"] == pytest.approx(np.mean(scores))


def test_a_subset_has_its_own_identity_and_only_its_tasks(tmp_path: Path) -> None:
    part, other = Subset(bench(), ["t0", "t2"]), Subset(bench(), ["t0", "t1"])
    assert part.suite.name != other.suite.name != "tiny" and part.suite.name.startswith("tiny+2-")
    record = run(part, Store(tmp_path), "ties")[-1]
    assert list(record.tasks) == record.suite_tasks == ["t0", "t2"]


def test_sets_of_tasks_are_distinct_and_use_every_task_alike() -> None:
    names = [f"t{k}" for k in range(20)]
    found = pilot.subsets(names, {2: 60, 4: 30})
    assert len(found) == 90 == len({tuple(tasks) for tasks in found})
    assert found == pilot.subsets(names, {2: 60, 4: 30})
    for size in (2, 4):
        counts = np.array([sum(n in tasks for tasks in found if len(tasks) == size) for n in names])
        assert counts.max() - counts.min() <= 1 and counts.sum() == sum(len(t) for t in found if len(t) == size)
    assert len(pilot.subsets(names[:3], {2: 60, 4: 30})) == 3


def test_tables_are_written_from_records_without_running(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "load", lambda name: bench().suite)
    assert cli.do(["study", "transfer", "--tables", "--suite", "tiny", "--results", str(done)]) == 0
    page = (done / "studies" / "transfer" / "tiny--tower--random.md").read_text()
    assert "## From `symerge`: head" in page and "| ties" in page and "## From `surgery`: correction" in page
    with pytest.raises(UserError, match="no records of the pilot on tiny"):
        cli.do(["study", "pilot", "--tables", "--suite", "tiny", "--results", str(done)])
    assert json.loads(next((done / "studies" / "records").rglob("record.json")).read_text())["spec"]["suite"] == "tiny"
