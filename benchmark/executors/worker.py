"""What a cluster's worker does: open a bench once, carry out one run, and give its record."""

from __future__ import annotations

import functools
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import suites
from benchmark.harness import runner
from benchmark.harness.job import Job, Options
from benchmark.records.store import Store
from benchmark.suites.bench import Bench


@dataclass(frozen=True)
class Opening:
    """The names and paths from which a worker opens a bench, once for all of its runs.

    ``suite`` is a name, or the file of a user's own.
    """

    suite: str
    backbone: str
    family: str
    device: str
    dtype: str
    data_root: Path | None = None
    checkpoints: Path | None = None
    limit: int | None = None

    @classmethod
    def of(cls, job: Job, *, data_root: Path | None, checkpoints: Path | None, file: Path | None = None) -> Opening:
        """What opens the bench that a job wants; ``file``: that of a user's own suite."""
        spec = job.spec
        suite = str(file or spec.suite)
        return cls(suite, spec.backbone, spec.family, job.device, spec.dtype, data_root, checkpoints, spec.limit)

    def open(self) -> Bench:
        """The bench. Raises UserError as :func:`benchmark.suites.open_bench` does."""
        return suites.open_bench(
            suites.load(self.suite),
            backbone=self.backbone,
            family=self.family,
            device=self.device,
            dtype=self.dtype,
            data_root=self.data_root,
            checkpoints=self.checkpoints,
            limit=self.limit,
        )


@dataclass(frozen=True)
class Folder:
    """The results folder, with a mark by which a worker knows whether it sees the same one."""

    root: Path
    mark: str
    token: str

    def is_here(self) -> bool:
        """Whether this machine sees the driver's folder under the same path."""
        try:
            return (self.root / self.mark).read_text(encoding="utf-8") == self.token
        except OSError:
            return False


@dataclass(frozen=True)
class Reply:
    """What a worker sends back: the record, and its files where the driver cannot see them."""

    record: str
    saved: bool
    files: dict[str, bytes]


@functools.lru_cache(maxsize=1)
def _opened(opening: Opening) -> Bench:
    return opening.open()


def work(opening: Opening, job: Job, options: Options, folder: Folder, threads: int) -> Iterator[str | Reply]:
    """In a worker: say on which node the run began, then carry it out and give the :class:`Reply`."""
    import ray
    import torch

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        # Inherited from a shell's background job; Ray cancels a run by an interrupt, which would come to nothing.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield ray.get_runtime_context().get_node_id()

    torch.set_num_threads(threads)
    bench = _opened(opening)
    runner.check_same(job, bench)
    try:
        if folder.is_here():
            (record,) = runner.execute([job], bench, Store(folder.root), options)
            reply = Reply(record.model_dump_json(), True, {})
        else:
            with tempfile.TemporaryDirectory(prefix="symerge-run-") as own:
                store = Store(own)
                # Merged models are large, and made again from the record's parameters: they are not sent.
                (record,) = runner.execute([job], bench, store, replace(options, keep_merged=False))
                files = {name: (store.folder(job.spec) / name).read_bytes() for name in record.artifacts}
                reply = Reply(record.model_dump_json(), False, files)
    finally:
        if bench.device.type == "cuda":
            # What torch keeps for later would be missing to the other runs on this GPU.
            torch.cuda.empty_cache()
    yield reply
