"""Benches made from others: fewer tasks, other images to adapt on, other images to test on.

Each has a suite name of its own, ``<suite>+<what>``, which is part of a run's identity, so records of different
variants never meet in a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from benchmark.suites.bench import Bench, Meter
from methods.api import Experts, Merged, Source


class Variant(Bench):
    """A bench that passes everything on; subclasses change what they are for."""

    def __init__(self, bench: Bench, label: str, tasks: Sequence[str] | None = None) -> None:
        self.inner = bench
        chosen = list(tasks or bench.tasks)
        self.suite = bench.suite.model_copy(update={"name": f"{bench.suite.name}+{label}", "tasks": chosen})
        self.backbone, self.family = bench.backbone, bench.family
        self.device, self.dtype = bench.device, bench.dtype
        self.checkpoints, self.data = bench.checkpoints, {task: bench.data[task] for task in chosen}
        self.tasks = {task: bench.tasks[task] for task in chosen}
        self.access = bench.access

    def experts(self) -> Experts:
        return self.inner.experts()

    def finish(self, merged: Merged) -> Merged:
        return self.inner.finish(merged)

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        return self.inner.source(task, split, dtype)

    def meter(self, task: str) -> Meter:
        return self.inner.meter(task)


class Subset(Variant):
    """Only some of the tasks are merged and tested."""

    def __init__(self, bench: Bench, tasks: Sequence[str]) -> None:
        digest = hashlib.sha256("/".join(tasks).encode()).hexdigest()[:6]
        super().__init__(bench, f"{len(tasks)}-{digest}", tasks)

    def experts(self) -> Experts:
        return self.inner.experts().subset(list(self.tasks))
