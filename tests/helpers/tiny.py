"""A tiny bench: random experts, random images, the real runner, evaluator and store."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.domains.vision.bench import Accuracy
from benchmark.harness.job import Job, Options
from benchmark.harness.runner import execute, plan
from benchmark.records.store import Store
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, Task
from helpers.support import random_experts
from methods.api import Experts

TASKS, CLASSES = 3, 5


class TinySource:
    """Random images with labels, from a seed."""

    def __init__(self, seed: int, size: int = 24) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(size, 3, 16, 16, generator=generator)
        self.labels = torch.randint(CLASSES, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


class TinyBench(Bench):
    """Three tasks of 24 random images on a random tower; ``overrides`` as a suite's YAML has them."""

    def __init__(self, tasks: int = TASKS, **overrides: dict[str, Any]) -> None:
        names = [f"t{k}" for k in range(tasks)]
        steps = {m: {"steps": 2} for m in ("symerge", "adamerging", "model_tinting", "model_tinting_pp")}
        self.suite = Suite(
            name="tiny",
            version=1,
            title="tiny",
            domain="vision",
            scale="mini",
            tasks=names,
            backbones=["tower"],
            families=["random"],
            batch_size=10,
            methods=["ties"],
            overrides={**steps, **overrides},
        )
        self.backbone, self.family = "tower", "random"
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.checkpoints, self.data = {"base": "0" * 64}, {n: "1" * 64 for n in names}
        self.tasks = {n: Task(n, "classification", "accuracy") for n in names}
        self.opened = 0

    def experts(self) -> Experts:
        self.opened += 1
        return random_experts(len(self.tasks), classes=CLASSES)

    def fingerprint(self, content: str, split: str) -> str:
        return self.data[content]

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> TinySource:
        return TinySource(hash((int(task[1:]), ["train", "val", "test"].index(split))) % 1000)

    def meter(self, task: str) -> Accuracy:
        return Accuracy(task, CLASSES)


def run(bench: Bench, store: Store, *texts: str, seeds: tuple[int, ...] = (0,), **options: Any) -> list[Any]:
    """Plan and carry out."""
    return execute(plan(bench, list(texts), seeds=seeds), bench, store, Options(**options))


def only(bench: Bench, text: str) -> Job:
    """The one job of a method."""
    return next(r for r in plan(bench, [text], seeds=[0]) if r.variant not in ("pretrained", "individual"))
