"""A CUDA device that is not there: its tensors say ``cuda:0`` and compute on the CPU, and refuse what CUDA refuses.

``device`` is the machine and what ``torch.cuda`` answers, ``tensors`` the tensors and what each operation refuses,
``backward`` the backward pass, ``__main__`` the command line on such a machine. What is shown on it and what only a GPU
can show: docs/performance.md.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import torch

from benchmark.executors import processes
from benchmark.harness.child import process
from helpers.emulated.device import Machine, install, installed

__all__ = ["Machine", "here", "install", "installed", "waits_of"]


@contextlib.contextmanager
def here(count: int) -> Iterator[Machine]:
    """Emulated devices in this process, in those of methods, and in those that share a plan."""
    real = processes.command

    def command(*arguments: object) -> list[str]:
        words = real(*arguments)  # type: ignore[arg-type]
        return ["helpers.emulated" if word == "benchmark" and words[i - 1] == "-m" else word for i, word in enumerate(words)]

    with (
        installed(count) as machine,
        mock.patch.object(process, "BEFORE", [install]),
        mock.patch.object(processes, "command", command),
    ):
        yield machine


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
