"""One job's merge: its method called with the experts and a stream of the declared access, the result saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from benchmark.common.files import replace_file
from benchmark.common.seeds import derive_seed
from benchmark.harness import adapted, recording, tuning
from benchmark.harness.evaluate import autocast
from benchmark.harness.guard import apart
from benchmark.harness.job import Job
from benchmark.harness.measure import Measure
from benchmark.harness.setup import MERGED, Setup
from benchmark.records.record import Cost, Record
from benchmark.suites.bench import Bench, resolve_dtype
from methods.api import Experts, Merged, MergingError, Stream
from methods.tools.coefficients import vectors_in


def merge(job: Job, record: Record, setup: Setup, experts: Experts) -> None:
    """Call the method, save what it returns before anything is evaluated, and note in the record what it took."""
    about, keywords, bench = job.load(), job.keywords, setup.bench
    _seed_everything(job)
    setup.progress.stage("merging", None)
    searched = [key for key in about.grids if keywords.get(key) == "val"]
    with apart(experts), Measure(bench.device) as used:
        if searched:
            chosen = tuning.choose(
                job,
                searched[0],
                bench,
                experts,
                lambda values: _call(job, values, setup, experts)[0],
                advance=setup.progress.stage,
            )
            keywords = {**keywords, searched[0]: chosen.value}
            record.trace_summary["chosen"] = chosen.summary()
        merged, stream = _call(job, keywords, setup, experts)
    if not isinstance(merged, Merged):
        raise MergingError(f"{about.name} returned {type(merged).__name__}; expected Merged(experts, ...)")
    path = setup.merged(job)
    record.artifacts = {MERGED: replace_file(path, merged.save)}
    if layers := adapted.save(merged, path.with_name(adapted.ADAPTED)):
        record.artifacts[adapted.ADAPTED] = layers
    adapt_seconds = float(merged.trace.get("adapt_seconds", 0.0))
    record.needs_task_id = merged.needs_task
    record.trace_summary.update(recording.summary(merged.trace))
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


def _call(job: Job, keywords: Mapping[str, Any], setup: Setup, experts: Experts) -> tuple[Any, Stream | None]:
    """The method on a stream of exactly the access its keywords ask for; no access, no stream."""
    about, bench, limit = job.load(), setup.bench, setup.options.time_limit
    access = about.access_for(keywords)
    if not access:
        return _finished(about(experts, **keywords), bench), None
    sources = {split: {task: bench.stream_source(task, split) for task in bench.tasks} for split, _ in access.items()}
    stream = Stream(
        sources,
        access,
        seed=derive_seed(bench.suite.name, job.spec.seed or 0),
        device=bench.device,
        deadline=time.monotonic() + limit if limit else None,
        progress=setup.progress.rounds,
    )
    with autocast(bench.device, job.precision), vectors_in(resolve_dtype(job.precision.vectors)):
        merged = about(experts, stream, **keywords)
    return _finished(merged, bench), stream


def _finished(merged: Any, bench: Bench) -> Any:
    """What a method returned, after the suite's protocol; no merge is left for the caller to refuse."""
    return bench.finish(merged) if isinstance(merged, Merged) else merged


def _seed_everything(job: Job) -> None:
    """Torch's global generators, for layers that initialise themselves; data order has its own seeds."""
    torch.manual_seed(derive_seed(job.spec.suite, job.spec.method, job.spec.seed or 0) % 2**63)
