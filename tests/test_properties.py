"""What holds for every record, spec and manifest, tried on many (hypothesis)."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import damage
from helpers.records import TASKS, make_record, make_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.checkpoints import families
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.family import load_family
from benchmark.records import metrics
from benchmark.records.record import Array, CorrectBits, Record, Sums, TaskResult, Values
from benchmark.records.spec import RunSpec
from benchmark.records.store import Store

number = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
extent, size = st.floats(0, 1e6), st.floats(1e-3, 1e6)
pairs = st.lists(st.tuples(extent, size), min_size=1, max_size=5)
statistics = st.one_of(
    st.lists(st.booleans(), min_size=1, max_size=40).map(lambda bits: ("accuracy", CorrectBits.of(bits))),
    st.builds(
        lambda rows, others: ("abs_err", Values(arrays=others | dict(zip(
            ("abs_sum", "count"), (Array.of(np.array(column, "float64")) for column in zip(*rows, strict=True)),
            strict=True,
        )))),
        pairs,
        st.dictionaries(text, st.lists(number, max_size=5).map(lambda v: Array.of(np.array(v, "float64"))), max_size=2),
    ),
    st.builds(
        lambda row, others: ("rel_err", Sums(sums=others | {"rel_sum": row[0], "count": row[1]})),
        st.tuples(extent, size),
        st.dictionaries(text, number | st.lists(number, max_size=3), max_size=3),
    ),
)  # fmt: skip

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@st.composite
def results(draw: st.DrawFn) -> TaskResult:
    """What statistics say, as a store keeps nothing else."""
    metric, kept = draw(statistics)
    n = metrics.samples(metric, kept)
    return TaskResult(
        metric=metric,
        value=metrics.score(metric, kept),
        higher_is_better=metrics.get(metric).higher_is_better,
        n=draw(st.integers(0, 100)) if n is None else n,
        others=draw(st.dictionaries(text.filter(lambda name: name not in metrics.METRICS), number, max_size=2)),
        statistics=kept,
    )


specs = st.builds(
    make_spec, method=text, seed=st.none() | st.integers(0, 9), suite=text, backbone=text,
    parameters=st.dictionaries(text, plain, max_size=3),
)  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> Record:
    return make_record(
        spec=draw(specs),
        tasks=[],
        trace_summary=draw(st.dictionaries(text, plain, max_size=2)),
        changed=draw(st.dictionaries(text, plain, max_size=2)),
        status=draw(st.sampled_from(["planned", "running", "done", "failed", "incomplete"])),
    ).model_copy(update={"tasks": draw(st.dictionaries(st.sampled_from(TASKS), results()))})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


@given(record=records())
@settings(max_examples=60, deadline=None)
def test_every_record_comes_back_as_it_was_saved(record: Record, store: Store) -> None:
    path = store.save(record)
    assert store.load(record.spec) == record
    assert path.resolve().parents[3] == store.root.resolve()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_record_altered_anywhere_is_moved_aside_or_says_the_same(seed: int, store: Store) -> None:
    record = make_record()
    path = store.save(record)
    path.write_bytes(damage.bytes_of(path.read_bytes(), random.Random(seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = store.load(record.spec)
    assert found in (None, record)
    shutil.rmtree(path.parent)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_record_with_a_part_missing_or_of_another_kind_is_refused_or_reads_as_given(data: st.DataObject) -> None:
    fields = json.loads(make_record().model_dump_json())
    odd = data.draw(st.sampled_from((*damage.ODD, ...)))
    altered = damage.json_of(fields, data.draw(st.sampled_from(damage.places(fields))), odd)
    try:
        found = Record.model_validate_json(json.dumps(altered))
    except ValidationError:
        return
    assert found.run_id == found.spec.run_id and set(found.tasks) <= set(found.suite_tasks)


@given(one=specs, other=specs)
@settings(max_examples=100, deadline=None)
def test_two_specs_have_one_identity_exactly_if_they_say_the_same(one: RunSpec, other: RunSpec) -> None:
    again = RunSpec.model_validate_json(one.model_dump_json())
    shuffled = RunSpec(**{**one.model_dump(), "parameters": dict(reversed(list(one.parameters.items())))})
    assert one.run_id == again.run_id == shuffled.run_id
    assert (one.run_id == other.run_id) == (one.model_dump() == other.model_dump())


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_family_manifest_of_another_kind_is_refused_or_gives_the_family(data: st.DataObject, tmp_path: Path) -> None:
    folder = families.MINI / "ViT-mini"
    whole = json.loads((folder / "manifest.json").read_text())
    kept = {name: entry for name, entry in whole["files"].items() if "MNIST" in name or name == "base.safetensors"}
    classes = {"MNIST": whole["classes"]["MNIST"]}
    whole = {**{k: whole[k] for k in ("name", "backbone", "quick_gelu")}, "classes": classes, "files": kept}
    odd = data.draw(st.sampled_from((*damage.ODD, ...)))
    altered = damage.json_of(whole, data.draw(st.sampled_from(damage.places(whole))), odd)
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "manifest.json").write_text(json.dumps(altered))
    try:
        found = load_family(tmp_path, "ViT-mini", ["MNIST"])
    except families.FamilyError:
        return
    assert list(found.experts) == ["MNIST"] and found.heads["MNIST"].weight.shape == (10, 64)


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_data_manifest_of_another_kind_is_refused_or_gives_the_data(data: st.DataObject, tmp_path: Path) -> None:
    entry = vision.manifest()["tasks"]["OptDigits"]
    whole: dict[str, Any] = {"tasks": {"OptDigits": entry}}
    known = ("splits", "classes", "shape", "templates", "source")
    chosen = [path for path in damage.places(whole) if len(path) < 3 or path[2] in known]
    altered = damage.json_of(whole, data.draw(st.sampled_from(chosen)), data.draw(st.sampled_from((*damage.ODD, ...))))
    (tmp_path / "manifest.json").write_text(json.dumps(altered))
    if not (tmp_path / "OptDigits").exists():
        (tmp_path / "OptDigits").symlink_to(vision.MINI / "OptDigits")
    try:
        found = vision.load_split("OptDigits", "test", tmp_path)
    except vision.DataError:
        return
    assert found.images.shape == (entry["splits"]["test"]["n"], 28, 28)
