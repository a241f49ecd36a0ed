"""What keeps a run from harming others: a limit of its time, and its side effects taken back."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import threading
from collections.abc import Iterator

import torch

from methods.api import Experts


class RunTimeout(Exception):
    """The run's time limit passed outside the stream's own check."""


@contextlib.contextmanager
def apart(experts: Experts) -> Iterator[None]:
    """What a method changes beside its result stays its own: it gets copies of the heads, which runs share, and grad
    mode, default dtype, matmul precision, determinism, threads and folder are set back."""
    heads, grad, dtype = experts.heads, torch.is_grad_enabled(), torch.get_default_dtype()
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads, folder, precision = torch.get_num_threads(), os.getcwd(), torch.get_float32_matmul_precision()
    experts.heads = copy.deepcopy(heads)
    try:
        yield
    finally:
        experts.heads = heads
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        os.chdir(folder)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise :class:`RunTimeout` in the main thread after ``seconds``; a call inside C code ends first."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise RunTimeout(f"the run took more than {seconds:g} s; raise the limit with --time-limit SECONDS")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
