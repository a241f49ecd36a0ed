"""Text metrics against independent references, and their statistics against the board's own metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from benchmark.common.errors import UserError
from benchmark.domains.text.meters import meter
from benchmark.records import metrics
from benchmark.records.record import TaskResult


def filled(metric: str, outputs: torch.Tensor, labels: torch.Tensor) -> TaskResult:
    made = meter(metric, "task", outputs.shape[1])
    for part in torch.arange(len(labels)).split(7):
        made.update(outputs[part], labels[part])
    return made.result()


def classes(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (n,), generator=generator)
    return torch.randn(n, 2, generator=generator) + 1.2 * torch.nn.functional.one_hot(labels, 2), labels


def test_matthews_correlation_is_the_correlation_of_the_two_columns() -> None:
    outputs, labels = classes()
    found = filled("mcc", outputs, labels)
    expected = 100 * np.corrcoef(outputs.argmax(1).numpy(), labels.numpy())[0, 1]
    assert found.metric == "mcc" and found.value == pytest.approx(expected, abs=1e-3) and 10 < found.value < 95
    assert metrics.score("mcc", found.statistics) == pytest.approx(found.value, abs=1e-3)


def test_f1_stands_beside_the_accuracy_and_both_come_from_the_statistics() -> None:
    outputs, labels = classes()
    found = filled("accuracy_f1", outputs, labels)
    predicted = outputs.argmax(1)
    hits = int(((predicted == 1) & (labels == 1)).sum())
    expected = 100 * 2 * hits / int((predicted == 1).sum() + (labels == 1).sum())
    assert found.metric == "accuracy"
    assert found.value == pytest.approx(100 * float((predicted == labels).float().mean()))
    assert found.others["f1"] == pytest.approx(expected, abs=1e-3)
    assert metrics.score("accuracy", found.statistics) == pytest.approx(found.value, abs=1e-3)
    assert metrics.score("f1", found.statistics) == pytest.approx(expected, abs=1e-3)


def test_accuracy_keeps_one_bit_a_sample() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs, labels = torch.randn(50, 3, generator=generator), torch.randint(3, (50,), generator=generator)
    found = filled("accuracy", outputs, labels)
    np.testing.assert_array_equal(found.statistics.numpy(), (outputs.argmax(1) == labels).numpy())
    assert metrics.score("accuracy", found.statistics) == pytest.approx(found.value)


def test_correlations_are_scipys() -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(-8, 9, (80,), generator=generator) / 2.0
    outputs = (target + 2 * torch.randn(80, generator=generator))[:, None]
    outputs[10:20] = outputs[0]
    found = filled("pearson_spearman", outputs, target)
    pearson = 100 * stats.pearsonr(outputs[:, 0].numpy(), target.numpy())[0]
    spearman = 100 * stats.spearmanr(outputs[:, 0].numpy(), target.numpy())[0]
    assert found.others == {"pearson": pytest.approx(pearson, abs=1e-3), "spearman": pytest.approx(spearman, abs=1e-3)}
    assert found.value == pytest.approx((pearson + spearman) / 2, abs=1e-3) and found.kind == "regression"
    for name, value in {"pearson_spearman": found.value, **found.others}.items():
        assert metrics.score(name, found.statistics) == pytest.approx(value, abs=1e-2)


@pytest.mark.parametrize("metric", ["mcc", "pearson_spearman"])
def test_predictions_that_do_not_vary_score_0(metric: str) -> None:
    regression = metric == "pearson_spearman"
    outputs = torch.ones(12, 1) if regression else torch.tensor([[1.0, 0.0]]).expand(12, 2)
    for labels in [torch.arange(12.0)] if regression else [torch.arange(12) % 2, torch.arange(12) // 5 % 2]:
        found = filled(metric, outputs, labels)
        assert found.value == 0 and metrics.score(metric, found.statistics) == 0
    if not regression:
        assert filled(metric, outputs, torch.zeros(12, dtype=torch.int64)).value == 0, "one class everywhere"


def test_outputs_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match="expected"):
        meter("mcc", "CoLA", 2).update(torch.zeros(4, 3), torch.zeros(4))
