"""Scores of dense prediction against formulas on cases made by hand, torchmetrics, and the board's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.regression import MeanAbsoluteError, MeanAbsolutePercentageError

from benchmark.common.errors import UserError
from benchmark.domains.dense.meters import METERS, DepthMeter, NormalsMeter, SegmentationMeter
from benchmark.records import metrics
from benchmark.records.record import Values


def scores_of_classes(labels: list[int]) -> Tensor:
    """Outputs ``[1, 3, 1, n]`` whose argmax are these classes."""
    return torch.nn.functional.one_hot(torch.tensor(labels), 3).float().T[None, :, None]


def arrays(statistics: object) -> dict[str, np.ndarray]:
    assert isinstance(statistics, Values)
    return {name: array.numpy() for name, array in statistics.arrays.items()}


def test_segmentation_by_hand_with_ignored_pixels() -> None:
    meter = SegmentationMeter("segmentation", 3)
    meter.update(scores_of_classes([0, 0, 1, 2, 2, 1]), torch.tensor([[[0, 1, 1, 2, -1, 255]]]))
    found = meter.result()
    # Counted: 0->0, 1->0, 1->1, 2->2. IoU: 1/2, 1/2, 1/1.
    assert found.value == pytest.approx(100 * (0.5 + 0.5 + 1.0) / 3)
    assert found.others["pixel_accuracy"] == pytest.approx(75.0)
    assert arrays(found.statistics)["confusion"].tolist() == [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
    assert found.higher_is_better and found.metric == "miou" and found.n == 1


def test_depth_by_hand_leaves_out_pixels_without_depth() -> None:
    meter = DepthMeter("depth", 1)
    meter.update(
        torch.tensor([[[[1.0, 5.0, 9.0]]], [[[2.0, 2.0, 2.0]]]]),
        torch.tensor([[[[2.0, 4.0, 0.0]]], [[[0.0, 0.0, 4.0]]]]),
    )
    found = meter.result()
    assert found.value == pytest.approx((1 + 1 + 2) / 3)
    assert found.others["rel_err"] == pytest.approx((0.5 + 0.25 + 0.5) / 3)
    assert arrays(found.statistics)["count"].tolist() == [2, 1]
    assert not found.higher_is_better


def test_normals_by_hand_whatever_the_length_of_the_prediction() -> None:
    meter = NormalsMeter("normals", 3)
    angles = torch.tensor([0.0, 10.0, 20.0, 25.0, 90.0, 50.0])
    outputs = 3 * torch.stack([angles.deg2rad().sin(), torch.zeros(6), angles.deg2rad().cos()])[None, :, None]
    truth = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 6)
    truth[..., 5] = 0
    meter.update(outputs, truth)
    found = meter.result()
    assert found.value == pytest.approx(145 / 5, abs=1e-4)
    assert found.others["within_11.25"] == pytest.approx(40) and found.others["within_22.5"] == pytest.approx(60)
    assert found.others["within_30"] == pytest.approx(80)
    assert found.others["median_angle"] == pytest.approx(20, abs=0.5), "in half degrees"
    assert arrays(found.statistics)["histogram"].sum() == 5


def test_opposite_normals_fall_into_the_last_half_degree() -> None:
    meter = NormalsMeter("normals", 3)
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    meter.update(-up, up)
    assert meter.result().value == pytest.approx(180)
    assert arrays(meter.result().statistics)["histogram"][0, 359] == 1


def test_a_prediction_of_zeros_has_no_direction_and_is_at_right_angles() -> None:
    meter = NormalsMeter("normals", 3)
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    meter.update(torch.zeros_like(up), up)
    assert meter.result().value == pytest.approx(90) and meter.result().others["within_30"] == 0


def test_meters_agree_with_torchmetrics_and_plain_formulas_on_random_masked_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(5, 4, 7, 6, generator=generator), torch.randint(-1, 4, (5, 7, 6), generator=generator)
    meter = SegmentationMeter("segmentation", 4)
    for part in (slice(0, 2), slice(2, 5)):
        meter.update(outputs[part], labels[part])
    found = meter.result()
    jaccard, accuracy = (
        MulticlassJaccardIndex(4, ignore_index=-1),
        MulticlassAccuracy(4, average="micro", ignore_index=-1),
    )
    assert found.value == pytest.approx(100 * float(jaccard(outputs, labels)), abs=1e-4)
    assert found.others["pixel_accuracy"] == pytest.approx(100 * float(accuracy(outputs, labels)), abs=1e-4)

    predicted, truth = torch.rand(5, 1, 7, 6, generator=generator), torch.rand(5, 1, 7, 6, generator=generator) + 0.2
    truth[truth < 0.4] = 0
    depth = DepthMeter("depth", 1)
    depth.update(predicted, truth)
    known = truth > 0
    assert depth.result().value == pytest.approx(float(MeanAbsoluteError()(predicted[known], truth[known])), rel=1e-5)
    relative = float(MeanAbsolutePercentageError()(predicted[known], truth[known]))
    assert depth.result().others["rel_err"] == pytest.approx(relative, rel=1e-5)

    normals = torch.nn.functional.normalize(torch.randn(5, 3, 7, 6, generator=generator), dim=1)
    found_normals = torch.randn(5, 3, 7, 6, generator=generator)
    normals[:, :, 0] = 0
    meter3 = NormalsMeter("normals", 3)
    meter3.update(found_normals, normals)
    cosine = torch.nn.functional.cosine_similarity(found_normals.double(), normals.double(), dim=1)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))[:, 1:]
    assert meter3.result().value == pytest.approx(float(angle.mean()), abs=1e-4)
    assert meter3.result().others["median_angle"] == pytest.approx(float(angle.quantile(0.5)), abs=0.5)
    for limit in (11.25, 22.5, 30):
        share = 100 * float((angle < limit).double().mean())
        assert meter3.result().others[f"within_{limit:g}"] == pytest.approx(share, abs=1.0), "half degrees"


@pytest.mark.parametrize("task", METERS)
def test_the_board_computes_the_same_numbers_from_the_statistics(task: str) -> None:
    generator = torch.Generator().manual_seed(1)
    channels = {"segmentation": 4, "depth": 1, "normals": 3}[task]
    outputs = torch.randn(6, channels, 5, 5, generator=generator)
    labels = (
        torch.randint(0, 4, (6, 5, 5), generator=generator)
        if task == "segmentation"
        else torch.nn.functional.normalize(torch.rand(6, channels, 5, 5, generator=generator) + 0.1, dim=1)
    )
    meter = METERS[task](task, channels)
    meter.update(outputs, labels)
    found = meter.result()
    for name, value in {found.metric: found.value, **found.others}.items():
        assert metrics.score(name, found.statistics) == pytest.approx(value)
        once = metrics.resample(name, found.statistics, np.ones((1, 6)))
        assert once[0] == pytest.approx(value), "every image once is the split itself"
    twice = metrics.resample(found.metric, found.statistics, np.array([[2, 0, 0, 0, 0, 0]]))[0]
    alone = METERS[task](task, channels)
    alone.update(outputs[:1], labels[:1])
    assert twice == pytest.approx(alone.result().value), "one image alone, by its own row"


def test_wrong_shapes_and_nan_are_named() -> None:
    meter = SegmentationMeter("segmentation", 3)
    with pytest.raises(UserError, match=r"\(1, 3, 2, 2\)"):
        meter.update(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="NaN"):
        meter.update(torch.full((1, 3, 2, 2), float("nan")), torch.zeros(1, 2, 2, dtype=torch.int64))
