"""Work in a process of its own, forked so that torch is loaded already; and processes that are killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import psutil
import tqdm


def output(function: Callable[[], int]) -> tuple[int, str]:
    """The exit status of ``function()`` in a child, and what it wrote to stdout and stderr."""
    ours, theirs = os.pipe()

    def work() -> int:
        os.close(ours)
        with os.fdopen(theirs, "w") as pipe, contextlib.redirect_stdout(pipe), contextlib.redirect_stderr(pipe):
            return function()

    child = fork(work)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        text = pipe.read()
    return end(child), text


def fork(function: Callable[[], int]) -> int:
    """Start ``function`` in a child, whose exit status is its result (99 for an exception); the child's id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        # The parent's thread that watches progress bars may hold their lock, and is not there to free it.
        tqdm.tqdm.set_lock(threading.RLock())
        code = function()
    finally:
        os._exit(code)


def end(child: int) -> int:
    """Wait for the child: its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_nothing_outlives(parent: subprocess.Popen[Any]) -> None:
    """Kill a process, so that no handler and no ``finally`` of it runs; all that it started ends by itself."""
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2, "the server that forks, and the run"
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    for each in alive:
        each.kill()
    assert not alive
