"""Limits of what this process does itself; methods run in a process of their own (``harness/child``)."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class RunTimeout(Exception):
    """The run's time limit passed outside the stream's own check."""


@contextlib.contextmanager
def time_limit(seconds: float | None, limit: float | None = None) -> Iterator[None]:
    """Raise :class:`RunTimeout` in the main thread after ``seconds``; a call inside C code ends first.

    Args:
        limit: the run's whole limit, to be named, where ``seconds`` is what is left of it.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise RunTimeout(f"the run took more than {limit or seconds:g} s; raise the limit with --time-limit SECONDS")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
