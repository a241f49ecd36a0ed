"""Image classification: CLIP image towers, zero-shot heads, top-1 accuracy.

The data and checkpoints of a mini or small suite are committed; a full one's lie in folders of the user's: the data
root, and ``CHECKPOINTS/FAMILY/BACKBONE`` as ``symerge-bench assets checkpoints import`` writes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from benchmark.checkpoints.adapters import open_experts
from benchmark.checkpoints.families import FamilyError, checkpoint_folder, told
from benchmark.common.errors import UserError
from benchmark.domains.vision import embedded as data
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import Preprocessing, create_encoder, get_backbone
from benchmark.domains.vision.family import Family, head_notes, load_embedded, load_family
from benchmark.records.record import CorrectBits, TaskResult
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, Meter, Task, check_outputs
from methods.api import Access, Experts, Source

SPLITS = {"train": "train", "val": "validation", "test": "test"}


class ImageSource:
    """One split as a source: uint8 images mapped from the cache, normalised on the device when they are asked for."""

    def __init__(self, split: data.ImageSplit, ready: Preprocessing) -> None:
        self.split, self.ready = split, ready
        self.labels = torch.from_numpy(split.labels.copy())

    def __len__(self) -> int:
        return len(self.split)

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images and labels, on the CPU."""
        return torch.from_numpy(self.split.images[index.numpy()]), self.labels[index]

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.stored(index)
        return self.ready(images), labels


class Accuracy(Meter):
    """Top-1 accuracy in percent; keeps one bit a sample."""

    def __init__(self, task: str, classes: int) -> None:
        self.task, self.classes = task, classes
        self.predicted: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, outputs: Any, labels: Tensor) -> None:
        logits = check_outputs(outputs, (len(labels), self.classes), self.task)
        self.predicted.append(logits.argmax(-1).cpu())
        self.labels.append(labels.cpu())

    def result(self) -> TaskResult:
        predicted, labels = torch.cat(self.predicted), torch.cat(self.labels)
        value = multiclass_accuracy(predicted, labels, num_classes=self.classes, average="micro")
        return TaskResult(
            metric="accuracy",
            value=100.0 * float(value.double()),
            n=len(labels),
            statistics=CorrectBits.of((predicted == labels).numpy()),
        )


class VisionBench(Bench):
    """A vision suite on one backbone and family.

    Args:
        data_root: where the images of a full suite lie, else ``$SYMERGE_DATA``.
        checkpoints: where families of a full suite lie, else ``$SYMERGE_CHECKPOINTS`` or the default folder.
    """

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
    ) -> None:
        self.suite, self.backbone, self.family, self.device, self.dtype = suite, backbone, family, device, dtype
        self.data_root = data_root
        try:
            self.classes = {task: self._classes(task) for task in suite.tasks}
            self._family = self._load_family(checkpoints)
        except FamilyError as error:
            raise told(error) from None
        except data.DataError as error:
            raise UserError(str(error)) from None
        self.checkpoints = dict(self._family.hashes)
        self.notes = () if self.embedded else self._notes()
        self.tasks = {task: Task(task, "classification", "accuracy") for task in suite.tasks}
        # Missing images are told before anything else is done.
        self.data_of(Access())

    @property
    def embedded(self) -> bool:
        """Whether data and checkpoints are committed files instead of the user's."""
        return self.suite.embedded

    def _notes(self) -> tuple[str, ...]:
        """What boards say of the user's heads and images."""
        splits = full.split_notes(self.suite.tasks, self.data_root, self.family)
        return (*head_notes(self._family.manifest, self.suite.tasks), *splits)

    def _load_family(self, checkpoints: str | os.PathLike | None) -> Family:
        counts = {task: len(names) for task, names in self.classes.items()}
        if self.embedded:
            return load_embedded(self.family, self.backbone, self.suite.tasks, class_counts=counts)
        folder = checkpoint_folder(self.family, self.backbone, checkpoints)
        return load_family(folder, self.backbone, self.suite.tasks, class_counts=counts, name=self.family)

    def _classes(self, task: str) -> list[str]:
        return list(data.info(task).classes if self.embedded else full.info(task, self.family).classes)

    def fingerprint(self, content: str, split: str) -> str:
        """Of the arrays of an embedded split; else of the files (of validation: of those of train)."""
        if self.embedded:
            return data.info(content).arrays_sha256[SPLITS[split]]
        return full.sha256(content, SPLITS[split], self.data_root, self.family)

    def _split(self, task: str, split: str) -> data.ImageSplit:
        if self.embedded:
            return data.load_split(task, split)
        size = get_backbone(self.backbone).image_size
        return full.load_split(task, split, root=self.data_root, image_size=size, family=self.family, limit=self.limit)

    def experts(self) -> Experts:
        encoder = create_encoder(self.backbone, quick_gelu=self._family.quick_gelu, device=self.device).eval()
        return open_experts(
            self._family.base, self._family.experts, heads=self._family.heads, encoder=encoder, device=self.device
        )

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> Source:
        shape = get_backbone(self.backbone)
        try:
            images = self._split(task, SPLITS[split])
            ready = Preprocessing(shape.mean, shape.std, self.device, dtype, shape.image_size)
            return self.limited(ImageSource(images, ready))
        except data.DataError as error:
            raise UserError(str(error)) from None

    def data_folders(self) -> list[Path]:
        return [] if self.embedded else [full.data_root(self.data_root)]

    def meter(self, task: str) -> Accuracy:
        return Accuracy(task, len(self.classes[task]))


def bench_class(suite: Suite) -> type[Bench]:
    """The bench of a vision suite: the project's, or a user's own."""
    if suite.own is not None:
        from benchmark.domains.vision.own.bench import OwnBench

        return OwnBench
    return VisionBench
