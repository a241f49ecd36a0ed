"""What a record says of a job as it begins, as it merges and as it fails."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import torch

import methods
from benchmark.common.errors import line_in
from benchmark.common.escapes import printable
from benchmark.harness import provenance
from benchmark.harness.child.process import Failure
from benchmark.harness.job import Job
from benchmark.harness.room import NoRoom, out_of_memory
from benchmark.harness.setup import Setup
from benchmark.records import access as accesses
from benchmark.records.record import Error, MethodInfo, Record


def now() -> str:
    """The time in UTC, as records write it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def started(job: Job, setup: Setup) -> Record:
    """The record of a job that begins."""
    about, bench = job.method, setup.bench
    return Record(
        run_id=job.id,
        spec=job.spec,
        variant=job.variant,
        changed=dict(job.changed),
        status="running",
        started=now(),
        method=MethodInfo(title=about.title, paper=about.paper),
        access=accesses.parts(job.access, bench.reads, bench.access),
        provenance=setup.provenance(),
        suite_tasks=list(bench.tasks),
    )


def fail(record: Record, setup: Setup, error: BaseException) -> None:
    """Record why a run has no scores; what is already evaluated stays."""
    kind, message, where, unfit = type(error).__name__, printable(error), "", isinstance(error, methods.NotApplicable)
    trail = ""
    if isinstance(error, Failure):
        kind, message, where, trail, unfit = error.kind, error.message, error.where, error.trail, error.unfit
    elif record.spec.method in methods.names():
        # What a study derives from runs has no file of its own.
        where = line_in(methods.describe(record.spec.method).path, error)
    if isinstance(error, NoRoom):
        kind = "out of memory"
    elif out_of_memory(error):
        kind = "out of memory"
        message = f"{message or 'no memory left'}; try a smaller batch_size, --dtype bfloat16, or a machine with more"
    elif kind in ("RunTimeout", "TimeLimit"):
        kind = "timeout"
    if unfit:
        # That a method does not fit is no fault of a line of it.
        where, kind = "", methods.NotApplicable.__name__
    trail = trail or "".join(traceback.format_exception(error))
    record.status, record.finished = "failed", now()
    record.error = Error(type=kind, message=message, where=where, traceback=provenance.relative(trail)[-2000:])
    word = "is left out" if unfit else f"failed: {kind}"
    setup.progress.note(f"{record.variant} {word}: {message}{f' ({where})' if where else ''}")
    setup.store.save(record)


#: Where a record's trace names operations that may give other numbers the next time.
UNSTEADY = "not_deterministic"


def note_unsteady(record: Record, names: Iterable[str]) -> None:
    """Operations on a GPU that torch has no deterministic algorithm of; none is said where there are none."""
    said = record.trace_summary.get(UNSTEADY)
    if every := sorted({*map(str, said if isinstance(said, list) else []), *names}):
        record.trace_summary[UNSTEADY] = every


#: Where a record's trace says the batches of tasks that had no room for the size asked for.
SMALLER = "evaluated_in_batches_of"


def note_size(record: Record, task: str, size: int, asked: int) -> None:
    """A task was evaluated in batches of ``size``; nothing is said where that is what was asked for."""
    said = record.trace_summary.pop(SMALLER, None)
    sizes = {**(said if isinstance(said, dict) else {}), task: size}
    if size == asked:
        del sizes[task]
    if sizes:
        record.trace_summary[SMALLER] = sizes


#: Numbers of a trace's tensors that a record holds.
ROOM = 20000


def summary(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The trace as a record keeps it: coefficients rounded, loss curves in at most 100 points, `ROOM` numbers in all.

    Of several tensors the first that fit stay.
    """
    short: dict[str, Any] = {}
    room = ROOM
    for key, value in trace.items():
        if isinstance(value, torch.Tensor):
            if key == "losses":
                short[key] = _curve(value)
            elif value.numel() <= room and value.is_floating_point() and not key.startswith("raw_"):
                room -= value.numel()
                rows = value.reshape(-1, value.shape[-1] if value.ndim else 1)
                short[key] = [[round(float(v), 5) for v in row] for row in rows]
        elif isinstance(value, (str, int, float, bool, list, dict)) and key != "adapt_seconds":
            short[key] = value
    return short


def _curve(losses: torch.Tensor) -> list[float]:
    stride = max(1, len(losses) // 100)
    if not len(losses):
        return []
    return [round(float(v), 5) for v in losses[: len(losses) // stride * stride].reshape(-1, stride).mean(1)]
