"""One job's merge: its method called in a process of its own, what it returned saved, what it took noted."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from benchmark.common.files import replace_file
from benchmark.harness import adapted, recording, tuning
from benchmark.harness.apart import call, method_process, scratch
from benchmark.harness.child.process import Failure
from benchmark.harness.job import Job
from benchmark.harness.judging import trace_of
from benchmark.harness.setup import MERGED, Setup
from benchmark.records.record import Cost, Record


def merge(job: Job, record: Record, setup: Setup) -> None:
    """Call the method, save what it returns before anything is evaluated, and note in the record what it took."""
    keywords, path = job.keywords, setup.merged(job)
    searched = [key for key in job.method.grids if keywords.get(key) == "val"]
    began = time.perf_counter()
    with scratch(job, setup, ".merging") as folder:
        setup.progress.stage("merging")
        # Before any data: the server of processes starts meanwhile.
        _ = setup.packed
        with method_process(job, setup, folder) as child:
            if searched:
                chosen = tuning.choose(job, searched[0], setup, lambda values: call(job, values, setup, child).path)
                keywords = {**keywords, searched[0]: chosen.value}
                record.trace_summary["chosen"] = chosen.summary()
            spent = time.perf_counter() - began if searched else 0.0
            made = call(job, keywords, setup, child)
        record.artifacts = {MERGED: replace_file(path, lambda at: os.replace(made.path, at))}
        if (layers := made.adapted) is not None:
            record.artifacts[adapted.ADAPTED] = replace_file(
                path.with_name(adapted.ADAPTED), lambda at: os.replace(layers, at)
            )
    trace = trace_of(path)
    record.trace_summary.update(recording.summary(trace))
    recording.note_unsteady(record, made.unsteady)
    seconds = spent + made.seconds
    # A method that does not say how long it worked on data did so from its first sample on.
    adapting = _counted(trace, "adapt_seconds", most=seconds + 1.0) if "adapt_seconds" in trace else made.on_data
    record.cost = Cost(
        merge_seconds=max(0.0, seconds - adapting),
        adapt_seconds=adapting,
        peak_anonymous_mb=(child.peak - child.start) / 2**20 if child.peak else None,
        peak_cuda_mb=made.peak_cuda_mb,
        trainable_parameters=int(_counted(trace, "trainable")),
        model_bytes=setup.experts.nbytes(),
        storage_bytes=made.storage,
        images_drawn=made.drawn,
    )


def _counted(trace: Mapping[str, Any], key: str, most: float = float("inf")) -> float:
    """A number of the trace that is no less than 0. Raises :class:`Failure` for anything else."""
    value = trace.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise Failure("MergingError", f"the method's trace says {key}={value!r}; expected a number from 0 to {most:g}")
    return float(value)
