"""A saved merge is judged: scored on a split, on experts no method came near, and asked what it needs.

No code of a method runs beside the labels: a merge with a rule of its own, or modules around the model, is run in
another process, which is handed inputs and answers predictions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark.common.errors import UserError
from benchmark.harness.apart import child_of, scratch
from benchmark.harness.child.process import AsStored, Child, Elsewhere
from benchmark.harness.child.serving import left_to_base, storage
from benchmark.harness.evaluate import Advance, evaluate
from benchmark.harness.job import Job
from benchmark.harness.room import fitting, placed
from benchmark.harness.setup import Setup
from benchmark.records.precision import Precision
from benchmark.records.record import BystanderResult, TaskResult
from benchmark.suites.bench import resolve_dtype
from methods.api import Merged, Source
from methods.core.states import StateFile

#: Samples of a task on which models put together for another task are compared.
PROBES = 8
#: In place of a split: the data of the suite's bystanders.
BYSTANDER = "bystander"


@dataclass(frozen=True)
class Judged:
    """What a saved merge needs, and the way to its scores.

    Attributes:
        storage: bytes beyond one float32 model and the heads.
        needs_task: whether more than the head hangs on the task id.
    """

    storage: int
    needs_task: bool
    setup: Setup
    precision: Precision
    split: str
    merged: Merged | None
    child: Child | None
    models: tuple[str, ...] = ()
    """Tasks whose models differ in more than the head: one of them where all share an encoder, none where a method
    puts modules of its own around the models, so that no model is there without a task."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Samples of a batch by task, as they were evaluated."""

    def score(self, task: str, advance: Advance | None = None) -> TaskResult:
        """The score on the whole split, in smaller batches than asked for where memory does not suffice.

        Raises :class:`NoRoom` where one sample does not fit.
        """
        setup, bench = self.setup, self.setup.bench
        source: Source = bench.source(task, self.split, bench.dtype)
        model: nn.Module
        if (merged := self.merged) is not None:
            dtype = resolve_dtype(self.precision.dtype)
            model = placed(lambda: merged.model(task).to(bench.device, dtype), bench.device)
        else:
            assert self.child is not None
            model, source = Elsewhere(self.child, task, self.split), AsStored(source)

        def attempt(size: int) -> TaskResult:
            return evaluate(
                model,
                source,
                bench.meter(task),
                device=bench.device,
                precision=self.precision,
                batch_size=size,
                compiled=setup.options.compile and self.merged is not None,
                advance=advance,
            )

        result, self.sizes[task] = fitting(attempt, self._size, bench.device, setup.progress.note)
        return result

    @property
    def _size(self) -> int:
        """What one task has no room for, the next one has not either."""
        return min(self.sizes.values(), default=self.setup.batch_size)

    def bystander(self, name: str) -> BystanderResult | None:
        """One of the suite's bystanders, over all models of the merge that differ; None where it has none by itself.

        Raises :class:`NoRoom` where one sample does not fit.
        """
        setup, bench = self.setup, self.setup.bench
        if not self.models:
            return None
        about = bench.bystander(name)

        def model(task: str) -> tuple[nn.Module, Source]:
            if (merged := self.merged) is None:
                assert self.child is not None
                return Elsewhere(self.child, task, BYSTANDER, name), AsStored(about.source)
            dtype = resolve_dtype(self.precision.dtype)
            return placed(lambda: about.view(merged.model(task)).to(bench.device, dtype), bench.device), about.source

        def attempt(size: int) -> TaskResult:
            meter = about.meter()
            for task in self.models:
                module, source = model(task)
                result = evaluate(module, source, meter, device=bench.device, precision=self.precision, batch_size=size)
            return result

        result, _ = fitting(attempt, self._size, bench.device, setup.progress.note)
        fields = result.model_dump(exclude={"kind"})
        return BystanderResult(**fields, data=about.sha256, models=len(self.models))


@contextlib.contextmanager
def judged(
    path: Path, job: Job, setup: Setup, split: str = "test", precision: Precision | None = None
) -> Iterator[Judged]:
    """The saved merge at ``path``; whatever is wrong with the file is raised as the method's fault."""
    bench, exact = setup.bench, precision or job.precision
    about = described(path)
    if not (about.get("state") or about.get("wrap")):
        merged = Merged.load(path, setup.experts)
        varies = merged.needs_task or any(owner != "all" for owner in merged.statistics)
        tasks = tuple(merged.experts.tasks)
        needed, several = storage(merged, left_to_base(merged), set()), len(tasks) > 1
        differing = tasks if merged.layers or any(owner != "all" for owner in merged.statistics) else tasks[:1]
        yield Judged(needed, several and varies, setup, exact, split, merged, None, differing)
        return
    sources: dict[str, Source] = {}
    for task in bench.tasks:
        # A task whose data are damaged says so once it is scored; the others are scored before.
        with contextlib.suppress(UserError):
            sources[task] = bench.source(task, split, bench.dtype)
    ready = {split: {task: getattr(source, "ready", None) for task, source in sources.items()}, BYSTANDER: {}}
    models = () if about.get("wrap") else tuple(bench.tasks)
    views = {}
    for name in bench.suite.bystanders if models else ():
        beside = bench.bystander(name)
        views[name] = beside.view
        ready[BYSTANDER][name] = getattr(beside.source, "ready", None)
    with (
        scratch(job, setup, ".serving") as folder,
        child_of(job, setup, folder, ready, precision=exact, readable=(path,), views=views) as child,
    ):
        probes = {task: AsStored(source)[torch.arange(min(PROBES, len(source)))][0] for task, source in sources.items()}
        answer = child.answer("open", probes, path=str(path), split=split)
        yield Judged(int(answer["storage"]), answer["needs_task"] is True, setup, exact, split, None, child, models)


def described(path: Path) -> dict[str, Any]:
    """What a saved merge says of itself, without loading it."""
    about: dict[str, Any] = json.loads(StateFile(path).metadata.get("merged", "{}"))
    return about


def trace_of(path: Path) -> dict[str, Any]:
    """The trace that a method saved with its merge."""
    stored, part = StateFile(path), "trace/"
    tensors = {name.removeprefix(part): stored[name] for name in stored if name.startswith(part)}
    return {**described(path).get("trace", {}), **tensors}
