"""Metrics from sufficient statistics equal those of maintained libraries, also on resampled samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats as reference
from torchmetrics.functional import classification as functional

from benchmark.records import metrics
from benchmark.records.record import Array, CorrectBits, Sums, Values


def values(**arrays):
    return Values(arrays={name: Array.of(array) for name, array in arrays.items()})


def classes(rng, n=300, count=2):
    label = rng.integers(0, count, n)
    return np.where(rng.random(n) < 0.7, label, rng.integers(0, count, n)), label


def regression(rng, n=200):
    target = rng.integers(0, 11, n) / 2
    return (target + rng.normal(0, 1.5, n)).round(1).astype("float32"), target.astype("float32")


def dense(rng, n=20, size=4):
    return rng.integers(0, 30, (n, size, size)).astype("int32")


def angles(rng, n=12, pixels=500):
    found = rng.gamma(2.0, 12.0, (n, pixels)).clip(0, 179.9)
    histogram = np.stack([np.histogram(row, bins=360, range=(0, 180))[0] for row in found]).astype("int32")
    kept = values(angle_sum=found.sum(1).astype("float32"), count=np.full(n, pixels, "int32"), histogram=histogram)
    return kept, found


def all_statistics(rng):
    """`{metric: statistics}` of every metric."""
    predicted, label = classes(rng)
    wanted = regression(rng)
    counts = rng.integers(50, 90, 30)
    errors = dict(abs_sum=rng.random(30) * counts, rel_sum=rng.random(30) * counts, count=counts)
    by_arrays = {
        ("predicted", "label"): values(predicted=predicted, label=label),
        ("predicted", "target"): values(predicted=wanted[0], target=wanted[1]),
        ("confusion",): values(confusion=dense(rng)),
        ("abs_sum", "count"): values(**errors),
        ("rel_sum", "count"): values(**errors),
        ("angle_sum", "count", "histogram"): angles(rng)[0],
        ("nll_sum", "count"): values(nll_sum=rng.random(30) * 3 * counts, count=counts),
    }
    return {name: by_arrays[about.arrays] for name, about in metrics.METRICS.items()}


def repeat(statistics, index):
    return values(**{name: array.numpy()[index] for name, array in statistics.arrays.items()})


@pytest.mark.parametrize("count", [2, 4])
def test_classification_scores_are_those_of_torchmetrics(count):
    predicted, label = classes(np.random.default_rng(count), count=count)
    kept = values(predicted=predicted.astype("uint8"), label=label.astype("uint8"))
    given = torch.from_numpy(predicted), torch.from_numpy(label)
    assert metrics.score("accuracy", kept) == pytest.approx(100 * (predicted == label).mean())
    assert metrics.score("accuracy", CorrectBits.of(predicted == label)) == metrics.score("accuracy", kept)
    wanted = functional.multiclass_matthews_corrcoef(*given, num_classes=count)
    assert metrics.score("mcc", kept) == pytest.approx(100 * float(wanted), rel=1e-5)
    if count == 2:
        assert metrics.score("f1", kept) == pytest.approx(100 * float(functional.binary_f1_score(*given)), rel=1e-5)


def test_correlations_are_those_of_scipy():
    predicted, target = regression(np.random.default_rng(0))
    kept = values(predicted=predicted, target=target)
    pearson = 100 * reference.pearsonr(predicted.astype(float), target.astype(float)).statistic
    spearman = 100 * reference.spearmanr(predicted, target).statistic
    assert metrics.score("pearson", kept) == pytest.approx(pearson)
    assert metrics.score("spearman", kept) == pytest.approx(spearman)
    assert metrics.score("pearson_spearman", kept) == pytest.approx((pearson + spearman) / 2)


def test_segmentation_scores_are_those_of_torchmetrics():
    rng = np.random.default_rng(1)
    label, predicted = rng.integers(0, 4, (5, 60)), rng.integers(0, 4, (5, 60))
    confusion = np.zeros((5, 6, 6), "int32")  # classes 4 and 5 never occur
    for image in range(5):
        np.add.at(confusion[image], (label[image], predicted[image]), 1)
    kept = values(confusion=confusion)
    given = torch.from_numpy(predicted), torch.from_numpy(label)
    assert metrics.score("miou", kept) == pytest.approx(
        100 * float(functional.multiclass_jaccard_index(*given, num_classes=6)), rel=1e-5
    )
    assert metrics.score("pixel_accuracy", kept) == pytest.approx(100 * (predicted == label).mean())


def test_errors_and_angles_are_over_pixels_not_images():
    kept = values(abs_sum=[1.0, 30.0], rel_sum=[0.5, 10.0], count=[10, 30])
    assert metrics.score("abs_err", kept) == pytest.approx(31 / 40)
    assert metrics.score("rel_err", kept) == pytest.approx(10.5 / 40)
    kept, found = angles(np.random.default_rng(2))
    assert metrics.score("mean_angle", kept) == pytest.approx(found.mean(), rel=1e-5)
    assert metrics.score("median_angle", kept) == pytest.approx(np.median(found), abs=0.25)
    assert metrics.score("within_22.5", kept) == pytest.approx(100 * (found < 22.5).mean())
    assert metrics.score("within_30", kept) == pytest.approx(100 * (found < 30).mean())
    assert metrics.score("within_11.25", kept) == pytest.approx(100 * (found < 11.25).mean(), abs=1)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_resampling_is_scoring_the_repeated_samples(metric):
    rng = np.random.default_rng(3)
    kept = all_statistics(rng)[metric]
    n = metrics.samples(metric, kept)
    index = rng.integers(0, n, (7, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in index])
    wanted = [metrics.score(metric, repeat(kept, row)) for row in index]
    assert metrics.resample(metric, kept, weights) == pytest.approx(wanted, rel=1e-9)
    assert metrics.resample(metric, kept, np.ones((1, n))) == pytest.approx([metrics.score(metric, kept)])


def test_resampling_in_chunks_changes_nothing(monkeypatch):
    kept = all_statistics(np.random.default_rng(4))["spearman"]
    weights = np.random.default_rng(4).integers(0, 3, (9, 200))
    whole = metrics.resample("spearman", kept, weights)
    monkeypatch.setattr(metrics, "_CHUNK", 1)
    assert (metrics.resample("spearman", kept, weights) == whole).all()


def test_perplexity_is_over_all_tokens_together_and_finite_however_wrong_a_model_is():
    kept = values(nll_sum=[2.0, 40.0], count=[1, 5])
    assert metrics.score("perplexity", kept) == pytest.approx(np.exp(42 / 6))
    assert np.isfinite(metrics.score("perplexity", values(nll_sum=[1e6], count=[1])))


def test_sums_give_the_same_score_and_are_not_resampled():
    kept = all_statistics(np.random.default_rng(5))
    for metric in ("miou", "abs_err", "mean_angle", "median_angle"):
        totals = {name: array.numpy().sum(axis=0).ravel().tolist() for name, array in kept[metric].arrays.items()}
        totals = {name: total[0] if len(total) == 1 else total for name, total in totals.items()}
        assert metrics.score(metric, Sums(sums=totals)) == pytest.approx(metrics.score(metric, kept[metric]))
        with pytest.raises(ValueError, match="row per sample"):
            metrics.resample(metric, Sums(sums=totals), np.ones((1, 1)))
    with pytest.raises(ValueError, match="row per sample"):
        metrics.score("pearson", Sums(sums={"predicted": 1.0, "target": 1.0}))


def test_degenerate_statistics_give_zero_and_not_nan():
    constant = values(predicted=np.full(50, 0.1, "float32"), target=np.arange(50.0))
    assert metrics.score("pearson_spearman", constant) == 0
    one_class = values(predicted=np.zeros(5, int), label=np.zeros(5, int))
    assert metrics.score("mcc", one_class) == 0 and metrics.score("f1", one_class) == 0
    assert metrics.score("miou", values(confusion=np.zeros((2, 3, 3), int))) == 0


@pytest.mark.parametrize(
    ("metric", "kept", "said"),
    [
        ("accurracy", CorrectBits.of([True]), "unknown metric"),
        ("mcc", CorrectBits.of([True]), "predicted, label"),
        ("miou", values(confusion=np.zeros((2, 3, 4))), "C, C"),
        ("f1", values(predicted=[0, 1]), "missing label"),
        ("f1", values(predicted=[0, 1], label=[0, 1, 1]), "equal length"),
        ("pearson", values(predicted=[0.0, np.nan], target=[0.0, 1.0]), "NaN"),
        ("accuracy", CorrectBits.of([]), "samples"),
        ("mean_angle", values(angle_sum=[1.0], count=[1], histogram=np.zeros((1, 36))), "360"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(metric, kept, said):
    with pytest.raises(ValueError, match=said):
        metrics.score(metric, kept)


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="B, 3"):
        metrics.resample("accuracy", CorrectBits.of([True, False, True]), np.ones((2, 4)))


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_pseudo_values_have_the_scores_mean_and_the_bootstraps_spread(metric):
    rng = np.random.default_rng(6)
    kept = all_statistics(rng)[metric]
    found = metrics.pseudo_values(metric, kept)
    n = metrics.samples(metric, kept)
    assert found.shape == (n,) and found.mean() == pytest.approx(metrics.score(metric, kept))
    if metric != "median_angle":  # not smooth: the jackknife does not estimate the spread of a median
        drawn = metrics.resample(metric, kept, rng.multinomial(n, np.full(n, 1 / n), size=1000))
        assert found.std(ddof=1) / np.sqrt(n) == pytest.approx(drawn.std(), rel=0.15)
