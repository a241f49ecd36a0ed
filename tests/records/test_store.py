import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from helpers.lacking import lacks
from helpers.records import make_record, make_spec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.common.errors import UserError
from benchmark.common.files import write_atomic
from benchmark.records import metrics
from benchmark.records import store as store_module
from benchmark.records.record import Array, CorrectBits, Record, Sums, TaskResult, Values, pack_bits, unpack_bits
from benchmark.records.store import RECORD, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def path_of(store, record):
    return store.folder(record.spec) / RECORD


def test_a_record_comes_back_as_it_was_saved(store):
    record = make_record(trace_summary={"loss": [1.0, 0.5], "note": None})
    path = store.save(record)
    assert path == store.root / "vision-mini-8" / "ViT-mini" / record.run_id / "record.json"
    assert store.load(record.spec) == record and store.all() == [record]
    assert store.all("vision-mini-8") == [record] and store.all("vision-8") == []


def test_a_run_without_a_record_is_none(store):
    assert store.load(make_spec()) is None and store.all() == []


@given(st.lists(st.booleans(), max_size=70))
def test_bits_survive_packing(bits):
    assert unpack_bits(pack_bits(bits), len(bits)).tolist() == bits


@pytest.mark.parametrize("text, n", [(pack_bits([1] * 9), 8), (pack_bits([1] * 9), 17), ("!", 3), (pack_bits([1]), 0)])
def test_bits_that_do_not_fit_their_number_are_refused(text, n):
    with pytest.raises(ValueError):
        unpack_bits(text, n)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_arrays_survive_as_text(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    again = Array.model_validate_json(Array.of(values).model_dump_json()).numpy()
    assert again.dtype == values.dtype and np.array_equal(again, values)
    assert np.array_equal(Array.of(np.zeros((0, 3), dtype)).numpy(), np.zeros((0, 3), dtype))


@pytest.mark.parametrize("change", [{"shape": [3, 5]}, {"shape": [2, 4]}, {"dtype": "float64"}, {"data": "AAAA"}])
def test_an_array_that_does_not_fit_its_shape_is_refused(change):
    fields = Array.of(np.zeros((3, 4), "float32")).model_dump()
    with pytest.raises(ValueError):
        Array(**{**fields, **change}).numpy()
    with pytest.raises(ValueError):
        Array(dtype="object", shape=[1], data="")


def test_a_small_text_cannot_claim_a_huge_array():
    bomb = Array.of(np.zeros(1 << 25, "uint8")).model_copy(update={"shape": [4]})
    tracemalloc.start()
    with pytest.raises(ValueError):
        bomb.numpy()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    with pytest.raises(ValueError, match="at most"):
        Array(dtype="float64", shape=[1 << 40], data="").numpy()


def test_every_kind_of_statistics_is_stored(store):
    kinds = {
        "accuracy": CorrectBits.of([True, False]),
        "pearson": Values(arrays={name: Array.of(np.float32([0.5, 1])) for name in ("predicted", "target")}),
        "abs_err": Sums(sums={"abs_sum": 3.5, "count": 2, "bins": [1.0, 2.0]}),
    }
    tasks = {
        task: TaskResult(
            metric=metric, value=metrics.score(metric, kind), n=2, kind="regression", statistics=kind,
            higher_is_better=metrics.get(metric).higher_is_better,
        )
        for task, (metric, kind) in zip(["mnist", "fashion", "optdigits"], kinds.items(), strict=True)
    }  # fmt: skip
    record = make_record().model_copy(update={"tasks": tasks})
    store.save(record)
    assert store.load(record.spec) == record


def test_a_record_must_be_the_hash_of_its_spec():
    with pytest.raises(ValidationError, match="hash of its spec"):
        make_record(run_id="0" * 16)


def test_a_score_that_is_no_number_is_not_written(store):
    record = make_record()
    record.tasks["mnist"] = record.tasks["mnist"].model_copy(update={"value": float("nan")})
    with pytest.raises(ValidationError):
        store.save(record)
    assert store.all() == []


def test_every_field_is_explained():
    def walk(schema):
        for name, model in {**schema["$defs"], "Record": schema}.items():
            for field, about in model.get("properties", {}).items():
                if "const" not in about:
                    yield f"{name}.{field}", about

    found = dict(walk(Record.model_json_schema()))
    assert len(found) > 50 and [name for name, about in found.items() if not about.get("description")] == []


def damage(kind, text):
    if kind == "truncated":
        return text[: len(text) // 2]
    if kind == "empty":
        return ""
    if kind == "not text":
        return "\x00\x01\x02"
    fields = json.loads(text)
    if kind == "other spec":
        fields["spec"]["method"] = "fisher"
    if kind == "missing field":
        del fields["suite_tasks"]
    if kind == "nonsense status":
        fields["status"] = "perhaps"
    return json.dumps(fields)


@pytest.mark.parametrize("kind", ["truncated", "empty", "not text", "other spec", "missing field", "nonsense status"])
def test_a_damaged_record_is_moved_aside_and_the_others_are_read(store, kind):
    bad, good = make_record("emr"), make_record("ties")
    store.save(good)
    path = store.save(bad)
    path.write_text(damage(kind, path.read_text()))
    with pytest.warns(UserWarning, match=f"{bad.run_id}.*damaged.*record.json.damaged-1"):
        assert store.all() == [good]
    assert not path.exists() and path.with_name("record.json.damaged-1").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.all() == [good]
        assert store.load(bad.spec) is None
    path.write_text("{")
    with store.try_lock(bad.spec) as held, pytest.warns(UserWarning, match="damaged-2"):
        assert held and store.load(bad.spec) is None


def test_any_truncation_is_noticed(store):
    record = make_record(tasks=["mnist"], n=9)
    path = store.save(record)
    text = path.read_bytes()
    for end in range(0, len(text) - 2, 7):
        path.write_bytes(text[:end])
        with pytest.raises(store_module.DamagedRecord):
            store_module.read_record(path)


def test_a_record_in_the_folder_of_another_run_is_damaged(store):
    record, other = make_record("ties"), make_record("emr")
    store.save(record)
    path_of(store, other).parent.mkdir(parents=True)
    path_of(store, other).write_bytes(path_of(store, record).read_bytes())
    with pytest.warns(UserWarning, match="belongs to run"):
        assert store.load(other.spec) is None
    assert store.all() == [record]


def test_a_record_of_a_later_version_is_left_in_place(store):
    path = store.save(make_record())
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "version": 4, "new_field": 1}))
    with pytest.warns(UserWarning, match="version 4"):
        assert store.all() == []
    with pytest.raises(UserError, match="record of version 4; this program reads up to 3"):
        store.load(make_record().spec)
    assert json.loads(path.read_text())["version"] == 4


