"""Benches made from others: fewer tasks, other images to adapt on or to test on, other experts.

Each has a suite name of its own, ``<suite>+<what>``, which is part of a run's identity, so records of different
variants never meet in a table. Variants may stand on variants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.common.errors import UserError, unknown
from benchmark.common.seeds import derive_seed
from benchmark.studies.settings import Setting, subset_label
from benchmark.suites.bench import Bench, Meter
from methods.api import Experts, Merged, Source
from methods.core.blocks import block_of


class Variant(Bench):
    """A bench that passes everything on; subclasses change what they are for."""

    def __init__(self, bench: Bench, label: str, tasks: Sequence[str] | None = None) -> None:
        self.inner = bench
        chosen = list(tasks or bench.tasks)
        self.suite = bench.suite.model_copy(update={"name": f"{bench.suite.name}+{label}", "tasks": chosen})
        self.backbone, self.family = bench.backbone, bench.family
        self.device, self.dtype = bench.device, bench.dtype
        self.checkpoints = bench.checkpoints
        self.tasks = {task: bench.tasks[task] for task in chosen}
        self.access, self.protocol, self.reads, self.notes = bench.access, bench.protocol, bench.reads, bench.notes

    def experts(self) -> Experts:
        return self.inner.experts()

    def finishing(self) -> tuple[Callable[[Merged, Source], Merged], Source] | None:
        return self.inner.finishing()

    def data_folders(self) -> list[Path]:
        return self.inner.data_folders()

    @property
    def contents(self) -> tuple[str, ...]:
        """The chosen tasks' data, and what tasks share."""
        return tuple(name for name in self.inner.contents if name in self.tasks or name not in self.inner.tasks)

    def fingerprint(self, content: str, split: str) -> str:
        return self.inner.fingerprint(content, split)

    def origin(self, split: str) -> str:
        return self.inner.origin(split)

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        return self.inner.source(task, split, dtype)

    def stream_source(self, task: str, split: str) -> Source:
        return self.inner.stream_source(task, split)

    def meter(self, task: str) -> Meter:
        return self.inner.meter(task)


class Subset(Variant):
    """Only some of the tasks are merged and tested."""

    def __init__(self, bench: Bench, tasks: Sequence[str]) -> None:
        super().__init__(bench, subset_label(tasks), tasks)

    def experts(self) -> Experts:
        return self.inner.experts().subset(list(self.tasks))


class AdaptOn(Variant):
    """Methods that are given test images draw from another split instead, or from a share of the images."""

    def __init__(self, bench: Bench, label: str, split: str, fraction: float | None) -> None:
        super().__init__(bench, label)
        self.split, self.fraction = split, fraction
        self.reads = {**bench.reads, "test": split if fraction is None else f"{100 * fraction:g} % of {split}"}

    def origin(self, split: str) -> str:
        return self.split if split == "test" else self.inner.origin(split)

    def stream_source(self, task: str, split: str) -> Source:
        if split != "test":
            return self.inner.stream_source(task, split)
        source = self.inner.source(task, self.split)
        if self.fraction is None:
            return source
        generator = torch.Generator().manual_seed(derive_seed("fraction", task))
        count = max(1, round(self.fraction * len(source)))
        return Part(source, torch.randperm(len(source), generator=generator)[:count].sort().values)


class Part:
    """Some samples of a source, given by their places."""

    def __init__(self, source: Source, index: Tensor) -> None:
        self.source, self.index = source, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> tuple[Any, Tensor | None]:
        return self.source[self.index[index]]


class Corrupted(Variant):
    """Test images are corrupted, for adaptation and evaluation alike."""

    def __init__(self, bench: Bench, label: str, name: str, severity: int) -> None:
        from benchmark.studies.corruptions import CORRUPTIONS

        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
        super().__init__(bench, label)
        self.name, self.severity = name, severity
        self._made: dict[str, Any] = {}

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        source: Any = self.inner.source(task, split, dtype)
        if split != "test":
            return source
        images = getattr(getattr(source, "split", None), "images", None)
        if images is None:
            raise UserError(f"{task} of {self.inner.suite.name} has no images to corrupt", "Name a vision suite.")
        if task not in self._made:
            from benchmark.studies.corruptions import corrupt

            self._made[task] = corrupt(images, self.name, self.severity, derive_seed(task, self.name) % 2**32)
        changed = copy.copy(source)
        changed.split = type(source.split)(self._made[task], source.split.labels, source.split.classes)
        return changed

    def origin(self, split: str) -> str:
        return split

    def stream_source(self, task: str, split: str) -> Source:
        return self.source(task, split)


class Block(Variant):
    """``adapt=last_block`` adapts the block of another number."""

    def __init__(self, bench: Bench, label: str, number: int) -> None:
        super().__init__(bench, label)
        places = {n: at for n in bench.experts().names if (at := block_of(n)) is not None}
        every = sorted({(at.tower, at.number) for at in places.values()})
        if number >= len(every):
            raise unknown(f"block of {bench.backbone}", str(number), map(str, range(len(every))))
        self.names = tuple(n for n, at in places.items() if (at.tower, at.number) == every[number])

    def experts(self) -> Experts:
        return self.inner.experts().with_adaptable({"last_block": self.names})


class OtherExperts(Variant):
    """Some experts are other checkpoints, ``{task: safetensors file}``."""

    def __init__(self, bench: Bench, label: str, files: Mapping[str, Path], hashes: Mapping[str, str]) -> None:
        super().__init__(bench, label)
        self.files = dict(files)
        self.checkpoints = {**bench.checkpoints, **{f"{task}.safetensors": hashes[task] for task in files}}

    def experts(self) -> Experts:
        return self.inner.experts().with_experts(self.files)


def vary(bench: Bench, setting: Setting) -> Bench:
    """The bench that a setting describes; what is unseen stays in, see ``ablate``."""
    tasks = setting.chosen(list(bench.tasks))
    if len(tasks) < len(bench.tasks):
        bench = Subset(bench, tasks)

    def label(**only: Any) -> str:
        return Setting(**only).label(tasks)

    if setting.adapt_on or setting.fraction:
        name = label(adapt_on=setting.adapt_on, fraction=setting.fraction)
        bench = AdaptOn(bench, name, setting.adapt_on or "test", setting.fraction)
    if setting.corruption:
        name = label(corruption=setting.corruption, severity=setting.severity)
        bench = Corrupted(bench, name, setting.corruption, setting.severity)
    if setting.block is not None:
        bench = Block(bench, label(block=setting.block), setting.block)
    if setting.expert_steps or setting.label_noise:
        from benchmark.studies.weak_experts import weak_experts

        only = {key: getattr(setting, key) for key in ("expert_steps", "label_noise", "weak")}
        files, hashes = weak_experts(bench, **only)
        bench = OtherExperts(bench, label(**only), files, hashes)
    return bench
