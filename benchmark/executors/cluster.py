"""More than one machine: the same plan on Ray, a task a run. Only this, ``nodes`` and ``worker`` know of Ray.

A run stays on one worker from merge to last evaluation. Where a worker sees the driver's results folder it writes
the records there itself; elsewhere it sends them back. Ray retries nothing: the driver hands out again what a dying
worker or node left, a bounded number of times, so that every loss is seen and said.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.budget import dry_run, estimate
from benchmark.common.errors import UserError
from benchmark.common.files import replace_file
from benchmark.executors import nodes
from benchmark.executors.worker import Folder, Opening, Reply, work
from benchmark.harness import runner
from benchmark.harness.job import Job, Options
from benchmark.harness.progress import Progress
from benchmark.harness.setup import Setup
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.suites.bench import Bench

RETRIES = 2
#: Seconds that cancelled runs get to write down how far they are.
GRACE = 10.0
#: Of a GPU's memory, what runs may take by estimate; and the steps in which shares of a GPU are given.
USABLE, STEP = 0.9, 0.05


class WorkerDied(Exception):
    """The process or the machine that did a run ended more often than it is tried again."""


@dataclass(frozen=True)
class Demand:
    """What Ray sets aside for one run."""

    cpus: int = 1
    gpus: float = 0.0
    memory: float = 0.0
    """Bytes of the host; 0 where no estimate can be made."""
    weight: float = 0.0
    """How long the run takes beside others: the longest start first, since they bound the whole."""


@dataclass
class Task:
    """One job of the plan on its way."""

    job: Job
    bench: Bench
    """The driver's own, on the CPU: what a record of a lost run is made from."""
    opening: Opening
    demand: Demand
    lost: int = 0
    node: str = ""


def demand(job: Job, around: estimate.Setting | None, *, threads: int, gpu_bytes: float | None) -> Demand:
    """What to set aside for a run, from the dry run's estimate; a whole GPU where there is none.

    Args:
        gpu_bytes: memory of the smallest GPU of the cluster; None on the CPU.
    """
    if around is None:
        return Demand(threads, 0.0 if gpu_bytes is None else 1.0)
    name, parameters, around = job.spec.method, job.spec.parameters, around.at(job.precision)
    need = estimate.need(name, parameters, around)
    gpus = 0.0
    if gpu_bytes is not None:
        gpus = min(1.0, math.ceil(need.device / (USABLE * gpu_bytes) / STEP) * STEP) if gpu_bytes else 1.0
    weight = estimate.operations(name, parameters, around) / 1e12 + estimate.traffic(name, parameters, around) / 1e10
    return Demand(threads, round(gpus, 2), need.together, weight)


def load_ray() -> Any:
    """Ray, with its telemetry off. Raises UserError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(
            f"--executor ray needs Ray, which cannot be imported: {error}",
            "Type pip install -e '.[cluster]' in this environment, or leave --executor out.",
        ) from None
    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to the cluster at ``address``; without one, to a cluster of this machine alone, for this command.

    Raises:
        UserError: no cluster answers, or it is of another version.
    """
    ray = load_ray()
    # Ray prints what its daemons say of deaths to stdout, from a thread; stdout is for boards, deaths are said below.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        join(ray, address)
        try:
            yield ray
        finally:
            ray.shutdown()


def join(ray: Any, address: str | None, **more: Any) -> None:
    """Make this process a driver of the cluster; see :func:`connected`."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "object_store_memory": 1 << 28}
    else:
        own = {}
    try:
        _answers(address)
        ray.init(address or "local", **own, **quiet, **more)
    except (OSError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise UserError(
            f"no Ray cluster on {where}: {(str(error) or type(error).__name__).splitlines()[0]}",
            "Start one with ray start --head, name it with --address HOST:PORT, or leave --address out.",
        ) from error


def _answers(address: str | None) -> None:
    """Raise OSError where nothing listens at a HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def execute(
    tasks: Sequence[Task], store: Store, options: Options, ray: Any, environment: dict[str, Any]
) -> dict[str, Record]:
    """Carry out the tasks on a connected Ray; every run then has its record in ``store``. Returns them by run id.

    Runs that are done stay as they are. A run that fails is recorded and the others go on.

    Args:
        environment: Ray's ``runtime_env`` of the workers.

    Raises:
        UserError: a results folder that cannot be written, or a worker that cannot open the bench. KeyboardInterrupt
        ends what runs; what is done is kept.
    """
    if options.before is None:
        options = replace(options, before=runner.before([task.job for task in tasks], store))
    work = runner.to_do([task.job for task in tasks], store, options)
    with Progress(work, quiet=options.quiet) as progress, _marked(store) as folder:
        waiting: list[Task] = []
        records: dict[str, Record] = {}
        for task in tasks:
            record = store.load(task.job.spec)
            if record is not None and runner.settled(record, options):
                records[record.run_id] = record
                progress.end(record, kept=True)
            else:
                waiting.append(task)
        waiting.sort(key=lambda task: -task.demand.weight)
        return records | _Driver(ray, store, options, folder, environment, progress).carry_out(waiting)


