"""A method cannot reach what it did not declare, nor what judges it, and its end is its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hostile
from helpers.forks import assert_nothing_outlives
from helpers.lacking import lacks
from helpers.tiny import CLASSES, TASKS, TinyBench, run

from benchmark.common.project import DATA, ROOT
from benchmark.harness.child import landlock, process
from benchmark.harness.child.channel import BrokenMessage, Channel
from benchmark.records.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def ran(store: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``ran(function)``: the record of a hostile method in the place of ties, with others after it."""

    def use(function: Any, *, text: str = "ties", **options: Any) -> Any:
        monkeypatch.setitem(process.STAND_INS, text, function)
        records = run(TinyBench(), store, text, "weight_average", **options)
        assert [records[i].status for i in (0, 1, 3)] == ["done"] * 3, "the others ran"
        return records[2]

    return use


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The records of ordinary methods, nothing hostile beside them."""
    yield run(TinyBench(), Store(tmp_path_factory.mktemp("usual")), "weight_average", "symerge")[2:]


def test_an_unlabelled_source_holds_no_labels(ran: Any) -> None:
    record = ran(hostile.digs_in_its_stream, text="symerge")
    assert record.trace_summary["said"] == {"item": "None", "attributes": [], "frames": []}
    record = ran(hostile.asks_for_another_split, text="symerge", force=True)
    assert record.status == "failed" and "'train' of 't0' were asked for" in record.error.message


def test_what_was_fetched_counts_as_drawn(ran: Any) -> None:
    assert ran(hostile.fetches_everything, text="symerge").cost.images_drawn == TASKS * 24


def test_its_process_refuses_what_is_none_of_its_business(ran: Any, store: Store, count: Any) -> None:
    data = next(path for path in DATA.rglob("*") if path.is_file())
    ran(hostile.writes_a_temporary_file)
    record = ran(functools.partial(hostile.reaches_out, data=str(data), results=str(store.root)), force=True)
    assert record.status == "done", record.error
    said = record.trace_summary["said"]
    through = {name: text for name, text in said.items() if "was refused" not in text}
    assert not through and len(said) == 14
    count("refused", len(said))
    assert "draws samples from its stream" in said["data"] and "methods.api" in said["load_split"]
    assert not (store.root.parent / "elsewhere").exists() and not list(store.root.rglob("mine*"))


@pytest.mark.skipif(landlock.version() < 6, reason=lacks("no Landlock of version 6", "a Linux kernel of 6.12 or later"))
def test_the_kernel_refuses_what_goes_around_python(ran: Any, count: Any) -> None:
    data = next(DATA.rglob("*.parquet"))
    record = ran(functools.partial(hostile.reaches_out_below_python, data=str(data)))
    said = record.trace_summary["said"]
    assert "Permission denied" in said.pop("pyarrow")
    assert len(said) == 3 and set(said.values()) == {"came through: -1"}
    count("refused", 1 + len(said))


def test_folders_are_opened_around_what_is_hidden_in_them(tmp_path: Path) -> None:
    for name in ("code/a", "code/data/secret", "code/data/open", "other"):
        (tmp_path / name).mkdir(parents=True)
    kept = landlock.around([tmp_path / "code", tmp_path / "other", tmp_path / "none"], [tmp_path / "code/data/secret"])
    assert {str(path.relative_to(tmp_path)) for path in kept} == {"code/a", "code/data/open", "other"}


def test_a_method_may_write_temporary_files(ran: Any, store: Store) -> None:
    record = ran(hostile.writes_a_temporary_file)
    assert record.status == "done" and record.trace_summary["read"] == 2.0
    assert not list(store.root.rglob("mine.pt")) and not list(store.root.rglob(".merging"))


def test_hooks_and_changed_experts_do_not_reach_the_evaluation(ran: Any, usual: Any) -> None:
    record = ran(hostile.leaves_a_hook)
    assert record.status == "done" and record.tasks == usual[0].tasks


def test_what_it_leaves_behind_reaches_neither_its_scores_nor_the_next_method(
    store: Store, monkeypatch: pytest.MonkeyPatch, usual: Any
) -> None:
    monkeypatch.setitem(process.STAND_INS, "ties", hostile.leaves_a_mess)
    messy, *after = run(TinyBench(), store, "ties", "weight_average", "symerge")[2:]
    assert messy.tasks == usual[0].tasks
    assert [r.tasks for r in after] == [r.tasks for r in usual]
    losses = [r.trace_summary.get("losses") for r in (after[1], usual[1])]
    assert losses[0] == losses[1] and losses[0]
    assert not torch.is_autocast_enabled("cpu") and torch.get_default_device().type == "cpu"


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (hostile.exits, "Refusal", r"os._exit(0) was refused"),
        (hostile.ends_for_good, "exit", "ended with status 0 before it returned a merge"),
        (hostile.crashes, "SIGSEGV", "was ended by SIGSEGV before it returned a merge"),
        (hostile.closes, "GeneratorExit", "enough"),
        (hostile.cannot_say, "Unprintable", "whose text fails with RuntimeError"),
        (hostile.says_a_surrogate, "ValueError", "half a pair: \\ud800, and \\x1b[31mred"),
        (hostile.says_too_much, "ValueError", "(50,000,000 characters)"),
        (hostile.claims_less_than_nothing, "MergingError", "adapt_seconds=-1000000000.0; expected a number from 0"),
        (hostile.claims_no_number, "MergingError", "trainable='many'"),
        (hostile.forges_a_merge, "MergingError", "cannot be stored with a merge"),
        (hostile.saves_no_merge, "MergingError", "no saved merge"),
    ],
)
def test_a_strange_end_is_the_failure_of_one_run(ran: Any, function: Any, kind: str, words: str, count: Any) -> None:
    record = ran(function)
    count("ends", 1)
    assert (record.status, record.error.type) == ("failed", kind)
    assert words in record.error.message and len(record.error.message) < 6000
    if kind in ("Refusal", "SIGSEGV", "GeneratorExit", "Unprintable", "ValueError"):
        assert record.error.where.startswith("helpers/hostile.py, line ")
        assert record.error.where.endswith(f", in {function.__name__}")


def test_a_time_limit_ends_a_method_that_catches_everything(
    ran: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)
    run(TinyBench(), store, "weight_average")
    record = ran(hostile.never_ends, time_limit=6.0)
    assert record.error.type == "timeout" and "did not stop" in record.error.message


def test_a_memory_limit_ends_a_method_that_takes_all(ran: Any) -> None:
    record = ran(hostile.takes_all, memory_limit=1.5 * 2**30)
    assert record.error.type == "out of memory" and "--memory-limit GIB" in record.error.message
    assert record.error.message.startswith("its process held 1.5")


def test_storage_and_task_id_are_worked_out_and_not_believed(ran: Any) -> None:
    record = ran(hostile.returns_the_experts)
    assert record.needs_task_id is True
    assert record.cost.storage_bytes == (TASKS - 1) * TinyBench().experts().nbytes()


def test_what_a_method_prints_is_shown_without_control_characters(ran: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ran(hostile.prints)
    shown = capsys.readouterr().err
    assert "a line of mine, \\x1b[31mred" in shown


def test_a_process_ends_with_the_harness_that_is_killed(tmp_path: Path) -> None:
    text = (
        "from helpers import hostile\nfrom helpers.tiny import TinyBench, run\n"
        "from benchmark.harness.child import process\nfrom benchmark.records.store import Store\n"
        "process.STAND_INS['ties'] = hostile.never_ends\n"
        f"run(TinyBench(), Store({str(tmp_path / 'results')!r}), 'ties')\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", text], env=environment, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("results/tiny/*/*/.merging/begun")):
        assert parent.poll() is None, "it is to wait for the method, which has begun and never ends"
        time.sleep(0.1)
    assert_nothing_outlives(parent)


def test_a_message_is_data_and_of_the_size_that_was_asked_for() -> None:
    import multiprocessing

    ours, theirs = multiprocessing.Pipe()
    near, far = Channel(ours), Channel(theirs)
    tree = {"a": torch.arange(3), "b": [torch.ones(2, 2, dtype=torch.bfloat16), None, torch.empty(0, 3)]}
    far.send("word", tree, number=1)
    message = near.receive(room=100)
    assert message.kind == "word" and message["number"] == 1 and torch.equal(message.tree["a"], tree["a"])
    assert message.tree["b"][0].dtype == torch.bfloat16 and message.tree["b"][2].shape == (0, 3)
    far.send("word", torch.zeros(1000))
    with pytest.raises(BrokenMessage, match="4,000 bytes; expected at most 100"):
        near.receive(room=100)
    for text in (
        b"[]",
        b'{"kind": 1, "fields": {}, "tree": null}',
        b"[" * 5000,
        b'{"kind":"a","fields":{},"tree":{"shape":[-1],"dtype":"int8"}}',
    ):
        ours, theirs = multiprocessing.Pipe()
        theirs.send_bytes(text)
        with pytest.raises(BrokenMessage):
            Channel(ours).receive()
    assert CLASSES
