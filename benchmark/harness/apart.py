"""Where and with what the processes of methods start: a folder for what they write, the experts, and their bounds."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmark.common.cache import cache_dir
from benchmark.common.escapes import printable
from benchmark.common.files import cannot_write
from benchmark.common.project import DATA, RESULTS
from benchmark.common.seeds import derive_seed
from benchmark.harness.child import process
from benchmark.harness.child.inside import ADAPTED, Assignment, Ready, View
from benchmark.harness.child.process import Child, Served
from benchmark.harness.job import Job
from benchmark.harness.setup import Setup
from benchmark.records.precision import Precision
from methods.api import Access, Source

#: Of the memory that is free, what a method's process may take.
SHARE = 0.9


@dataclass(frozen=True)
class Made:
    """What a method returned, on the disk, and what it took."""

    path: Path
    adapted: Path | None
    seconds: float
    """From the call to the return; what is written takes no part in it."""
    on_data: float
    """From the first sample that it was handed to the return; 0 without any."""
    peak_cuda_mb: float | None
    drawn: int
    storage: int
    unsteady: tuple[str, ...]
    """Operations on a GPU that torch has no deterministic algorithm of."""


@contextlib.contextmanager
def scratch(job: Job, setup: Setup, name: str) -> Iterator[Path]:
    """A folder in the run's own for what its process writes: new here, and gone afterwards."""
    folder = setup.store.folder(job.spec) / name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def child_of(
    job: Job,
    setup: Setup,
    folder: Path,
    ready: Mapping[str, Mapping[str, Ready | None]],
    *,
    precision: Precision | None = None,
    readable: tuple[Path, ...] = (),
    function: Any = None,
    finish: Any = None,
    views: Mapping[str, View] | None = None,
) -> Child:
    """A process for the code of the job's method."""
    bench, options = setup.bench, setup.options
    if bench.device.type == "cuda":
        # What torch keeps for later here would be missing there.
        torch.cuda.empty_cache()
    assignment = Assignment(
        method=job.spec.method,
        experts=setup.packed,
        scratch=folder,
        hidden=(DATA, RESULTS, setup.store.root.resolve(), cache_dir(), *bench.data_folders()),
        device=str(bench.device),
        threads=torch.get_num_threads(),
        precision=precision or job.precision,
        seed=derive_seed(job.spec.suite, job.spec.method, job.spec.seed or 0) % 2**63,
        time_limit=options.time_limit,
        ready=ready,
        readable=readable,
        function=function,
        finish=finish,
        views=views or {},
        stand_ins=process.STAND_INS,
        before=tuple(process.BEFORE),
    )
    memory = options.memory_limit or SHARE * psutil.virtual_memory().available
    return Child(assignment, memory=memory, rounds=setup.progress.rounds, tell=setup.progress.note)


def method_process(job: Job, setup: Setup, folder: Path) -> Child:
    """The process that calls the job's method: experts, the way from stored samples to inputs, and a channel."""
    bench = setup.bench
    ready: dict[str, dict[str, Ready | None]] = {
        split: {task: getattr(source, "ready", None) for task, source in tasks.items()}
        for split, tasks in _sources(job.keywords, job, setup).items()
    }
    finishing = bench.finishing()
    if finishing is not None:
        ready["protocol"] = {"all": getattr(finishing[1], "ready", None)}
    function = job.function()
    made_from = [value for value in getattr(function, "keywords", {}).values() if isinstance(value, Path)]
    return child_of(
        job,
        setup,
        folder,
        ready,
        readable=tuple(made_from),
        function=function,
        finish=finishing[0] if finishing else None,
    )


def call(job: Job, keywords: Mapping[str, Any], setup: Setup, child: Child) -> Made:
    """The method on samples of exactly the access that its keywords ask for; no access, no samples."""
    access, finishing = job.method.access_for(keywords), setup.bench.finishing()
    served = Served(_sources(keywords, job, setup), {split for split, _ in access.items() if access.labelled(split)})
    lengths = served.lengths
    began = returned = time.perf_counter()
    answers = child.ask(
        "merge",
        served=served,
        keywords=dict(keywords),
        lengths=lengths,
        access=dict(access.items()),
        seed=derive_seed(setup.bench.suite.name, job.spec.seed or 0),
        protocol=len(finishing[1]) if finishing else 0,
    )
    for answer in answers:
        if answer.kind == "returned":
            returned = time.perf_counter()
            if finishing is not None:
                # What the protocol reads is there once the method is done.
                served.sources = {**served.sources, "protocol": {"all": finishing[1]}}
    if answer.kind == "unwritten":
        error = OSError(int(answer["number"]), str(answer["reason"]))
        raise cannot_write(setup.merged(job), error) from error
    path = child.assignment.scratch / Path(str(answer["path"])).name
    return Made(
        path=path,
        adapted=path.with_suffix(ADAPTED) if answer["adapted"] is True else None,
        seconds=returned - began,
        on_data=max(0.0, returned - served.first) if served.first is not None else 0.0,
        peak_cuda_mb=answer["peak_cuda_mb"],
        drawn=max(int(answer["drawn"]), served.distinct),
        storage=max(0, int(answer["storage"])),
        unsteady=tuple(printable(name, 100) for name in list(answer["unsteady"])[:100]),
    )


def _sources(keywords: Mapping[str, Any], job: Job, setup: Setup) -> dict[str, dict[str, Source]]:
    """The sources of the access that these keywords ask for."""
    access: Access = job.method.access_for(keywords)
    bench = setup.bench
    return {split: {task: bench.stream_source(task, split) for task in bench.tasks} for split, _ in access.items()}
