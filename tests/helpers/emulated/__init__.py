"""A CUDA device that is not there: its tensors say ``cuda:0`` and compute on the CPU, and refuse what CUDA refuses.

``device`` is the machine and what ``torch.cuda`` answers, ``tensors`` the tensors and what each operation refuses,
``backward`` the backward pass, ``__main__`` the command line on such a machine. What is shown on it and what only a GPU
can show: docs/performance.md.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from benchmark import suites
from benchmark.executors import processes
from benchmark.harness.child import process
from helpers.emulated.device import Machine, install, installed

HELPERS = Path(__file__).parents[1]

__all__ = ["Machine", "here", "install", "installed", "two_tasks", "waits_of"]


@contextlib.contextmanager
def here(count: int) -> Iterator[Machine]:
    """Emulated devices in this process, in those of methods, and in those that share a plan."""
    real = processes.command

    def command(*arguments: object) -> list[str]:
        words = real(*arguments)  # type: ignore[arg-type]
        return [
            "helpers.emulated" if word == "benchmark" and words[i - 1] == "-m" else word for i, word in enumerate(words)
        ]

    paths = os.pathsep.join(filter(None, [str(HELPERS.parent), os.environ.get("PYTHONPATH")]))
    with (
        mock.patch.dict(os.environ, PYTHONPATH=paths),
        installed(count) as machine,
        mock.patch.object(process, "BEFORE", [install]),
        mock.patch.object(processes, "command", command),
    ):
        yield machine


@contextlib.contextmanager
def two_tasks() -> Iterator[None]:
    """Within this, a suite that is loaded by its name has two tasks."""
    load = suites.load

    def shorter(name: str) -> suites.Suite:
        suite = load(name)
        return suite.model_copy(update={"tasks": suite.tasks[:2]})

    with mock.patch.object(suites, "load", shorter):
        yield


@contextlib.contextmanager
def waits_of(machine: Machine | None) -> Iterator[Counter[str]]:
    """How often the host waits for the device within this, by what it does; ``None`` is a real device."""
    waits: Counter[str] = Counter()
    if machine is not None:
        before = machine.waits.copy()
        yield waits
        waits.update(machine.waits - before)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits.update(f"{each.filename}:{each.lineno}" for each in said if "synchroniz" in str(each.message))
