"""Meters of dense prediction: statistics of every image, from which scores and their resamples are computed.

Pixels without truth count nowhere: labels outside the classes, depth 0, normals 0.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmark.records import metrics
from benchmark.records.record import Array, TaskResult, Values
from benchmark.suites.bench import Meter, check_outputs

BINS = 360
OTHERS = {
    "miou": ("pixel_accuracy",),
    "abs_err": ("rel_err",),
    "mean_angle": ("median_angle", "within_11.25", "within_22.5", "within_30"),
}


class DenseMeter(Meter):
    """Gathers one row of statistics an image."""

    metric: str
    kind: str

    def __init__(self, task: str, channels: int) -> None:
        self.task, self.channels = task, channels
        self.rows: dict[str, list[np.ndarray]] = {}

    def update(self, outputs: Any, labels: Tensor) -> None:
        outputs = check_outputs(outputs, (len(labels), self.channels, *labels.shape[-2:]), self.task)
        for name, row in self.measure(outputs, labels.to(outputs.device)).items():
            self.rows.setdefault(name, []).append(row)

    @abstractmethod
    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
        """The statistics of a batch, ``[B, ...]`` each."""

    def result(self) -> TaskResult:
        statistics = Values(arrays={n: Array.of(np.concatenate(rows)) for n, rows in self.rows.items()})
        about = metrics.get(self.metric)
        return TaskResult(
            metric=self.metric,
            value=metrics.score(self.metric, statistics),
            higher_is_better=about.higher_is_better,
            n=len(np.concatenate(next(iter(self.rows.values())))),
            kind=self.kind,
            others={name: metrics.score(name, statistics) for name in OTHERS[self.metric]},
            statistics=statistics,
        )


class SegmentationMeter(DenseMeter):
    """Confusion counts of ``[B, C, H, W]`` against ``[B, H, W]``, int32 ``[n, C, C]``, rows the truth."""

    metric, kind = "miou", "segmentation"

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
        labelled = (labels >= 0) & (labels < self.channels)
        labels, predicted = torch.where(labelled, labels, -1), outputs.argmax(1)
        counts = [
            multiclass_confusion_matrix(p, t, self.channels, ignore_index=-1)
            for p, t in zip(predicted, labels, strict=True)
        ]
        return {"confusion": torch.stack(counts).cpu().numpy().astype(np.int32)}


class DepthMeter(DenseMeter):
    """Sums of absolute and relative errors of ``[B, 1, H, W]``, in metres and fractions of the truth."""

    metric, kind = "abs_err", "depth"

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
        truth = labels.double().flatten(1)
        labelled = truth > 0
        error = (outputs.double().flatten(1) - truth).abs().where(labelled, 0.0)
        return {
            "abs_sum": error.sum(1).cpu().numpy(),
            "rel_sum": (error / truth.where(labelled, 1.0)).sum(1).cpu().numpy(),
            "count": labelled.sum(1).cpu().numpy().astype(np.int64),
        }


class NormalsMeter(DenseMeter):
    """Angles in degrees between ``[B, 3, H, W]`` of any length (90 for zeros) and unit vectors; a histogram of half
    degrees."""

    metric, kind = "mean_angle", "normals"

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
        truth, prediction = labels.double(), outputs.double()
        labelled = (truth != 0).any(1).flatten(1)
        across = torch.linalg.vector_norm(torch.linalg.cross(prediction, truth, dim=1), dim=1)
        angle = torch.rad2deg(torch.atan2(across, (prediction * truth).sum(1)))
        angle = angle.masked_fill((prediction == 0).all(1), 90.0).flatten(1)
        bins = (angle * 2).long().clamp(max=BINS - 1)
        histogram = torch.zeros(len(angle), BINS, dtype=torch.int64, device=angle.device)
        histogram.scatter_add_(1, bins, labelled.long())
        return {
            "angle_sum": angle.where(labelled, 0.0).sum(1).cpu().numpy(),
            "count": labelled.sum(1).cpu().numpy().astype(np.int64),
            "histogram": histogram.cpu().numpy().astype(np.int32),
        }


METERS: dict[str, type[DenseMeter]] = {m.kind: m for m in (SegmentationMeter, DepthMeter, NormalsMeter)}