@dataclass(frozen=True)
class Place:
    """Where the jobs of ``run --executor ray`` are done: a cluster, or one of this machine alone where none is named.

    ``device`` may be auto, for what the cluster has; ``checked``: jobs that cannot fit by estimate are refused.
    """

    address: str | None = None
    device: str = "cpu"
    threads: int = 1
    checked: bool = True
    data_root: Path | None = None
    checkpoints: Path | None = None


def main(
    place: Place, plans: Sequence[tuple[Bench, Sequence[Job]]], store: Store, options: Options
) -> Iterator[list[Record]]:
    """The plans of ``run --executor ray``, all at once; then the records of each.

    Raises:
        UserError: no Ray or no cluster, a device that none of its nodes has, runs that cannot fit on any.
    """
    with connected(place.address) as ray:
        gpus = ray.cluster_resources().get("GPU", 0)
        device = place.device if place.device != "auto" else "cuda" if gpus else "cpu"
        there = nodes.look(ray, device == "cuda")
        tasks = []
        for bench, jobs in plans:
            tasks += _tasks(bench, [replace(job, device=device) for job in jobs], place, there, store, options)
        for line in nodes.unmet({(t.demand.cpus, t.demand.gpus, t.demand.memory) for t in tasks}, there):
            print(f"note: {line}", file=sys.stderr)
        shared = all(node.same for node in there)
        environment = nodes.environment(shared, place.threads)
        if not shared:
            # Ray uploads a folder only as a driver joins, named by its content: what is there is not sent again.
            ray.shutdown()
            join(ray, place.address, runtime_env=environment)
        records = execute(tasks, store, options, ray, environment if shared else {})
    for _, jobs in plans:
        yield [records[job.id] for job in jobs]


def _tasks(
    bench: Bench, jobs: Sequence[Job], place: Place, there: Sequence[nodes.Node], store: Store, options: Options
) -> list[Task]:
    """The jobs of one plan with what each demands. Raises UserError where one cannot fit on any node."""
    if place.checked:
        dry_run.refuse([(bench, jobs)], store, store.root, options, machine=nodes.largest(there))
    around = dry_run.setting(bench, jobs[0].device, options)
    gpu = nodes.smallest_gpu(there) if jobs[0].device == "cuda" else None
    opening = Opening.of(jobs[0], data_root=place.data_root, checkpoints=place.checkpoints, file=bench.suite.file)
    return [Task(job, bench, opening, demand(job, around, threads=place.threads, gpu_bytes=gpu)) for job in jobs]


@contextlib.contextmanager
def _marked(store: Store) -> Iterator[Folder]:
    """The results folder with a mark that only this command has put there."""
    token = secrets.token_hex(16)
    mark = f".cluster-{token[:8]}"
    path = store.root.resolve() / mark

    def write(temporary: Path) -> None:
        temporary.write_text(token, encoding="utf-8")

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)
    try:
        yield Folder(path.parent, mark, token)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


