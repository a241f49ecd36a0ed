"""What runs and how long is left, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from benchmark.common.escapes import terminal
from benchmark.records.record import Record


class Progress:
    """One bar over the runs of a plan, and one below it for the stage of the present run."""

    def __init__(self, total: int) -> None:
        self.bar = tqdm(
            total=total,
            desc="runs",
            unit="run",
            file=sys.stderr,
            position=0,
            leave=True,
            dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:12}| {elapsed}<{remaining} {postfix}",
        )
        self.inner: tqdm | None = None
        self.name = ""
        self.began = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_inner()
        self.bar.close()

    def begin(self, name: str, seed: int | None) -> None:
        """A run starts."""
        self.name = name if seed is None else f"{name} seed {seed}"
        self.bar.set_postfix_str(self.name)

    def stage(self, text: str, count: Any = None) -> None:
        """What the present run is at."""
        self.bar.set_postfix_str(f"{self.name}: {text}")

    def end(self, record: Record) -> None:
        """A run has its record."""
        self._close_inner()
        self.bar.update(1)
        if self.bar.disable:
            self.note(f"{self.name}: {record.status}")

    def note(self, text: str) -> None:
        """A line above the bars."""
        self.bar.write(terminal(text, lines=True), file=sys.stderr)

    def rounds(self, done: int, total: int, text: str) -> None:
        """How far a stream's rounds are, under a bar of their own; it goes when they are done."""
        if self.inner is None:
            self.stage(text)
            self.inner = tqdm(
                total=total,
                desc=f"  {self.name} {text}",
                unit="round",
                file=sys.stderr,
                position=1,
                leave=False,
                dynamic_ncols=True,
            )
        self.inner.update(done - self.inner.n)
        if done >= total:
            self._close_inner()

    def _close_inner(self) -> None:
        if self.inner is not None:
            self.inner.close()
            self.inner = None
