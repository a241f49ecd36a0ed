"""Time and memory of a piece of work in this process."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from benchmark.harness.measure import anonymous_bytes


class Measure:
    """Wall time of a ``with`` block, and its peak of anonymous memory beyond the start, sampled.

    ``seconds`` and ``peak_anonymous_mb`` (None where unknown), in MiB.
    """

    def __init__(self, interval: float = 0.01) -> None:
        self.seconds = 0.0
        self.peak_anonymous_mb: float | None = None
        self._interval = interval
        self._stop = threading.Event()

    def __enter__(self) -> Measure:
        self._start = anonymous_bytes()
        self._peak = self._start
        self._thread: threading.Thread | None = None
        if self._start is not None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self._began = time.perf_counter()
        return self

    def _note(self) -> None:
        now = anonymous_bytes()
        if now is not None and self._peak is not None:
            self._peak = max(self._peak, now)

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self._note()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self._note()
        self._stop.set()
        if self._thread is not None and self._start is not None and self._peak is not None:
            self._thread.join()
            self.peak_anonymous_mb = (self._peak - self._start) / 2**20
