"""Work in a child with little memory and little time, so that a hang or a flood fails a test and not the machine."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from helpers.forks import output

MEMORY, SECONDS = 600 << 20, 30


def limited(function: Callable[[], object], memory: int = MEMORY, seconds: int = SECONDS) -> tuple[int, str]:
    """``(0, what it returned)``, ``(1, its error)``, or how the child ended (negative: by a signal) and what it said.

    Args:
        memory: address space beyond what the process has, in bytes; more is a MemoryError.
        seconds: of a processor, after which the child is killed; one that waits is after twice as many.
    """

    def work() -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        done = int(sum(os.times()[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (done + seconds, done + seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(2 * seconds)
        try:
            print(function())
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            return 1
        return 0

    return output(work)


def time_is_up() -> None:
    """What is left of this run's time limit, where one was set, passes in a tenth of a second.

    A limit so short from the start would hold for the other runs too, which on a busy machine are slow.
    """
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
