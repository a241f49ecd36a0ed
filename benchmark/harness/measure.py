"""Time and memory of a piece of work."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType


def anonymous_bytes(pid: int | str = "self") -> int | None:
    """Resident memory of a process that is no mapped file, in bytes; None where the system does not tell it."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


class Measure:
    """Wall time and peaks of anonymous memory beyond the start (sampled) and of CUDA memory, of a ``with`` block.

    ``seconds``, ``peak_anonymous_mb`` (None where unknown) and ``peak_cuda_mb`` (None without CUDA), in MiB.
    """

    def __init__(self, device: object = None, interval: float = 0.01) -> None:
        self.seconds = 0.0
        self.peak_anonymous_mb: float | None = None
        self.peak_cuda_mb: float | None = None
        self._device, self._interval = device, interval
        self._stop = threading.Event()

    def __enter__(self) -> Measure:
        self._start = anonymous_bytes()
        self._peak = self._start
        self._thread: threading.Thread | None = None
        if self._start is not None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        if self._cuda():
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)  # type: ignore[arg-type]
        self._began = time.perf_counter()
        return self

    def _cuda(self) -> bool:
        return getattr(self._device, "type", None) == "cuda"

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
        if self._cuda():
            import torch

            torch.cuda.synchronize(self._device)  # type: ignore[arg-type]
            self.peak_cuda_mb = torch.cuda.max_memory_allocated(self._device) / 2**20  # type: ignore[arg-type]
        self.seconds = time.perf_counter() - self._began
        self._note()
        self._stop.set()
        if self._thread is not None and self._start is not None and self._peak is not None:
            self._thread.join()
            self.peak_anonymous_mb = (self._peak - self._start) / 2**20