def test_reading_only_moves_nothing(store):
    path = store.save(make_record())
    path.write_text("{")
    with pytest.warns(UserWarning, match="damaged and left out"):
        assert Store(store.root, read_only=True).all() == []
    assert path.read_text() == "{" and [item.name for item in path.parent.iterdir()] == ["record.json"]
    with pytest.raises(UserError):
        Store(store.root, read_only=True).save(make_record())


@pytest.mark.parametrize("suite, backbone", [("../../etc", "/x"), ("..", ".."), (".", ""), ("a\0b", "\n")])
def test_a_name_in_a_spec_does_not_lead_out_of_the_store(store, suite, backbone):
    record = make_record(spec=make_spec(suite=suite, backbone=backbone))
    path = store.save(record).resolve()
    assert path.parents[3] == store.root.resolve() and store.all() == [record]


@pytest.mark.parametrize(
    "number, words", [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written"), (errno.EIO, "Input/output")]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_says_why_and_keeps_the_old_record(store, monkeypatch, call, number, words):
    record = make_record()
    path = store.save(record)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module.os, call, fail)
    with pytest.raises(UserError, match=words) as caught:
        store.save(record.model_copy(update={"status": "failed"}))
    monkeypatch.undo()
    assert caught.value.hint and path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["record.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason=lacks("root may write everywhere", "./run_all.sh --test as another user"))
def test_a_folder_that_may_not_be_written_is_a_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "results").save(make_record())
    tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Store(tmp_path / "results").save(make_record())
    with pytest.raises(UserError, match="cannot write"), Store(tmp_path / "results").try_lock(make_spec()):
        pass


WRITER = """
import sys; sys.path[:0] = [{tests!r}, {root!r}]
from helpers.records import make_record
from benchmark.records.store import Store
store = Store({results!r})
print("writing", flush=True)
number = 0
while True:
    number += 1
    store.save(make_record(trace_summary={{"number": number, "padding": "x" * 300000}}))
"""


def test_a_killed_writer_leaves_a_whole_record(store):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = WRITER.format(tests=tests, root=os.path.dirname(tests), results=str(store.root))
    record = make_record()
    for moment in range(6):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        writer.stdout.readline()
        while not path_of(store, record).exists():
            time.sleep(0.001)
        time.sleep(0.013 * moment)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert store.load(record.spec).trace_summary["number"] >= 1
    with store.try_lock(record.spec) as held:
        assert held
    assert sorted(item.name for item in path_of(store, record).parent.iterdir()) == [".lock", "record.json"]


def test_a_record_is_replaced_and_never_written_in_place(store, tmp_path):
    record = make_record()
    store.save(record)
    before = path_of(store, record).read_bytes()
    os.link(path_of(store, record), tmp_path / "before")
    record.status = "failed"
    store.save(record)
    assert path_of(store, record).read_bytes() != before
    assert (tmp_path / "before").read_bytes() == before, "a writer that dies here would leave half a record"


def _hold(root, spec, started, leave):
    with Store(root).try_lock(spec) as held:
        started.put(held)
        leave.wait(20)


def test_two_processes_never_hold_one_run(store):
    context = multiprocessing.get_context("spawn")
    started, leave = context.Queue(), context.Event()
    spec, other = make_spec("ties"), make_spec("emr")
    holder = context.Process(target=_hold, args=(store.root, spec, started, leave))
    holder.start()
    assert started.get(timeout=20) is True
    with store.try_lock(spec) as held, store.try_lock(other) as free:
        assert not held and free
    holder.kill()
    holder.join()
    with store.try_lock(spec) as held:
        assert held, "the lock of a killed process is free"


def test_a_damaged_record_is_not_moved_while_another_process_writes_it(store):
    record = make_record()
    path = store.save(record)
    path.write_text("{")
    with store.try_lock(record.spec), pytest.warns(UserWarning, match="damaged"):
        assert Store(store.root).all() == []
    assert path.exists()


def test_written_text_replaces_the_old_with_usual_permissions(tmp_path):
    path = tmp_path / "a" / "board.md"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two" and path.stat().st_mode & 0o777 == 0o644
