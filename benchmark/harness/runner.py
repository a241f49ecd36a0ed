"""From a list of methods to records: plan, skip what is done, merge, evaluate, record. It names no method."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import methods
from benchmark.common.errors import UserError, line_in
from benchmark.common.files import cannot_write, file_sha256, replace_file
from benchmark.harness import adapted, provenance, tuning
from benchmark.harness.evaluate import autocast, evaluate
from benchmark.harness.guard import RunTimeout, apart, time_limit
from benchmark.harness.measure import Measure
from benchmark.harness.progress import Progress
from benchmark.records import access as accesses
from benchmark.records.record import Cost, Error, MethodInfo, Record
from benchmark.records.spec import (
    REFERENCE_ROWS,
    RunSpec,
    changed_parameters,
    checked_parameters,
    derive_seed,
    other_data,
    parse_method,
    present_version,
    variant_label,
)
from benchmark.records.store import Store
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, resolve_dtype
from methods.api import Experts, Merged, MergingError, Stream, TimeLimit
from methods.tools.coefficients import vectors_in

MERGED = "merged.safetensors"


@dataclass(frozen=True)
class Run:
    """One entry of a plan: independent of all others."""

    spec: RunSpec
    variant: str
    changed: dict[str, Any]

    @property
    def method(self) -> methods.Method:
        """What the registry says of the run's method."""
        return methods.describe(self.spec.method)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords the method is called with."""
        seed = {} if self.spec.seed is None else {"seed": self.spec.seed}
        return {**self.spec.parameters, **seed}

    def load(self) -> methods.Method:
        """The method itself, ready to call."""
        return methods.get(self.spec.method)


@dataclass
class Options:
    """How a plan is carried out; nothing here changes a number beyond rounding (``compile``)."""

    force: bool = False
    time_limit: float | None = None
    keep_merged: bool = True
    need_merged: bool = False
    """Make a discarded merge again, where the run is done already; its record stays as it is."""
    argv: Sequence[str] = ()
    batch_size: int | None = None
    compile: bool = False
    before: Mapping[str, str | None] | None = None
    """When the record of a run began that was there before this command, see :func:`before`; None: as it is now."""


def plan(
    bench: Bench,
    texts: Sequence[str],
    *,
    seeds: Sequence[int],
    sets: Mapping[str, Mapping[str, Any]] | None = None,
    dtype: str = "float32",
    autocast_dtype: str | None = None,
    vectors: str = "float32",
    without_data: bool = False,
) -> list[Run]:
    """The runs of the methods named in ``texts`` (``NAME[:key=value,...]``) and of the two reference rows.

    Args:
        seeds: every stochastic method runs once for each; a deterministic one runs once.
        sets: ``{method: {key: value}}`` from ``--set``, for all variants of that method.
        vectors: the dtype in which methods that hold all task vectors hold them; the others' runs are what they were.
        without_data: runs that read data which are not there are planned all the same, to be shown; they have no
            ``spec.data``, and so no id yet.

    Raises:
        UserError, MergingError: an unknown method, keyword or value; data that are not there.
    """
    suite, runs, seen = bench.suite, [], set()
    lacking: dict[str, UserError] = {}
    named = [parse_method(text) for text in texts]
    for name in sets or {}:
        methods.describe(name)
        if name not in {n for n, _ in named}:
            raise UserError(
                f"--set names {name}, which is not among the methods of this run", f"Add it: --methods {name}"
            )
    for name, given in [(name, {}) for name in REFERENCE_ROWS] + named:
        about = methods.describe(name)
        defaults = suite.defaults(name, about.parameters)
        parameters = checked_parameters(name, {**dict((sets or {}).get(name, {})), **given}, defaults)
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
                dtype=dtype,
                autocast=autocast_dtype,  # type: ignore[arg-type]
                vectors=vectors if about.holds_vectors(parameters) else "float32",  # type: ignore[arg-type]
            )
            if spec.run_id not in seen:
                seen.add(spec.run_id)
                runs.append(Run(spec, variant_label(name, changed), changed))
    if lacking and not without_data:
        first = next(iter(lacking.values()))
        raise UserError(
            f"{', '.join(lacking)}: no run without the data it reads: {first.message}",
            f"{first.hint}\n  Or leave out of --methods: {' '.join(lacking)}",
        ) from first
    return runs


def check_same(run: Run, bench: Bench) -> None:
    """Raise UserError where the bench's checkpoints or data are not those that the run was planned with.

    A plan may be made on one machine and carried out on another, which reads its own files.
    """
    where = "Make --data-root and --checkpoints the same files on every machine (docs/cluster.md)."
    said = other_data(run.spec.data, bench.data_of(run.method.access_for(run.spec.parameters)))
    if said is not None:
        raise UserError(f"{run.variant} was planned on other data: {said}", where)
    for name, sha256 in run.spec.checkpoints.items():
        if (now := bench.checkpoints.get(name, "")) != sha256:
            raise UserError(
                f"{run.variant} was planned with other checkpoints: {name} had sha256 {sha256[:12]}, now {now[:12]}",
                where,
            )


def execute(runs: Sequence[Run], bench: Bench, store: Store, options: Options) -> list[Record]:
    """Carry out the plan in this process, run after run, and return all records in the plan's order.

    A run that fails is recorded and the others go on. ``KeyboardInterrupt`` is recorded and raised again. A run that
    another process is doing is left for last, so that several processes on one results folder share a plan.
    """
    records: dict[str, Record] = {}
    if options.before is None:
        options = dataclasses.replace(options, before=before(runs, store))
    if bench.device.type == "cuda":
        # What asks for "the" device, such as pinned memory, then means this one and takes nothing on another.
        torch.cuda.set_device(bench.device)
    with Progress(len(runs)) as progress:
        waiting = list(runs)
        while waiting:
            held = []
            for run in waiting:
                progress.begin(run.variant, run.spec.seed)
                record = _one(run, bench, store, options, progress)
                if record is None:
                    held.append(run)
                    continue
                records[run.spec.run_id] = record
                progress.end(record)
            if len(held) == len(waiting):
                progress.stage("done by another process; waiting for it")
                time.sleep(0.2)
            waiting = held
    return [records[run.spec.run_id] for run in runs]


def before(runs: Iterable[Run], store: Store) -> dict[str, str | None]:
    """When the record of each run that has one began: by this, not by the clock, a command knows what it did itself."""
    found = {run.spec.run_id: store.load(run.spec) for run in runs}
    return {run_id: record.started for run_id, record in found.items() if record is not None}


def _one(run: Run, bench: Bench, store: Store, options: Options, progress: Progress) -> Record | None:
    """The record of one run, or None while another process is doing it."""
    with store.try_lock(run.spec) as mine:
        if not mine:
            return None
        record = store.load(run.spec)
        merged_file = store.folder(run.spec) / MERGED
        if record is not None and settled(record, options):
            if options.need_merged and record.status == "done" and not _usable(merged_file, record, progress):
                again = record.model_copy(deep=True)
                _merge(run, again, merged_file, bench, bench.experts(), options, progress)
                if MERGED in record.artifacts:
                    record.artifacts = again.artifacts
                    store.save(record)
            return record
        if options.force:
            record = None
        if (
            record is None
            or record.status == "failed"
            or record.cost.merge_seconds is None
            or not _usable(merged_file, record, progress)
        ):
            record = _fresh(run, bench, options)
            merged_file.unlink(missing_ok=True)
        now_made = provenance.describe(bench, options.argv, options.batch_size)
        said = ("commit", "dirty", "batch_size")
        if any(getattr(record.provenance, each) != getattr(now_made, each) for each in said):
            # The merge is of the same code, by its version; what was evaluated otherwise is evaluated again.
            record.tasks, record.provenance, record.cost.evaluate_seconds = {}, now_made, None
        return _carry_out(run, record, merged_file, bench, store, options, progress)


def _usable(merged_file: Path, record: Record, progress: Progress) -> bool:
    """Whether the merge is there, and the one that the record speaks of."""
    noted = record.artifacts.get(MERGED)
    if not merged_file.is_file() or noted is None:
        return merged_file.is_file()
    whole = file_sha256(merged_file) == noted
    if not whole:
        progress.note(f"{record.variant}: {MERGED} is damaged; the merge is made again")
    return whole


def settled(record: Record, options: Options) -> bool:
    """Done, and not to be done again: ``--force`` and failures concern what was there before this command."""
    known = options.before or {}
    made_now = record.run_id not in known or known[record.run_id] != record.started
    return record.status in ("done", "failed") and (made_now or (record.status == "done" and not options.force))


def _fresh(run: Run, bench: Bench, options: Options) -> Record:
    about = run.method
    return Record(
        run_id=run.spec.run_id,
        spec=run.spec,
        variant=run.variant,
        changed=run.changed,
        status="running",
        started=now(),
        method=MethodInfo(title=about.title, paper=about.paper),
        access=accesses.parts(about.access_for(run.spec.parameters), bench.reads, bench.access),
        provenance=provenance.describe(bench, options.argv, options.batch_size),
        suite_tasks=list(bench.tasks),
    )


def _carry_out(
    run: Run, record: Record, merged_file: Path, bench: Bench, store: Store, options: Options, progress: Progress
) -> Record:
    try:
        with time_limit(options.time_limit):
            store.save(record)
            experts = bench.experts()
            if not merged_file.is_file():
                _merge(run, record, merged_file, bench, experts, options, progress)
                store.save(record)
            merged = Merged.load(merged_file, experts)
            began = time.perf_counter() - (record.cost.evaluate_seconds or 0.0)
            for task in record.missing:
                progress.stage(f"evaluating {task}", None)
                record.tasks[task] = evaluate(
                    merged.model(task),
                    bench.source(task, "test", bench.dtype),
                    bench.meter(task),
                    device=bench.device,
                    dtype=bench.dtype,
                    batch_size=options.batch_size or bench.suite.batch_size,
                    autocast_dtype=run.spec.autocast,
                    compiled=options.compile,
                )
                record.cost.evaluate_seconds = time.perf_counter() - began
                store.save(record)
        record.status, record.finished, record.error = "done", now(), None
        if not options.keep_merged:
            record.artifacts.pop(MERGED, None)
        store.save(record)
        if not options.keep_merged:
            merged_file.unlink(missing_ok=True)
    except KeyboardInterrupt:
        record.status, record.finished = "incomplete", now()
        stopped = "stopped by Ctrl-C or SIGTERM; the same command goes on from here"
        record.error = Error(type="interrupted", message=stopped)
        with contextlib.suppress(UserError):
            store.save(record)
        raise
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        _failed(record, store, error, progress)
    except OSError as error:
        if error.filename is None or Path(error.filename).parent != merged_file.parent:
            _failed(record, store, error, progress)
        else:
            raise cannot_write(merged_file, error) from error
    except (Exception, SystemExit) as error:
        _failed(record, store, error, progress)
    finally:
        gc.collect()
    return record


def _merge(
    run: Run, record: Record, merged_file: Path, bench: Bench, experts: Experts, options: Options, progress: Progress
) -> None:
    """Call the method, and save what it returns before anything is evaluated."""
    about, keywords = run.load(), run.keywords
    _seed_everything(run)
    progress.stage("merging", None)
    searched = [key for key in about.grids if keywords.get(key) == "val"]
    with apart(experts), Measure(bench.device) as used:
        if searched:
            chosen = tuning.choose(
                about,
                keywords,
                searched[0],
                bench,
                experts,
                lambda values: _call(about, values, run, bench, experts, options, progress)[0],
                advance=progress.stage,
            )
            keywords = {**keywords, searched[0]: chosen.value}
            record.trace_summary["chosen"] = chosen.summary()
        merged, stream = _call(about, keywords, run, bench, experts, options, progress)
    if not isinstance(merged, Merged):
        raise MergingError(f"{about.name} returned {type(merged).__name__}; expected Merged(experts, ...)")
    record.artifacts = {MERGED: replace_file(merged_file, merged.save)}
    layers = adapted.save(merged, merged_file.with_name(adapted.ADAPTED))
    if layers:
        record.artifacts[adapted.ADAPTED] = layers
    adapt_seconds = float(merged.trace.get("adapt_seconds", 0.0))
    record.needs_task_id = merged.needs_task
    record.trace_summary.update(_summary(merged.trace))
    record.cost = Cost(
        merge_seconds=max(0.0, used.seconds - adapt_seconds),
        adapt_seconds=adapt_seconds,
        peak_anonymous_mb=used.peak_anonymous_mb,
        peak_cuda_mb=used.peak_cuda_mb,
        trainable_parameters=int(merged.trace.get("trainable", 0)),
        model_bytes=experts.nbytes(),
        storage_bytes=merged.storage,
        images_drawn=stream.drawn if stream is not None else 0,
    )


def _call(
    about: methods.Method,
    keywords: Mapping[str, Any],
    run: Run,
    bench: Bench,
    experts: Experts,
    options: Options,
    progress: Progress,
) -> tuple[Any, Stream | None]:
    """The method on a stream of exactly the access its keywords ask for; no access, no stream."""
    access = about.access_for(keywords)
    if not access:
        return _finished(about(experts, **keywords), bench), None
    sources = {split: {task: bench.stream_source(task, split) for task in bench.tasks} for split, _ in access.items()}
    deadline = time.monotonic() + options.time_limit if options.time_limit else None
    stream = Stream(
        sources,
        access,
        seed=derive_seed(bench.suite.name, run.spec.seed or 0),
        device=bench.device,
        deadline=deadline,
        progress=progress.rounds,
    )
    with autocast(bench.device, run.spec.autocast), vectors_in(resolve_dtype(run.spec.vectors)):
        merged = about(experts, stream, **keywords)
    return _finished(merged, bench), stream


def _finished(merged: Any, bench: Bench) -> Any:
    """What a method returned, after the suite's protocol; no merge is left for the caller to refuse."""
    return bench.finish(merged) if isinstance(merged, Merged) else merged


