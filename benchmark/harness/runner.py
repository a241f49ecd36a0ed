"""From a list of methods to records: plan, skip what is done, merge, evaluate task by task, record. It names no method.

A job is passed whole, beside the setup that all jobs share; ``merging.py`` calls the method, ``recording.py`` fills the
record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import methods
from benchmark.common import stopping
from benchmark.common.determinism import steady
from benchmark.common.errors import UserError
from benchmark.common.files import cannot_write, file_sha256
from benchmark.harness import recording
from benchmark.harness.evaluate import PLAIN
from benchmark.harness.guard import time_limit
from benchmark.harness.job import Job, Options
from benchmark.harness.judging import judged
from benchmark.harness.merging import merge
from benchmark.harness.progress import Progress
from benchmark.harness.setup import MERGED, Setup
from benchmark.records.precision import Precision
from benchmark.records.record import Error, Record
from benchmark.records.spec import (
    REFERENCE_ROWS,
    RunSpec,
    changed_parameters,
    checked_parameters,
    other_data,
    parse_method,
    present_version,
    variant_label,
)
from benchmark.records.store import Store
from benchmark.suites import Suite
from benchmark.suites.bench import Bench


def plan(
    bench: Bench,
    texts: Sequence[str],
    *,
    seeds: Sequence[int],
    sets: Mapping[str, Mapping[str, Any]] | None = None,
    precision: Precision = PLAIN,
    without_data: bool = False,
) -> list[Job]:
    """The runs of the methods named in ``texts`` (``NAME[:key=value,...]``) and of the two reference rows.

    Args:
        seeds: every stochastic method runs once for each; a deterministic one runs once.
        sets: ``{method: {key: value}}`` from ``--set``, for all variants of that method.
        precision: of all runs, as far as it is theirs: see ``Precision.identity``.
        without_data: runs that read data which are not there are planned all the same, to be shown; they have no
            ``spec.data``, and so no id yet.

    Raises:
        UserError, MergingError: an unknown method, keyword or value; data that are not there.
    """
    suite, jobs, seen = bench.suite, [], set()
    lacking: dict[str, UserError] = {}
    named = [parse_method(text) for text in texts]
    for name in sets or {}:
        methods.describe(name)
        if name not in {n for n, _ in named}:
            raise UserError(
                f"--set names {name}, which is not among the methods of this run", f"Add it: --methods {name}"
            )
    for name, keywords in [(name, {}) for name in REFERENCE_ROWS] + named:
        about = methods.describe(name)
        defaults = suite.defaults(name, about.parameters)
        parameters = checked_parameters(name, {**dict((sets or {}).get(name, {})), **keywords}, defaults)
        access = about.access_for(parameters)
        changed = changed_parameters(parameters, {k: v for k, v in defaults.items() if k != "seed"})
        try:
            data = bench.data_of(access)
        except UserError as error:
            lacking[variant_label(name, changed)], data = error, {}
        for seed in seeds if about.stochastic else [None]:
            spec = RunSpec(
                suite=suite.name,
                suite_version=suite.identity,
                backbone=bench.backbone,
                family=bench.family,
                checkpoints=bench.checkpoints,
                data=data,
                method=name,
                method_version=present_version(name, parameters),
                parameters=parameters,
                seed=seed,
                limit=bench.limit,
                **precision.identity(holds_vectors=about.holds_vectors(parameters)),
            )
            if spec.run_id not in seen:
                seen.add(spec.run_id)
                jobs.append(Job(spec, variant_label(name, changed), changed, str(bench.device)))
    if lacking and not without_data:
        first = next(iter(lacking.values()))
        raise UserError(
            f"{', '.join(lacking)}: no run without the data it reads: {first.message}",
            f"{first.hint}\n  Or leave out of --methods: {' '.join(lacking)}",
        ) from first
    return jobs


def check_same(job: Job, bench: Bench) -> None:
    """Raise UserError where the bench's checkpoints, data or limit are not those that the job was planned with.

    A plan may be made on one machine and carried out on another, which reads its own files.
    """
    if job.spec.limit != bench.limit:
        raise UserError(
            f"{job.variant} was planned with --limit {job.spec.limit}, and is to be carried out with {bench.limit}",
            "Open the bench with the job's limit.",
        )
    where = "Make --data-root and --checkpoints the same files on every machine (docs/cluster.md)."
    said = other_data(job.spec.data, bench.data_of(job.access))
    if said is not None:
        raise UserError(f"{job.variant} was planned on other data: {said}", where)
    for name, sha256 in job.spec.checkpoints.items():
        if (now := bench.checkpoints.get(name, "")) != sha256:
            raise UserError(
                f"{job.variant} was planned with other checkpoints: {name} had sha256 {sha256[:12]}, now {now[:12]}",
                where,
            )


def execute(jobs: Sequence[Job], bench: Bench, store: Store, options: Options) -> list[Record]:
    """Carry out the plan in this process, job after job, and return all records in the plan's order.

    A job that fails is recorded and the others go on. ``KeyboardInterrupt`` is recorded and raised again. A job that
    another process is doing is left for last, so that several processes on one results folder share a plan.
    """
    records: dict[str, Record] = {}
    if odd := next((job for job in jobs if job.spec.limit != bench.limit), None):
        check_same(odd, bench)
    if options.before is None:
        options = dataclasses.replace(options, before=before(jobs, store))
    if bench.device.type == "cuda":
        # What asks for "the" device, such as pinned memory, then means this one and takes nothing on another.
        torch.cuda.set_device(bench.device)
    shared_folder = tempfile.TemporaryDirectory(prefix="symerge-")
    with (
        Progress(to_do(jobs, store, options), quiet=options.quiet) as progress,
        shared_folder as shared,
        _older_objects_apart(),
    ):
        setup = Setup(bench, store, options, progress, Path(shared))
        waiting = list(jobs)
        while waiting:
            held = []
            for job in waiting:
                progress.begin(job.variant, job.spec.seed, job.id)
                record = do(job, setup)
                if record is None:
                    held.append(job)
                    continue
                records[job.id] = record
                progress.end(record, kept=job.id not in progress.remaining.work)
                stopping.check()
            if len(held) == len(waiting):
                progress.stage("done by another process; waiting for it")
                time.sleep(0.2)
            waiting = held
    return [records[job.id] for job in jobs]


@contextlib.contextmanager
def _older_objects_apart() -> Iterator[None]:
    """The collection after a job walks what the jobs made, not all that was imported."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def before(jobs: Iterable[Job], store: Store) -> dict[str, str | None]:
    """When the record of each job that has one began: by this, not by the clock, a command knows what it did itself."""
    records = {job.id: store.load(job.spec) for job in jobs}
    return {run_id: record.started for run_id, record in records.items() if record is not None}


