import numpy as np
import pytest
from scipy import stats as distributions

from benchmark import stats

TASKS = 8


def draw(rng, seeds, level, spread, shared, n, tasks=TASKS):
    """Runs `[seed]{task: right}`: each seed has its own level, and part of a sample's luck is common to all seeds."""
    levels = level + rng.normal(0, spread, (seeds, 1, 1)) + rng.normal(0, spread, (seeds, tasks, 1))
    common, own = rng.normal(size=(1, tasks, n)), rng.normal(size=(seeds, tasks, n))
    right = levels + shared * common + np.sqrt(1 - shared**2) * own > 0
    return [dict(enumerate(each)) for each in right]


def truth(level, spread):
    return 100 * distributions.norm.cdf(level / np.sqrt(1 + 2 * spread**2))


def test_means_normalised_scores_and_the_worst_task():
    values, expert = {"a": 90.0, "b": 60.0, "c": 2.0}, {"a": 100.0, "b": 80.0, "c": 1.0}
    higher = {"a": True, "b": True, "c": False}
    assert stats.mean_over_tasks({"a": 90.0, "b": 60.0}) == 75.0
    assert stats.normalised(values, expert, higher) == {"a": 90.0, "b": 75.0, "c": 50.0}
    assert stats.worst_task({"a": 90.0, "b": 60.0}) == ("b", 60.0)
    assert np.isnan(stats.normalised({"a": 1.0}, {"a": 0.0}, {"a": True})["a"])
    with pytest.raises(ValueError):
        stats.mean_over_tasks({})


def test_mean_ranks_share_ties_and_know_the_direction():
    rows = [{"a": 90.0, "b": 0.5}, {"a": 90.0, "b": 0.2}, {"a": 10.0, "b": 0.9}]
    assert stats.mean_ranks(rows, {"a": True, "b": False}) == [1.75, 1.25, 3.0]
    assert stats.mean_ranks([], {}) == []


def test_the_bootstrap_is_that_of_resampled_samples():
    rng = np.random.default_rng(0)
    scores = {"a": rng.random(40) < 0.6, "b": rng.random(90) < 0.9}
    fast = stats.bootstrap_interval(scores, n=20000)
    plain = np.mean([x[rng.integers(0, len(x), (20000, len(x)))].mean(axis=1) for x in scores.values()], axis=0)
    low, high = 100 * np.quantile(plain, [0.025, 0.975])
    assert fast.value == pytest.approx(50 * (scores["a"].mean() + scores["b"].mean()))
    assert fast.low == pytest.approx(low, abs=0.3) and fast.high == pytest.approx(high, abs=0.3)


def test_scores_that_are_no_booleans_are_resampled_too():
    rng = np.random.default_rng(0)
    scores = {"a": rng.normal(0.5, 0.2, 3000)}
    low, high = 100 * (scores["a"].mean() + np.array([-1.96, 1.96]) * scores["a"].std() / np.sqrt(3000))
    got = stats.bootstrap_interval(scores, n=1000)
    assert got.low == pytest.approx(low, abs=0.1) and got.high == pytest.approx(high, abs=0.1)


def test_the_same_seed_gives_the_same_interval():
    scores = draw(np.random.default_rng(0), 1, 1.0, 0, 0, 50)[0]
    assert stats.bootstrap_interval(scores, seed=3) == stats.bootstrap_interval(scores, seed=3)


@pytest.mark.parametrize("n", [60, 400])
def test_coverage_for_a_deterministic_method(n):
    rng, repetitions = np.random.default_rng(n), 1500
    hits = 0
    for repetition in range(repetitions):
        found = stats.bootstrap_interval(draw(rng, 1, 1.0, 0, 0, n)[0], n=600, seed=repetition)
        hits += found.low <= truth(1.0, 0) <= found.high
    assert 0.93 <= hits / repetitions <= 0.97


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("spread, shared", [(0.0, 0.0), (0.03, 0.9), (0.1, 0.5), (0.3, 0.9)])
def test_coverage_with_seeds_whichever_part_of_the_variance_dominates(seeds, spread, shared):
    rng, repetitions = np.random.default_rng([seeds, int(100 * spread)]), 1000
    found = [stats.seed_interval(draw(rng, seeds, 1.0, spread, shared, 60)) for _ in range(repetitions)]
    covered = np.mean([each.low <= truth(1.0, spread) <= each.high for each in found])
    assert covered >= 0.92 and (covered <= 0.98 or seeds == 2)


def test_one_seed_gives_the_sampling_interval_and_several_a_wider_one_when_they_disagree():
    runs = draw(np.random.default_rng(0), 5, 1.0, 0.3, 0, 500)
    assert stats.interval(runs[:1]) == stats.bootstrap_interval(runs[0])
    several = stats.interval(runs)
    single = stats.interval(runs[:1])
    assert several.high - several.low > 2 * (single.high - single.low)