def _seed_everything(run: Run) -> None:
    """Torch's global generators, for layers that initialise themselves; data order has its own seeds."""
    torch.manual_seed(derive_seed(run.spec.suite, run.spec.method, run.spec.seed or 0) % 2**63)


def _summary(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The trace as a record keeps it: coefficients rounded, loss curves in at most 100 points."""
    found: dict[str, Any] = {}
    for key, value in trace.items():
        if isinstance(value, torch.Tensor):
            if key == "losses":
                stride = max(1, len(value) // 100)
                found[key] = (
                    [round(float(v), 5) for v in value[: len(value) // stride * stride].reshape(-1, stride).mean(1)]
                    if len(value)
                    else []
                )
            elif value.numel() <= 20000 and value.is_floating_point() and not key.startswith("raw_"):
                found[key] = [
                    [round(float(v), 5) for v in row] for row in value.reshape(-1, value.shape[-1] if value.ndim else 1)
                ]
        elif isinstance(value, (str, int, float, bool, list, dict)) and key != "adapt_seconds":
            found[key] = value
    return found


def _failed(record: Record, store: Store, error: BaseException, progress: Progress) -> None:
    """Record why a run has no scores; what is already evaluated stays."""
    kind, message = type(error).__name__, str(error)
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "DefaultCPUAllocator" in message:
        kind = "out of memory"
        message = f"{message or 'no memory left'}; try a smaller batch_size, --dtype bfloat16, or a machine with more"
    elif isinstance(error, (RunTimeout, TimeLimit)):
        kind = "timeout"
    where, name = "", record.spec.method
    # That a method does not fit is no fault of a line of it; what a study derives from runs has no file of its own.
    if not isinstance(error, methods.NotApplicable) and name in methods.names():
        where = line_in(methods.describe(name).path, error)
    trail = "".join(traceback.format_exception(error))
    record.status, record.finished = "failed", now()
    record.error = Error(type=kind, message=message, where=where, traceback=provenance.relative(trail)[-2000:])
    word = "is left out" if isinstance(error, methods.NotApplicable) else f"failed: {kind}"
    progress.note(f"{record.variant} {word}: {message}{f' ({where})' if where else ''}")
    store.save(record)


def give_up(run: Run, bench: Bench, store: Store, options: Options, error: BaseException, progress: Progress) -> Record:
    """The failed record of a run whose process ended; ``error`` says how. What it had evaluated stays."""
    record = store.load(run.spec)
    if record is None or record.status == "done":
        record = _fresh(run, bench, options)
    _failed(record, store, error, progress)
    return record


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def suite_methods(suite: Suite, asked: Sequence[str] | None) -> list[str]:
    """What to run: the methods asked for, ``all`` of the registry, or the suite's own list without broken files'."""
    if not asked:
        broken = {name for fault in methods.broken() for name in fault.names} - set(methods.names())
        return [text for text in suite.methods if parse_method(text)[0] not in broken]
    if "all" in asked:
        every = [name for name in methods.names() if name not in REFERENCE_ROWS]
        return [*every, *(text for text in asked if text != "all" and text not in every)]
    return list(asked)
