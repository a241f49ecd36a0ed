"""Dense prediction: three tasks on one image, one encoder that is merged, a decoder for each task that is not."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.checkpoints.families import MINI, checkpoint_folder
from benchmark.domains.dense import nyuv2
from benchmark.domains.dense import scenes as scenes_data
from benchmark.domains.dense.batchnorm import reestimate
from benchmark.domains.dense.family import DenseFamily, load_dense_family
from benchmark.domains.dense.meters import METERS, DenseMeter
from benchmark.domains.dense.model import Decoder, Encoder, Normalisation, get_backbone, running_statistics
from benchmark.domains.dense.ray_caster import CLASSES
from benchmark.domains.dense.scenes import DenseSplit
from benchmark.domains.vision.public import data_root as root_of
from benchmark.records import metrics
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, Task, resolve_device
from methods.api import Access, Experts, Merged, Source

PARTS = {"segmentation": "label", "depth": "depth", "normals": "normal"}
KINDS = {kind: kind for kind in PARTS}


def channels(classes: int) -> dict[str, int]:
    """Channels that each task predicts."""
    return {"segmentation": classes, "depth": 1, "normals": 3}


def truth_of(split: DenseSplit, task: str) -> Tensor:
    """The task's truth: classes int64 ``[n, H, W]``, depth ``[n, 1, H, W]`` or normals ``[n, 3, H, W]``, float32."""
    truth = torch.from_numpy(np.ascontiguousarray(getattr(split, PARTS[task])))
    if task == "segmentation":
        return truth.long()
    truth = truth.float()
    return truth[:, None] if task == "depth" else truth.permute(0, 3, 1, 2).contiguous()


class DenseSource:
    """One split of one task. ``read(index)`` gives images and truth as they are stored."""

    def __init__(self, read: Any, count: int, task: str, ready: Normalisation) -> None:
        self.read, self.count, self.task, self.ready = read, count, task, ready

    def __len__(self) -> int:
        return self.count

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images ``[n, H, W, 3]`` and truth, on the CPU."""
        rows = self.read(index.numpy())
        return torch.from_numpy(rows.image), truth_of(rows, self.task)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images, truth = self.stored(index)
        return self.ready(images), truth


class DenseBench(Bench):
    """``dense-mini`` (rendered, embedded) or ``nyuv2`` (the user's files) on one backbone and family.

    Args:
        data_root: NYUv2's folder, or one that holds it as ``nyuv2``; else ``$SYMERGE_DATA``.
        checkpoints: where families of a full suite lie, else ``$SYMERGE_CHECKPOINTS`` or the default folder.
        folder: the family's own folder, in place of where it is looked for.
    """

    _family: DenseFamily
    counts: dict[str, int] | None = None
    """Images of NYUv2's folders where it is not the published set; None: as published."""

    def __init__(
        self,
        suite: Suite,
        backbone: str,
        family: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        data_root: str | os.PathLike | None = None,
        checkpoints: str | os.PathLike | None = None,
        folder: Path | None = None,
    ) -> None:
        self._open(suite, backbone, family, device, dtype, data_root)
        if folder is None:
            folder = MINI / backbone if self.nyuv2 is None else checkpoint_folder(family, backbone, checkpoints)
        self._family = load_dense_family(folder, self.shape, {t: self.channels[t] for t in suite.tasks}, KINDS)
        self.checkpoints = dict(self._family.hashes)
        # Missing images are told before anything else is done.
        self.data_of(Access())

    @classmethod
    def untrained(
        cls, suite: Suite, backbone: str, family: str, device: str, data_root: str | os.PathLike | None = None
    ) -> DenseBench:
        """Data and meters alone, for training; there are no experts yet."""
        bench = cls.__new__(cls)
        bench._open(suite, backbone, family, resolve_device(device), torch.float32, data_root)
        return bench

    def _open(
        self,
        suite: Suite,
        backbone: str,
        family: str,
        device: torch.device,
        dtype: torch.dtype,
        root: str | os.PathLike | None,
    ) -> None:
        self.suite, self.backbone, self.family, self.device, self.dtype = suite, backbone, family, device, dtype
        self.shape, self.root = get_backbone(backbone), root
        full = suite.scale == "full"
        self.nyuv2 = (
            nyuv2.open_root(nyuv2.folder(root_of(root)), size=self.shape.size, counts=self.counts) if full else None
        )
        self.channels = channels(nyuv2.CLASSES if full else len(CLASSES))
        self.tasks = {task: self._task(task) for task in suite.tasks}
        if suite.batchnorm == "reestimate":
            self.access, self.protocol = ("unlabelled train (statistics)",), ("train",)

    def _task(self, task: str) -> Task:
        name = METERS[task].metric
        return Task(task, task, name, metrics.get(name).higher_is_better)

    @property
    def contents(self) -> tuple[str, ...]:
        """The truth of each task, and the images of all."""
        return (*self.suite.tasks, "images")

    def fingerprint(self, content: str, split: str) -> str:
        """Of an array of an embedded split, else of the files of one part."""
        part = PARTS.get(content, "image")
        if self.nyuv2 is not None:
            return nyuv2.fingerprint(self.nyuv2, split, part)
        digest: str = scenes_data.manifest()["splits"][split][part]
        return digest

    def experts(self) -> Experts:
        encoder = Encoder(self.shape).to(self.device).eval()
        return Experts.from_state_dicts(
            self._family.base,
            self._family.experts,
            heads=self._family.heads,
            encoder=encoder,
            kinds={task: task for task in self.tasks},
            adaptable={"head": (Decoder.LAST,)},
            statistics=running_statistics(encoder) if self.suite.batchnorm == "reestimate" else (),
            device=self.device,
        )

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Any:
        """A `DenseSource`, or of a trial a few samples of one."""
        ready = Normalisation(self.shape.mean, self.shape.std, self.device, dtype)
        if self.nyuv2 is not None:
            data = self.nyuv2
            return self.limited(DenseSource(lambda i: data.read(split, i), len(data.numbers(split)), task, ready))
        rows = scenes_data.load_split(split)
        return self.limited(DenseSource(rows.rows, len(rows), task, ready))

    def finishing(self) -> tuple[Callable[[Merged, Source], Merged], Source] | None:
        """Statistics estimated again on unlabelled training images, where the suite says so."""
        if self.suite.batchnorm != "reestimate":
            return None
        images: Source = self.source(next(iter(self.tasks)), "train")
        return functools.partial(reestimate, images=self.suite.batchnorm_images), images

    def data_folders(self) -> list[Path]:
        return [root_of(self.root)] if self.nyuv2 is not None else []

    def meter(self, task: str) -> DenseMeter:
        return METERS[task](task, self.channels[task])


def bench_class(suite: Suite) -> type[Bench]:
    """The bench of a dense suite."""
    return DenseBench
