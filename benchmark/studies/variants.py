"""Benches made from others: fewer tasks, other images to adapt on, other images to test on.

Each has a suite name of its own, ``<suite>+<what>``, which is part of a run's identity, so records of different
variants never meet in a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from benchmark.suites.bench import Bench, Meter
from methods.api import Experts, Source


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

    def experts(self) -> Experts:
        return self.inner.experts()

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
        return only(self.inner.experts(), list(self.tasks))


def only(experts: Experts, tasks: Sequence[str]) -> Experts:
    """The experts of these tasks, in this order."""
    return Experts.from_state_dicts(
        experts.base,
        {task: experts.expert(task) for task in tasks},
        heads={task: experts.heads[task] for task in tasks if task in experts.heads},
        encoder=experts.encoder,
        kinds={task: experts.kind(task) for task in tasks},
        device=experts.device,
    )
