"""GLUE's metrics with the statistics that give them again: accuracy, accuracy with F1, MCC, Pearson and Spearman."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import binary_f1_score, multiclass_accuracy

from benchmark.records import metrics
from benchmark.records.record import Array, CorrectBits, TaskResult, Values
from benchmark.suites.bench import Meter, check_outputs

METRICS = {
    "accuracy": "classification",
    "accuracy_f1": "classification",
    "mcc": "classification",
    "pearson_spearman": "regression",
}
"""The kind of task of each metric."""


class TextMeter(Meter, ABC):
    """Gathers outputs `[B, C]`; a subclass makes the result of what was gathered."""

    def __init__(self, task: str, outputs: int) -> None:
        self.task, self.outputs = task, outputs
        self.gathered: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, labels: Tensor) -> None:
        self.gathered.append((check_outputs(outputs, (len(labels), self.outputs), self.task).cpu(), labels.cpu()))

    def classes(self) -> tuple[Tensor, Tensor]:
        """Predicted and true classes `[N]`."""
        return torch.cat([o.argmax(-1) for o, _ in self.gathered]), torch.cat([x for _, x in self.gathered])


class Accuracy(TextMeter):
    """Share of right predictions in percent."""

    def result(self) -> TaskResult:
        predicted, labels = self.classes()
        value = multiclass_accuracy(predicted, labels, num_classes=self.outputs, average="micro")
        return TaskResult(
            metric="accuracy",
            value=100.0 * float(value),
            n=len(labels),
            statistics=CorrectBits.of((predicted == labels).numpy()),
        )


class AccuracyF1(TextMeter):
    """Accuracy in percent; beside it the F1 score of class 1, in percent."""

    def result(self) -> TaskResult:
        predicted, labels = self.classes()
        value = multiclass_accuracy(predicted, labels, num_classes=self.outputs, average="micro")
        return TaskResult(
            metric="accuracy",
            value=100.0 * float(value),
            n=len(labels),
            others={"f1": 100.0 * float(binary_f1_score(predicted, labels))},
            statistics=_classes(predicted, labels),
        )


class Matthews(TextMeter):
    """Matthews' correlation of two classes, times 100; 0 where one class is never predicted."""

    def result(self) -> TaskResult:
        predicted, labels = self.classes()
        statistics = _classes(predicted, labels)
        return TaskResult(metric="mcc", value=metrics.score("mcc", statistics), n=len(labels), statistics=statistics)


class Correlations(TextMeter):
    """Mean of Pearson's and Spearman's correlation, times 100; 0 where all predictions are equal."""

    def result(self) -> TaskResult:
        predicted = torch.cat([o[:, 0] for o, _ in self.gathered]).double()
        target = torch.cat([x for _, x in self.gathered]).double()
        constant = bool((predicted == predicted[:1]).all())
        pair = [0.0, 0.0]
        if not constant:
            pair = [
                100.0 * float(pearson_corrcoef(predicted, target)),
                100.0 * float(spearman_corrcoef(predicted, target)),
            ]
        return TaskResult(
            metric="pearson_spearman",
            value=sum(pair) / 2,
            n=len(target),
            kind="regression",
            others={"pearson": pair[0], "spearman": pair[1]},
            statistics=Values(
                arrays={"predicted": Array.of(predicted.float().numpy()), "target": Array.of(target.float().numpy())}
            ),
        )


def _classes(predicted: Tensor, labels: Tensor) -> Values:
    return Values(
        arrays={
            "predicted": Array.of(predicted.to(torch.uint8).numpy()),
            "label": Array.of(labels.to(torch.uint8).numpy()),
        }
    )


def meter(metric: str, task: str, outputs: int) -> TextMeter:
    """A fresh meter of one of :data:`METRICS`."""
    makers: dict[str, Callable[[str, int], TextMeter]] = {
        "accuracy": Accuracy,
        "accuracy_f1": AccuracyF1,
        "mcc": Matthews,
        "pearson_spearman": Correlations,
    }
    return makers[metric](task, outputs)