def test_equal_seeds_leave_only_the_sampling_variance():
    run = draw(np.random.default_rng(0), 1, 1.0, 0, 0, 500)[0]
    several, single = stats.interval([run] * 5), stats.interval([run])
    assert several.high - several.low == pytest.approx(single.high - single.low, rel=0.1)


@pytest.mark.parametrize("kind", ["two single runs", "same seeds", "single and seeds"])
def test_methods_that_do_not_differ_are_rarely_called_better(kind):
    rng, repetitions = np.random.default_rng(len(kind)), 600
    better = 0
    for _ in range(repetitions):
        runs = draw(rng, 10, 1.0, 0.0 if kind == "two single runs" else 0.05, 0.8, 60)
        if kind == "two single runs":
            first, second = {None: runs[0]}, {None: runs[1]}
        elif kind == "same seeds":
            first, second = dict(enumerate(runs[:5])), dict(enumerate(runs[5:]))
        else:
            # The single run is one draw of the same population of runs: give it no spread of its own.
            level = draw(rng, 6, 1.0, 0.0, 0.8, 60)
            first, second = {None: level[0]}, dict(enumerate(level[1:]))
        better += not stats.paired_difference(first, second, n=500).tied
    assert better / repetitions <= 0.075


def test_pairing_sees_a_difference_that_separate_intervals_hide():
    rng = np.random.default_rng(0)
    better = {"a": rng.random(2000) < 0.7}
    worse = {"a": better["a"] & (rng.random(2000) < 0.97)}
    found = stats.paired_difference({None: better}, {None: worse})
    assert 0 < found.low < found.value < found.high < 4 and not found.tied
    one, two = stats.interval([better]), stats.interval([worse])
    assert one.low < two.high
    back = stats.paired_difference({None: worse}, {None: better})
    assert back.value == pytest.approx(-found.value) and not back.tied


def test_a_method_is_tied_with_itself():
    run = draw(np.random.default_rng(0), 1, 1.0, 0, 0, 100)[0]
    assert stats.paired_difference({None: run}, {None: run}) == (0.0, 0.0, 0.0, True)


def test_methods_tested_on_different_samples_are_not_compared():
    with pytest.raises(ValueError, match="same samples"):
        stats.paired_difference({None: {"a": np.ones(3, bool)}}, {None: {"a": np.ones(4, bool)}})
    with pytest.raises(ValueError):
        stats.interval([{"a": np.ones(0, bool)}])


def pairs_of(count: int) -> list[tuple[str, str]]:
    return [(f"t{i}", f"t{j}") for i in range(count) for j in range(i)]


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_a_correlation_is_scipys(kind: str) -> None:
    rng = np.random.default_rng(0)
    members = pairs_of(8)
    x = rng.normal(size=len(members))
    y = x + rng.normal(size=len(members))
    found = stats.correlation(x, y, members, kind=kind)
    expected = {"pearson": distributions.pearsonr, "spearman": distributions.spearmanr}[kind](x, y)
    assert found.value == pytest.approx(expected.statistic)
    assert found.low < found.value < found.high and (found.n, found.groups) == (28, 8)
    with pytest.raises(ValueError, match="pearson"):
        stats.correlation(x, y, members, kind="kendall")


def test_intervals_of_correlations_between_pairs_cover_though_pairs_share_tasks() -> None:
    covered = naive = 0
    members, tasks = pairs_of(12), [f"t{i}" for i in range(12)]
    for seed in range(150):
        rng = np.random.default_rng(seed)
        # Each pair's values come mostly from its two tasks; x and y are independent.
        a, b = (dict(zip(tasks, rng.normal(size=12), strict=True)) for _ in range(2))
        x = [a[i] + a[j] + 0.3 * rng.normal() for i, j in members]
        y = [b[i] + b[j] + 0.3 * rng.normal() for i, j in members]
        found = stats.correlation(x, y, members)
        covered += found.low <= 0 <= found.high
        half = 1.96 / np.sqrt(len(members) - 3)
        naive += abs(np.arctanh(found.value)) <= half
    assert covered / 150 > 0.88 and naive / 150 < 0.75


def test_taking_out_task_effects_leaves_what_is_special_to_the_pair() -> None:
    rng = np.random.default_rng(1)
    members = pairs_of(10)
    easy = {f"t{i}": rng.normal() for i in range(10)}
    special = rng.normal(size=len(members))
    level = np.array([easy[i] + easy[j] for i, j in members])
    assert stats.correlation(level + 0.1 * special, level - 0.1 * special, members).value > 0.9
    assert stats.correlation(level + 0.1 * special, level - 0.1 * special, members, partial=True).value < -0.9
    few = stats.correlation([1, 2, 3], [1, 2, 4], [("a", "b"), ("a", "c"), ("b", "c")], partial=True)
    assert np.isnan(few.value) and np.isnan(few.low)
