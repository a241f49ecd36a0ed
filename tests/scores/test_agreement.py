"""Agreement of two rankings, against numbers worked out by hand and scipy's."""

import itertools

import numpy as np
import pytest
from scipy import stats

from benchmark.scores.agreement import agreement, signal_to_noise


def test_decisions_are_the_pairs_far_enough_apart_and_ties_count_half():
    published = {"a": 60.0, "b": 62.0, "c": 70.0, "d": 80.0}
    measured = {"a": [50.0], "b": [40.0], "c": [40.0], "d": [45.0]}
    found = agreement(measured, [published])
    # ab is less than 3 points apart. bc ties; ac, ad stand the other way round; bd and cd agree.
    assert [pair[:2] for pair in found.pairs] == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert found.decision.value == pytest.approx((0 + 0 + 0.5 + 1 + 1) / 5)
    assert [pair[:2] for pair in found.errors] == [("a", "d"), ("a", "c")], "the widest published gap first"
    assert agreement(measured, [published], gap=2.0).decision.value == pytest.approx((0 + 0 + 0 + 0.5 + 1 + 1) / 6)


def test_tau_and_spearman_are_scipys_ties_included():
    rng = np.random.default_rng(1)
    names = [f"m{i:02}" for i in range(20)]
    published = {name: float(rng.integers(60, 75)) for name in names}
    measured = {name: [float(rng.integers(40, 50))] for name in names}
    found = agreement(measured, [published])
    x, y = [measured[n][0] for n in names], [published[n] for n in names]
    assert found.tau.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    for each in (found.decision, found.tau, found.spearman):
        assert each.low < each.value < each.high


def test_the_interval_of_spearman_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(2)
    y = rng.normal(size=15)
    x = y + rng.normal(size=15)
    names = [f"m{i:02}" for i in range(15)]
    table = dict(zip(names, y.tolist(), strict=True))
    found = agreement({n: [v] for n, v in zip(names, x, strict=True)}, [table])
    draws = rng.integers(0, 15, (4000, 15))
    plain = [stats.spearmanr(x[each], y[each]).statistic for each in draws]
    np.testing.assert_allclose([found.spearman.low, found.spearman.high], np.quantile(plain, [0.025, 0.975]), atol=0.04)


def test_two_tables_are_never_compared_with_each_other():
    first, second = {"a": 60.0, "b": 70.0}, {"a": 90.0, "c": 80.0}
    found = agreement({"a": [1.0], "b": [2.0], "c": [3.0]}, [first, second])
    assert {pair[:2]: pair.predicted for pair in found.pairs} == {("a", "b"): -10.0, ("a", "c"): 10.0}
    assert found.decision.value == 0.5, "b and c stand in no table together"


def test_seeds_widen_the_interval():
    names = [f"m{i}" for i in range(8)]
    table = {name: 10.0 * i for i, name in enumerate(names)}
    steady = agreement({n: [float(i)] * 5 for i, n in enumerate(names)}, [table])
    noise = itertools.cycle([-4.0, 0.0, 4.0])
    shaky = agreement({n: [float(i) + next(noise) for _ in range(5)] for i, n in enumerate(names)}, [table])
    assert steady.decision.value == 1 and np.isnan(steady.tau.low), "resamples of a perfect agreement are perfect"
    assert steady.decision.low == pytest.approx(stats.binomtest(8, 8).proportion_ci(method="wilson").low)
    assert shaky.tau.low < shaky.tau.value <= shaky.tau.high


def test_few_methods_bear_no_interval_and_one_no_number():
    found = agreement({"a": [1.0], "b": [2.0], "c": [3.0]}, [{"a": 1.0, "b": 11.0, "c": 21.0}])
    assert found.decision.value == 1 and np.isnan(found.decision.low)
    alone = agreement({"a": [1.0]}, [{"a": 1.0}])
    assert not alone.pairs and np.isnan([alone.decision.value, alone.tau.value, alone.spearman.value]).all()
    nothing = agreement({}, [])
    assert nothing.methods == [] and np.isnan(nothing.decision.value)


def test_without_resamples_there_are_the_values_alone():
    table = {f"m{i}": 10.0 * i for i in range(8)}
    scores = {name: [value % 30] for name, value in table.items()}
    whole, bare = agreement(scores, [table]), agreement(scores, [table], resamples=0)
    for one, other in zip(
        (whole.decision, whole.tau, whole.spearman), (bare.decision, bare.tau, bare.spearman), strict=True
    ):
        assert one.value == other.value and one.low < one.high and np.isnan([other.low, other.high]).all()


def test_signal_is_the_spread_of_methods_and_noise_that_of_seeds():
    scores = {"a": [{"t": 10.0, "u": 1.0}, {"t": 12.0, "u": 1.0}], "b": [{"t": 30.0, "u": 2.0}, {"t": 34.0, "u": 2.0}]}
    ratios = signal_to_noise(scores)
    # Means 11 and 32; pooled variance of seeds (2 + 8) / 2.
    assert ratios["t"] == pytest.approx(np.std([11, 32], ddof=1) / np.sqrt(5))
    assert ratios["u"] == float("inf")
    assert np.isnan(signal_to_noise({"a": [{"t": 1.0}], "b": [{"t": 2.0}]})["t"])
    assert signal_to_noise({}) == {}


def test_blame_takes_out_the_method_with_the_most_errors_left():
    names = [f"m{i}" for i in range(6)]
    table = {name: 10.0 * i for i, name in enumerate(names)}
    measured = {name: [10.0 * i] for i, name in enumerate(names)}
    measured["m5"] = [-5.0]  # published best, measured worst: wrong with all five others
    measured["m1"] = [25.0]  # above m2, published below
    first, second = agreement(measured, [table]).blame
    assert first == ("m5", 5, 5, pytest.approx(9 / 10), 10)
    # m1 and m2 are wrong with each other alone, each in four pairs that are left.
    assert second == ("m1", 1, 4, 1.0, 6)
    assert agreement({name: [10.0 * i] for i, name in enumerate(names)}, [table]).blame == []
