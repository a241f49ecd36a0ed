"""What the runner and the evaluator need of a suite, whatever its domain."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from benchmark.common import determinism
from benchmark.common.errors import UserError
from benchmark.records.record import TaskResult
from benchmark.suites import Suite
from benchmark.suites.trial import Few
from methods.api import Access, Experts, Merged, Source


@dataclass(frozen=True)
class Task:
    """One task of a suite: what is predicted, and how it is scored."""

    name: str
    kind: str
    metric: str
    higher_is_better: bool = True


class Meter(ABC):
    """Gathers a model's outputs over a split and gives the score with its sufficient statistics."""

    @abstractmethod
    def update(self, outputs: Any, labels: Any) -> None:
        """Add one batch. Raises :class:`UserError` for outputs of a wrong shape or with NaN."""

    @abstractmethod
    def result(self) -> TaskResult:
        """The score of everything added."""


@dataclass(frozen=True)
class Bystander:
    """What a suite measures of every merge beside its tasks: an ability that no expert was trained for.

    Attributes:
        source: what it is measured on.
        meter: makes a fresh meter of it.
        view: makes of a task's model (an encoder with a head) the module whose outputs the meter takes; a function
            that pickle knows by its name, as it may run in a method's process. It may use the encoder alone: a
            bystander has no task, so no head of one says anything of it.
        sha256: of its data.
    """

    source: Source
    meter: Callable[[], Meter]
    view: Callable[[nn.Module], nn.Module]
    sha256: str


class Bench(ABC):
    """Experts, data and metrics of one suite on one backbone and family."""

    suite: Suite
    backbone: str
    family: str
    device: torch.device
    dtype: torch.dtype
    checkpoints: dict[str, str]
    """sha256 of every checkpoint file, by name."""
    tasks: dict[str, Task]
    access: tuple[str, ...] = ()
    """Data that the suite's protocol uses for every method, e.g. to estimate statistics again."""
    notes: tuple[str, ...] = ()
    """What boards must say of these checkpoints, e.g. an order of classes that was assumed."""

    limit: int | None = None
    """Of a trial: at most so many samples of a task in every split; None: all of them."""

    protocol: tuple[str, ...] = ()
    """Splits that the suite's protocol reads for every method, whatever that is handed."""

    reads: Mapping[str, str] = MappingProxyType({})
    """What streams read in place of a split, as records say it; empty where every split is itself."""

    @classmethod
    def of_names(
        cls, suite: Suite, backbone: str, family: str, device: str | torch.device, dtype: str, **folders: Any
    ) -> Self:
        """A bench on the device and in the dtype of these names; see :func:`resolve_device`, :func:`resolve_dtype`."""
        build: Any = cls
        return build(suite, backbone, family, resolve_device(device), resolve_dtype(dtype), **folders)

    def limited(self, source: Source) -> Source:
        """The source, or of a trial at most ``limit`` of its samples; every domain's ``source`` goes through this."""
        if self.limit is None or len(source) <= self.limit:
            return source
        few: Source = Few(source, self.limit)
        return few

    def stream_source(self, task: str, split: str) -> Source:
        """What the stream of a method that has access to a split reads: the split."""
        return self.source(task, split)

    @property
    def contents(self) -> tuple[str, ...]:
        """What a split consists of: the data of each task, and what tasks share."""
        return tuple(self.suite.tasks)

    @abstractmethod
    def fingerprint(self, content: str, split: str) -> str:
        """sha256 of one of the ``contents`` of a split. Raises :class:`UserError` where the data are not there."""

    def origin(self, split: str) -> str:
        """The split whose data the stream of a method that has access to ``split`` reads."""
        return split

    def data_of(self, access: Access) -> dict[str, dict[str, str]]:
        """sha256 of all data that a run with this access reads, by split and content: part of its identity.

        These are the test split, which every run is scored on, the splits it is handed, and those of the suite's
        protocol. They are looked up once for a bench. Raises :class:`UserError` where data are not there.
        """
        sums: dict[str, dict[str, str]] = self.__dict__.setdefault("_fingerprints", {})
        splits = sorted({"test", *self.protocol, *(self.origin(split) for split, _ in access.items())})
        for split in splits:
            if split not in sums:
                sums[split] = {content: self.fingerprint(content, split) for content in self.contents}
        return {split: dict(sums[split]) for split in splits}

    def finishing(self) -> tuple[Callable[[Merged, Source], Merged], Source] | None:
        """What the protocol does to every merge, whatever its method, before it is saved, and the data for it.

        The function is one that pickle knows by its name, as it runs in the method's process.
        """
        return None

    def finish(self, merged: Merged) -> Merged:
        """The merge as the protocol finishes it."""
        step = self.finishing()
        return merged if step is None else step[0](merged, step[1])

    def bystander(self, name: str) -> Bystander:
        """One of those that the suite's file declares. Raises :class:`UserError` for one that its domain has not."""
        raise UserError(
            f"{self.suite.typed} declares the bystander {name}, which its domain does not know",
            "Leave it out of the suite's file.",
        )

    def data_folders(self) -> list[Path]:
        """Folders of data, beside the embedded ones, which no method may read by itself."""
        return []

    @abstractmethod
    def experts(self) -> Experts:
        """Base, experts, heads and encoder, mapped from their files."""

    @abstractmethod
    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        """One split (``train``, ``val`` or ``test``) of one task, inputs ready for the encoder."""

    @abstractmethod
    def meter(self, task: str) -> Meter:
        """A fresh meter of the task's metric."""


