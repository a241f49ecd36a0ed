"""What runs, what came of each run, and how long is left, on stderr: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from tqdm import tqdm

from benchmark.common.bars import pause
from benchmark.common.escapes import terminal
from benchmark.common.spans import duration
from benchmark.records.record import Record

#: Of a run's work, what is done when the rounds of its stream are: the evaluation is to come.
ROUNDS = 0.9


class Remaining:
    """How long is left: the time so far, times the work to come over the work done.

    Args:
        work: of each run that is to do, in any unit; the same for all where nothing is known.
        clock: seconds, monotonic.
    """

    def __init__(self, work: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self.work = {run_id: max(size, 1e-9) for run_id, size in work.items()}
        self._clock, self._began = clock, clock()
        self._done = 0.0
        self._at, self._share = "", 0.0

    def at(self, run_id: str, share: float) -> None:
        """A run is under way, and this share of it done."""
        self._at, self._share = run_id, share

    def end(self, run_id: str) -> None:
        """A run is done; one that is not among those to do counts for nothing."""
        self._done += self.work.pop(run_id, 0.0)
        self._at = ""

    def seconds(self) -> float | None:
        """Seconds left by what is known; None while nothing of the work is done."""
        begun = self.work.get(self._at, 0.0) * self._share
        done, left = self._done + begun, sum(self.work.values()) - begun
        return (self._clock() - self._began) * left / done if done else None


class Progress:
    """One bar over the runs that are to do, one below it for a stream's rounds, and a line for each run that is done.

    Where stderr is no terminal there are no bars: a line now and then says what they would.

    Args:
        work: ``{run id: its work}`` of the runs to do, by which the remaining time is told.
        quiet: show nothing.
        clock: seconds, monotonic.
    """

    def __init__(
        self, work: Mapping[str, float], *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quiet, self.remaining = quiet, Remaining(work, clock)
        self.live = not quiet and sys.stderr.isatty()
        self.total = len(work)
        self.bar = tqdm(
            total=len(work),
            desc="runs",
            unit="run",
            file=sys.stderr,
            position=0,
            leave=True,
            dynamic_ncols=True,
            disable=not self.live,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:12}| {elapsed}{postfix}",
        )
        self.inner: tqdm | None = None
        self.name = self.run_id = ""
        self.kept, self.fresh = 0, 0
        self.clock, self.began, self.said = clock, clock(), clock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_inner()
        self.bar.set_postfix_str("")
        self.bar.close()
        if kind is None and not self.quiet:
            runs = "1 run" if self.fresh == 1 else f"{self.fresh} runs"
            done = f"{runs} in {duration(self.clock() - self.began)}" if self.fresh else ""
            kept = f"{self.kept} done before and kept" if self.kept else ""
            self.note("; ".join(filter(None, [done, kept])))

    def begin(self, name: str, seed: int | None, run_id: str = "") -> None:
        """A run starts."""
        self.name, self.run_id = name if seed is None else f"{name} seed {seed}", run_id
        self.remaining.at(run_id, 0.0)
        self._tell(self.name)

    def stage(self, text: str) -> None:
        """What the present run is at."""
        self._tell(f"{self.name}: {text}")

    def _tell(self, text: str) -> None:
        if not self.live and self.clock() - self.said < pause():
            return
        seconds = self.remaining.seconds()
        left = f"about {duration(seconds)} left, " if seconds is not None and self.fresh < self.total else ""
        self.bar.set_postfix_str(f"{left}{text}")
        if not self.live:
            self.note(f"{self.fresh} of {self.total} runs done, {left}{text}")

    def end(self, record: Record, *, kept: bool = False) -> None:
        """A run has its record, from this command or, ``kept``, from one before."""
        self._close_inner()
        if kept:
            self.kept += 1
            return
        self.fresh += 1
        self.remaining.end(record.run_id)
        self.bar.update(1)
        if record.status != "failed":  # which was told as it happened
            self.note(f"{self.name}: {outcome(record)}")

    def note(self, text: str) -> None:
        """A line, above the bars where they are."""
        if text and not self.quiet:
            self.said = self.clock()
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
                disable=not self.live,
            )
        self.inner.update(done - self.inner.n)
        self.remaining.at(self.run_id, ROUNDS * done / max(total, 1))
        if not self.live:
            self.stage(f"{text}, {done} of {total} rounds")
        if done >= total:
            self._close_inner()

    def _close_inner(self) -> None:
        if self.inner is not None:
            self.inner.close()
            self.inner = None


def outcome(record: Record) -> str:
    """A run's mean score, or its scores where tasks are measured by unlike metrics, and what it took."""
    results = record.tasks
    if record.status != "done" or not results:
        return record.status
    if len({result.metric for result in results.values()}) == 1:
        metric = next(iter(results.values())).metric
        scores = f"{metric} {sum(result.value for result in results.values()) / len(results):.1f}"
    else:
        scores = ", ".join(f"{task} {result.metric} {result.value:.1f}" for task, result in results.items())
    cost = record.cost
    spent = {"merge": cost.merge_seconds, "adaptation": cost.adapt_seconds, "evaluation": cost.evaluate_seconds}
    times = ", ".join(f"{what} {duration(seconds)}" for what, seconds in spent.items() if seconds and seconds >= 1)
    return f"{scores}{f' ({times})' if times else ''}"
