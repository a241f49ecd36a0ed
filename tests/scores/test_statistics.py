import numpy as np
import pytest
from scipy import stats as distributions

from benchmark.report import critical_difference as critical
from benchmark.scores import simulation as simulate
from benchmark.scores import statistics as stats
from benchmark.scores.simulation import World


def draw(seeds, spread, shared, n, seed=0):
    return simulate.draw(np.random.default_rng(seed), World("", seeds, n, spread, shared), seeds)


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


def test_scores_that_differ_by_rounding_share_a_rank_and_counts_only_when_equal():
    rows = [{"a": 40.0}, {"a": 40.00001}, {"a": 39.99}, {"a": 40.0}]
    assert stats.mean_ranks(rows, {"a": True}) == [2.0, 2.0, 4.0, 2.0]
    assert stats.mean_ranks(rows, {"a": True}, exact=["a"]) == [2.5, 1.0, 4.0, 2.5]
    assert stats.mean_ranks(rows, {"a": False}) == [3.0, 3.0, 1.0, 3.0]
    assert stats.mean_ranks([{"a": 0.0}, {"a": 0.0}, {"a": 1e-9}], {"a": True}) == [2.5, 2.5, 1.0]


def test_friedman_knows_the_same_ties_as_the_ranks():
    tasks = {f"t{i}": True for i in range(8)}
    noise = [{task: 40.0 + 1e-5 * ((i + m) % 3) for i, task in enumerate(tasks)} for m in range(3)]
    assert stats.friedman(noise, tasks).p == 1.0 and stats.friedman(noise, tasks, list(tasks)).p < 1.0


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
    scores = draw(1, 0, 0, 50)[0]
    assert stats.bootstrap_interval(scores, seed=3) == stats.bootstrap_interval(scores, seed=3)


# A fast slice of `python -m benchmark.scores.simulation`, whose 4,000 repetitions a number stand in docs/statistics.md:
# the bounds here are those of the truth, 93 to 97 % and 5 %, and three standard errors.
@pytest.mark.parametrize("world", [World("1 seed", 1, 60), World("1 seed", 1, 300, tasks=3)])
def test_coverage_for_a_deterministic_method(world):
    assert 0.93 - 0.027 <= simulate.coverage(world, 600, resamples=500) <= 0.97 + 0.02


@pytest.mark.parametrize("world", [World("5 seeds", 5, 60, *given) for given in ((0.03, 0.8), (0.1, 0.3), (0.3, 0.8))])
def test_coverage_with_seeds_whichever_part_of_the_variance_dominates(world):
    assert 0.93 - 0.03 <= simulate.coverage(world, 500) <= 0.97 + 0.02


def test_two_seeds_cover_no_less():
    assert simulate.coverage(World("2 seeds", 2, 60, 0.1, 0.3), 500) >= 0.92


@pytest.mark.parametrize("world", [World("1 seed", 1, 60, 0, 0.6), World("5 seeds", 5, 60, 0.05, 0.6)])
def test_methods_that_do_not_differ_are_rarely_called_better(world):
    assert simulate.differing(world, 400, resamples=500) <= 0.05 + 0.035


@pytest.mark.parametrize("world", [World("1 seed", 1, 300, 0, 0.6), World("5 seeds", 5, 60, 0.02, 0.6)])
def test_methods_that_differ_are_told_apart(world):
    assert simulate.differing(world, 100, gap=0.06, resamples=500) >= 0.9


def test_a_percentile_bootstrap_over_five_seeds_would_not_do():
    world, rng = World("5 seeds", 5, 60, 0.3, 0.8), np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        means = np.array([stats.bootstrap_interval(run, n=2).value for run in simulate.draw(rng, world, 5)])
        low, high = np.quantile(means[rng.integers(0, 5, (500, 5))].mean(axis=1), [0.025, 0.975])
        hits += low <= simulate.truth(world) <= high
    assert hits / 300 < 0.9


def test_one_seed_gives_the_sampling_interval_and_several_a_wider_one_when_they_disagree():
    runs = draw(5, 0.3, 0, 500)
    assert stats.interval(runs[:1]) == stats.bootstrap_interval(runs[0])
    several = stats.interval(runs)
    single = stats.interval(runs[:1])
    assert several.high - several.low > 2 * (single.high - single.low)


def test_equal_seeds_leave_only_the_sampling_variance():
    run = draw(1, 0, 0, 500)[0]
    several, single = stats.interval([run] * 5), stats.interval([run])
    assert several.high - several.low == pytest.approx(single.high - single.low, rel=0.1)


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
    run = draw(1, 0, 0, 100)[0]
    assert stats.paired_difference({None: run}, {None: run}) == (0.0, 0.0, 0.0, True)


