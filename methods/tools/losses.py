"""The loss of a labelled batch, for each kind of task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.core.errors import MergingError


def supervised_loss(kind: str, outputs: Tensor, labels: Tensor | None) -> Tensor:
    """Mean loss of predictions against labels, a scalar.

    Args:
        kind: the task's. Classification: cross-entropy of ``[B, C]`` and ``[B]``. Segmentation: the same per pixel,
            ``[B, C, H, W]`` and ``[B, H, W]``; labels outside 0 .. C - 1 are left out. Depth: mean absolute error where
            the label is not 0. Normals: one minus the cosine, where the label vector ``[B, 3, H, W]`` is not 0.
            Regression: mean squared error.

    Raises:
        MergingError: the batch has no labels.
    """
    if labels is None:
        raise MergingError("this method trains on labels and the stream gave none; its access is labelled")
    outputs = outputs.float()
    if kind == "classification":
        return F.cross_entropy(outputs, labels)
    valid = labelled(kind, labels, outputs.shape[1] if outputs.ndim > 1 else 1)
    if kind == "segmentation":
        each = F.cross_entropy(outputs, labels.where(valid, labels.new_zeros(())), reduction="none")
    elif kind == "depth":
        valid, each = valid.view_as(outputs), (outputs - labels.float().view_as(outputs)).abs()
    elif kind == "normals":
        each = 1 - F.cosine_similarity(outputs, labels.float(), dim=1)
    else:
        return F.mse_loss(outputs, labels.float().view_as(outputs))
    return mean_where(each, valid)


def labelled(kind: str, labels: Tensor, classes: int) -> Tensor:
    """Which samples or pixels have a label, bool of the shape of ``labels`` (of normals ``[B, H, W]``)."""
    if kind in ("classification", "segmentation"):
        return (labels >= 0) & (labels < classes)
    if kind == "depth":
        return labels != 0
    return (labels != 0).any(1) if kind == "normals" else torch.ones_like(labels, dtype=torch.bool)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values that are kept; 0, with gradients of 0, where none is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