def resolve_device(name: str | torch.device) -> torch.device:
    """``cpu``, or a CUDA device of this machine with its index, without which ``torch.cuda`` does not take one.

    ``cuda`` is ``cuda:0``; ``auto`` is that where there is one, and ``cpu`` elsewhere. Raises :class:`UserError` for
    any other name and for a device that is not there.
    """
    parts = re.fullmatch(r"auto|cpu|cuda(?::([0-9]+))?", str(name))
    if parts is None:
        raise UserError(f"unknown device {str(name)!r}", "Type --device cpu, cuda, cuda:N or auto")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if parts[0] == "cpu" or (parts[0] == "auto" and not count):
        return torch.device("cpu")
    index = int(parts[1] or 0)
    if index >= count:
        raise UserError(f"device {name} is not there; this machine has {count} CUDA devices", "Type --device cpu")
    device = torch.device("cuda", index)
    determinism.prepare(device)
    return device


@functools.lru_cache(maxsize=32)
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """These numbers on the device, float32 ``[n]``, to be read alone.

    They are copied once: a copy from the host waits for all that the device still has to do.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


@functools.cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU on which inputs are copied to it."""
    return torch.cuda.Stream(device)


def from_host(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. To a GPU it is copied from pinned memory on a stream of its own, beside what that
    still computes; the present stream waits for the copy, the host does not."""
    if device.type != "cuda":
        return tensor.to(device)
    own, side = torch.cuda.current_stream(device), _copying(device)
    with torch.cuda.stream(side):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    own.wait_stream(side)
    # Its memory is the side stream's, which may not use it again before the present one is done with it.
    copy.record_stream(own)
    return copy


def resolve_dtype(name: str) -> torch.dtype:
    """``float32``, ``bfloat16`` or ``float16``. Raises :class:`UserError` for another."""
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in allowed:
        raise UserError(f"unknown dtype {name!r}", f"Type --dtype {' or '.join(allowed)}")
    return allowed[name]


def check_outputs(outputs: Any, shape: tuple[int, ...], task: str) -> Tensor:
    """``outputs`` as float32 of this shape. Raises :class:`UserError` for another one, or NaN."""
    form = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if form != shape:
        raise UserError(
            f"the merged model gives {form} on {task}; expected {shape}",
            "The method's model(task) must end in the task's head.",
        )
    outputs = outputs.float()
    if bool(torch.isnan(outputs).any()):
        raise UserError(
            f"the merged model predicts NaN on {task}", "Its weights overflow: try --dtype float32, or smaller scales."
        )
    return outputs