def test_methods_tested_on_different_samples_are_not_compared():
    with pytest.raises(ValueError, match="same samples"):
        stats.paired_difference({None: {"a": np.ones(3, bool)}}, {None: {"a": np.ones(4, bool)}})
    with pytest.raises(ValueError):
        stats.interval([{"a": np.ones(0, bool)}])


def test_all_pairs_at_once_are_the_pairs_one_by_one():
    runs = draw(16, 0.1, 0.6, 200)
    rows = [
        dict(enumerate(runs[:5])),
        dict(enumerate(runs[5:10])),
        {None: runs[10]},
        {None: runs[11]},
        dict(zip((1, 7, 9), runs[12:15], strict=True)),
    ]
    value, half = stats.pairwise(rows)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            if i != j:
                wanted = stats.paired_difference(first, second, n=20000)
                assert value[i, j] == pytest.approx(wanted.value, abs=1e-4)
                assert half[i, j] == pytest.approx((wanted.high - wanted.low) / 2, rel=0.03)
    assert np.allclose(value, -value.T) and np.allclose(half, half.T) and np.allclose(np.diag(half), 0)


def test_rank_intervals_hold_true_ranks_and_part_what_differs():
    held, apart = simulate.ranks(World("1 seed", 1, 400, 0, 0.6), 30)
    assert held >= 0.95 and apart <= 0.05
    better = {"a": np.random.default_rng(0).random(4000) < 0.9}
    rows = [{None: better}, {None: {"a": ~better["a"]}}, {None: {"a": ~better["a"] ^ False}}]
    assert stats.rank_intervals(rows) == [(1, 1), (2, 3), (2, 3)]
    assert stats.rank_intervals(rows[:1]) == [(1, 1)] and stats.rank_intervals([]) == []


def test_the_test_of_ranks_is_that_of_scipy_and_demsar():
    rng = np.random.default_rng(0)
    higher = {f"t{k}": k % 2 == 0 for k in range(8)}
    table = rng.random((5, 8)) + np.arange(5)[:, None]
    signs = np.array([1 if up else -1 for up in higher.values()])
    rows = [dict(zip(higher, signs * row, strict=True)) for row in table]
    found = stats.friedman(rows, higher)
    wanted = distributions.friedmanchisquare(*table)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert found.critical_difference == pytest.approx(2.728 * np.sqrt(5 * 6 / (6 * 8)), rel=1e-3)  # Demsar, table 5
    assert stats.friedman(rows[:2], higher) is None
    few = {task: higher[task] for task in list(higher)[:7]}
    assert stats.friedman(rows, few) is None
    assert stats.friedman([rows[0]] * 3, higher).p == 1.0


def test_scores_of_the_same_samples_are_pooled_sample_by_sample():
    pooled = stats.pooled({"a": np.array([True, False]), "b": np.array([0.5, 0.5])})
    assert pooled["all tasks"].tolist() == [0.75, 0.25]


def test_changes_are_relative_to_the_expert_and_negative_where_worse():
    found = stats.changes({"a": 45.0, "b": 2.0, "c": 1.0}, {"a": 50.0, "b": 1.0, "c": 0.0}, {"a": 1, "b": 0, "c": 1})
    assert found["a"] == -10 and found["b"] == -100 and np.isnan(found["c"])


def test_the_critical_difference_diagram_is_drawn_for_enough_methods_and_tasks(tmp_path):
    from helpers.records import make_record, make_spec

    from benchmark.board import rows
    from benchmark.report.plots import save

    tasks = [f"t{k}" for k in range(8)]
    records = [
        make_record(name, tasks=tasks, suite_tasks=tasks, accuracy=level, spec=make_spec(name, suite="of-eight"))
        for name, level in (("ties", 0.5), ("emr", 0.7), ("wudi", 0.72), ("individual", 0.9))
    ]
    (board,) = rows.boards(records)
    names = critical.chosen(board)
    ranked = board.rows[board.rows["row"] == "method"]
    assert names == ranked["method"].tolist() and len(names) == 3, "reference rows have no rank"
    figure = critical.diagram(board, names)
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    for row in ranked.to_dict("records"):
        assert row["method"] in said and f"{row['mean_rank']:.1f}" in said
    assert save(figure, tmp_path / "ranks.png").stat().st_size > 5000
    assert critical.diagram(board, names[:2]) is None
