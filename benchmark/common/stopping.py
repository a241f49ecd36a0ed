"""The signals that end a command. They are remembered, for the exception alone is not enough.

A signal's exception is raised wherever Python happens to be, inside a library's call too. Compiled code may take it for
a failure of its own (``torch.tensor`` of a storage raises ValueError then), or drop it (a finaliser, a callback). So a
run asks here before it calls an error its own.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_asked: list[Stopped] = []


class Stopped(KeyboardInterrupt):
    """A signal that ends a command, child processes with it: Ctrl-C and two more.

    SIGTERM, as a batch system or ``kill`` sends it, or SIGHUP, as a terminal that is closed does.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def heeding() -> Iterator[None]:
    """Signals raise :class:`Stopped` inside, and are remembered; in the main thread alone, as Python has it."""

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:  # comes from the shell and from the system, for one terminal
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _asked.append(Stopped(number))
        raise _asked[-1]

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    # What nohup or a shell's background has ignored stays so, and what code other than Python's handles (None).
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.signal(one, stop) for one in ends if signal.getsignal(one) not in (signal.SIG_IGN, None)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        _asked.clear()


def check() -> None:
    """Raises Stopped where a signal came and its exception was dropped on the way."""
    if _asked:
        raise _asked[-1]


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """An error inside, after a signal, is that signal's exception as somebody else's code has passed it on."""
    try:
        yield
    except Exception as error:
        if _asked:
            raise _asked[-1] from error
        raise
