"""A signal ends a command as itself, also where other code takes its exception for an error or drops it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import TinyBench, run

from benchmark.common import stopping
from benchmark.records.store import Store


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """No signal is ignored, as SIGHUP is where the tests run under ``nohup``."""
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Signalled:
    """What ``torch.tensor`` asks for its first entry when the signal comes, and then says ValueError."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.0


def taken_for_an_error() -> None:
    torch.tensor(Signalled())


def dropped() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        return


def test_a_library_makes_another_error_of_it() -> None:
    """What the rest of this file is about."""
    with pytest.raises(ValueError, match="could not determine the shape"), stopping.heeding():
        taken_for_an_error()


def test_the_error_is_told_for_the_signal_it_was() -> None:
    with pytest.raises(stopping.Stopped) as stopped, stopping.heeding(), stopping.told_apart():
        taken_for_an_error()
    assert stopped.value.number == signal.SIGTERM and isinstance(stopped.value.__cause__, ValueError)


def test_an_error_without_a_signal_is_itself_and_a_signal_is_forgotten_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), stopping.heeding(), stopping.told_apart():
        _ = 1 / 0
    with stopping.heeding():
        dropped()
    with pytest.raises(ZeroDivisionError), stopping.told_apart():
        _ = 1 / 0
    stopping.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_is_remembered_where_its_exception_was_dropped(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(stopping.Stopped) as stopped, stopping.heeding():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            stopping_now = True
        assert stopping_now
        stopping.check()
    assert stopped.value.number == number and signal.getsignal(number) is before


def test_what_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.heeding():
            os.kill(os.getpid(), signal.SIGHUP)
            stopping.check()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("fate", [taken_for_an_error, dropped])
def test_a_run_that_is_stopped_so_goes_on_later_and_did_not_fail(fate: Any, tmp_path: Path) -> None:
    class Stopping(TinyBench):
        def source(self, *arguments: Any, **keywords: Any) -> Any:
            fate()
            return super().source(*arguments, **keywords)

    with pytest.raises(stopping.Stopped), stopping.heeding():
        run(Stopping(), Store(tmp_path), "ties", "task_arithmetic")
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/*/*/record.json"))
    assert record["status"] == "incomplete" and record["error"]["type"] == "interrupted"
    assert {each.status for each in run(TinyBench(), Store(tmp_path), "ties", "task_arithmetic")} == {"done"}