class _Driver:
    """Hands out runs and takes in records."""

    def __init__(
        self,
        ray: Any,
        store: Store,
        options: Options,
        folder: Folder,
        environment: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.ray, self.store, self.options, self.folder, self.progress = ray, store, options, folder, progress
        self.remote = ray.remote(max_retries=0, runtime_env=environment)(work)
        self.flying: dict[Any, Task] = {}
        self.done: Counter[str] = Counter()
        self.records: dict[str, Record] = {}
        self.names = nodes.names(ray)
        errors = ray.exceptions
        self.deaths = (
            errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.OutOfMemoryError,
            errors.ObjectLostError,
        )  # fmt: skip

    def carry_out(self, tasks: Sequence[Task]) -> dict[str, Record]:
        """All tasks to their records, by run id."""
        try:
            for task in tasks:
                self.submit(task)
            while self.flying:
                ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=1.0)
                for words in ready:
                    self.hear(words)
                self.tell()
        except BaseException:
            self.cancel()
            raise
        if self.done:
            each = ", ".join(f"{name} {count}" for name, count in sorted(self.done.items()))
            self.progress.note(f"runs by node: {each}")
        return self.records

    def submit(self, task: Task) -> None:
        """Hand one run to Ray."""
        want = task.demand
        remote = self.remote.options(num_cpus=want.cpus, num_gpus=want.gpus, memory=int(want.memory) or None)
        task.node = ""
        words = remote.remote(task.opening, task.job, self.options, self.folder, want.cpus)
        self.flying[words] = task

    def hear(self, words: Any) -> None:
        """Take the next word of a run: that it began, its reply, or how it ended without one."""
        task = self.flying[words]
        try:
            word = self.ray.get(next(words))
        except self.deaths as error:
            del self.flying[words]
            self.lost(task, error)
            return
        except self.ray.exceptions.RayTaskError as error:
            raise _plain(error) from error
        except self.ray.exceptions.RuntimeEnvSetupError as error:
            raise UserError(f"a worker could not be prepared: {error}", "See docs/cluster.md.") from error
        if isinstance(word, Reply):
            del self.flying[words]
            record = self.keep(task, word)
            if record.error is not None:
                self.progress.note(f"{record.variant}: {record.error.line()}")
            self.end(task, record)
        else:
            if word not in self.names:
                self.names = nodes.names(self.ray)
            task.node = self.names.get(word, word[:8])

    def keep(self, task: Task, reply: Reply) -> Record:
        """The record of a reply, saved here if the worker could not."""
        record = Record.model_validate_json(reply.record)
        if reply.saved:
            return record
        while True:
            with self.store.try_lock(task.job.spec) as mine:
                if mine:
                    for name, data in reply.files.items():
                        replace_file(self.store.folder(task.job.spec) / name, functools.partial(_write, data))
                    self.store.save(record)
                    return record
            time.sleep(0.2)

    def lost(self, task: Task, error: BaseException) -> None:
        """What a dead worker or node left: again, or recorded as failed."""
        task.lost += 1
        memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
        what = "its worker was ended for want of memory" if memory else str(error).strip().splitlines()[0]
        where = f" on {task.node}" if task.node else ""
        if task.lost <= RETRIES:
            self.progress.note(f"{task.job.variant}: lost{where}, tried again ({task.lost} of {RETRIES}): {what}")
            self.submit(task)
            return
        message = f"lost {'twice' if task.lost == 2 else f'{task.lost} times'}, the last{where}: {what}"
        failure = MemoryError(message) if memory else WorkerDied(message)
        setup = Setup(task.bench, self.store, self.options, self.progress, self.store.root)
        self.end(task, runner.give_up(task.job, setup, failure))

    def end(self, task: Task, record: Record) -> None:
        """A run has its record."""
        self.done[task.node or "?"] += 1
        self.records[record.run_id] = record
        self.progress.begin(task.job.variant, task.job.spec.seed)
        self.progress.end(record)

    def tell(self) -> None:
        """Runs done, running and waiting, and where."""
        running = Counter(task.node for task in self.flying.values() if task.node)
        each = [f"{name}: {self.done[name]} done, {running[name]} running" for name in sorted({*running, *self.done})]
        waits = len(self.flying) - running.total()
        self.progress.begin(f"{running.total()} running, {waits} waiting", None)
        self.progress.stage("; ".join(each))

    def cancel(self) -> None:
        """End what is flying; runs that began may write down how far they are, which they do before their lock goes."""
        with contextlib.suppress(Exception):
            for words in self.flying:
                self.ray.cancel(words)
            began = [task.job.spec for task in self.flying.values() if task.node]
            deadline = time.monotonic() + GRACE
            while began and time.monotonic() < deadline:
                with self.store.try_lock(began[-1]) as ended:
                    if ended:
                        began.pop()
                        continue
                time.sleep(0.1)


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _plain(error: Any) -> BaseException:
    """What a worker raised outside its run, as it would have been raised here."""
    cause = error.cause
    if isinstance(cause, UserError):
        return UserError(f"a worker says: {cause.message}", cause.hint)
    if isinstance(cause, ImportError):
        return UserError(
            f"a worker lacks a package: {cause}",
            "Make the same environment on every node (docs/cluster.md); a node that joined late wants a new start.",
        )
    return RuntimeError(f"a worker failed outside its run: {error}")
