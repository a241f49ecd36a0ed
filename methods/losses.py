"""The loss of a labelled batch, for each kind of task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from methods.registry import MergingError


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
    if kind == "segmentation":
        valid = (labels >= 0) & (labels < outputs.shape[1])
        each = F.cross_entropy(outputs, labels.where(valid, labels.new_zeros(())), reduction="none")
    elif kind == "depth":
        labels = labels.float().view_as(outputs)
        valid, each = labels != 0, (outputs - labels).abs()
    elif kind == "normals":
        valid, each = (labels != 0).any(1), 1 - F.cosine_similarity(outputs, labels.float(), dim=1)
    else:
        return F.mse_loss(outputs, labels.float().view_as(outputs))
    return (each * valid).sum() / valid.sum().clamp(min=1)