def to_do(jobs: Iterable[Job], store: Store, options: Options) -> dict[str, float]:
    """The ids of the jobs that are not settled yet, and the work of each, see :class:`Options`."""
    ids = [j.id for j in jobs if (record := store.load(j.spec)) is None or not settled(record, options)]
    known = [options.work[run_id] for run_id in ids if run_id in options.work]
    usual = sum(known) / len(known) if known else 1.0
    return {run_id: options.work.get(run_id, usual) for run_id in ids}


def settled(record: Record, options: Options) -> bool:
    """Done, and not to be done again: ``--force`` and failures concern what was there before this command."""
    began = options.before or {}
    own = record.run_id not in began or began[record.run_id] != record.started
    return record.status in ("done", "failed") and (own or (record.status == "done" and not options.force))


def do(job: Job, setup: Setup) -> Record | None:
    """The record of one job: as it is where that is settled, or carried out. None while another process is at it."""
    with setup.store.try_lock(job.spec) as mine:
        if not mine:
            return None
        record = setup.store.load(job.spec)
        if record is not None and settled(record, setup.options):
            if setup.options.need_merged and record.status == "done" and not _is_saved(job, record, setup):
                _merge_again(job, record, setup)
            return record
        return _carry_out(job, _begun(job, None if setup.options.force else record, setup), setup)


def _is_saved(job: Job, record: Record, setup: Setup) -> bool:
    """Whether the merge is there, and the one that the record speaks of."""
    path, noted = setup.merged(job), record.artifacts.get(MERGED)
    if not path.is_file() or noted is None:
        return path.is_file()
    whole = file_sha256(path) == noted
    if not whole:
        setup.progress.note(f"{record.variant}: {MERGED} is damaged; the merge is made again")
    return whole


def _merge_again(job: Job, record: Record, setup: Setup) -> None:
    """The merge of a run that is done, for those who need the file; nothing else of its record changes."""
    again = record.model_copy(deep=True)
    merge(job, again, setup)
    if MERGED in record.artifacts:
        record.artifacts = again.artifacts
        setup.store.save(record)


def _begun(job: Job, record: Record | None, setup: Setup) -> Record:
    """The record to go on with: that of an earlier command as far as it holds, or a new one."""
    unmerged = record is None or record.status == "failed" or record.cost.merge_seconds is None
    if record is None or unmerged or not _is_saved(job, record, setup):
        record = recording.started(job, setup)
        setup.merged(job).unlink(missing_ok=True)
    origin = setup.provenance()
    decisive = ("commit", "dirty", "batch_size", "gpu")
    if any(getattr(record.provenance, each) != getattr(origin, each) for each in decisive):
        # The merge is of the same code, by its version; what was evaluated otherwise is evaluated again.
        record.tasks, record.bystanders, record.provenance, record.cost.evaluate_seconds = {}, {}, origin, None
    return record


def _carry_out(job: Job, record: Record, setup: Setup) -> Record:
    """Merge, evaluate what is missing, and keep the record up to date; whatever goes wrong is in it."""
    path, store, limit = setup.merged(job), setup.store, setup.options.time_limit
    until = time.monotonic() + limit if limit else None
    try:
        with stopping.told_apart():
            store.save(record)
            if not path.is_file():
                merge(job, record, setup)
                store.save(record)
            with time_limit(until - time.monotonic() if until else None, limit):
                _evaluate(job, record, setup)
            _finish(record, setup, path)
    except KeyboardInterrupt:
        record.status, record.finished = "incomplete", recording.now()
        stopped = "stopped by Ctrl-C, SIGTERM or SIGHUP; the same command goes on from here"
        record.error = Error(type="interrupted", message=stopped)
        with contextlib.suppress(UserError):
            store.save(record)
        raise
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        recording.fail(record, setup, error)
    except OSError as error:
        if error.filename is None or Path(error.filename).parent != path.parent:
            recording.fail(record, setup, error)
        else:
            raise cannot_write(path, error) from error
    except (Exception, SystemExit) as error:
        recording.fail(record, setup, error)
    finally:
        gc.collect()
    return record


def _evaluate(job: Job, record: Record, setup: Setup) -> None:
    """The saved merge on every task that has no result yet; the record is written after each."""
    before, began = record.cost.evaluate_seconds or 0.0, time.perf_counter()
    with steady(setup.bench.device) as unsteady, judged(setup.merged(job), job, setup) as merged:
        record.needs_task_id = merged.needs_task
        record.cost.storage_bytes = max(merged.storage, record.cost.storage_bytes or 0)
        for task in record.missing:
            stopping.check()
            setup.progress.stage(f"evaluating {task}")
            record.tasks[task] = merged.score(task)
            recording.note_size(record, task, merged.sizes[task], setup.batch_size)
            recording.note_unsteady(record, unsteady)
            record.cost.evaluate_seconds = before + time.perf_counter() - began
            setup.store.save(record)
        for name in setup.bench.suite.bystanders:
            if name in record.bystanders:
                continue
            stopping.check()
            setup.progress.stage(f"measuring {name}")
            if (result := merged.bystander(name)) is not None:
                record.bystanders[name] = result
                recording.note_unsteady(record, unsteady)
                setup.store.save(record)


def _finish(record: Record, setup: Setup, path: Path) -> None:
    """Done; the merge goes where it is not to be kept, and the record says so first."""
    record.status, record.finished, record.error = "done", recording.now(), None
    if not setup.options.keep_merged:
        record.artifacts.pop(MERGED, None)
    setup.store.save(record)
    if not setup.options.keep_merged:
        path.unlink(missing_ok=True)


def give_up(job: Job, setup: Setup, error: BaseException) -> Record:
    """The failed record of a job whose process ended; ``error`` says how. What it had evaluated stays."""
    record = setup.store.load(job.spec)
    if record is None or record.status == "done":
        record = recording.started(job, setup)
    recording.fail(record, setup, error)
    return record


def suite_methods(suite: Suite, asked: Sequence[str] | None) -> list[str]:
    """What to run: the methods asked for, ``all`` of the registry, or the suite's own list without broken files'."""
    if not asked:
        broken = {name for fault in methods.broken() for name in fault.names} - set(methods.names())
        return [text for text in suite.methods if parse_method(text)[0] not in broken]
    if "all" in asked:
        every = [name for name in methods.names() if name not in REFERENCE_ROWS]
        return [*every, *(text for text in asked if text != "all" and text not in every)]
    return list(asked)
