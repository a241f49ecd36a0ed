"""Correlation of points that share members: scipy's value, and an interval that covers."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats as distributions

from benchmark.scores.correlation import correlation


def pairs_of(count: int) -> list[tuple[str, str]]:
    return [(f"t{i}", f"t{j}") for i in range(count) for j in range(i)]


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_a_correlation_is_scipys(kind: str) -> None:
    rng = np.random.default_rng(0)
    members = pairs_of(8)
    x = rng.normal(size=len(members))
    y = x + rng.normal(size=len(members))
    found = correlation(x, y, members, kind=kind)
    expected = {"pearson": distributions.pearsonr, "spearman": distributions.spearmanr}[kind](x, y)
    assert found.value == pytest.approx(expected.statistic)
    assert found.low < found.value < found.high and (found.n, found.groups) == (28, 8)
    with pytest.raises(ValueError, match="pearson"):
        correlation(x, y, members, kind="kendall")


def test_intervals_of_correlations_between_pairs_cover_though_pairs_share_tasks() -> None:
    covered = naive = 0
    members, tasks = pairs_of(12), [f"t{i}" for i in range(12)]
    for seed in range(150):
        rng = np.random.default_rng(seed)
        # Each pair's values come mostly from its two tasks; x and y are independent.
        a, b = (dict(zip(tasks, rng.normal(size=12), strict=True)) for _ in range(2))
        x = [a[i] + a[j] + 0.3 * rng.normal() for i, j in members]
        y = [b[i] + b[j] + 0.3 * rng.normal() for i, j in members]
        found = correlation(x, y, members)
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
    assert correlation(level + 0.1 * special, level - 0.1 * special, members).value > 0.9
    assert correlation(level + 0.1 * special, level - 0.1 * special, members, partial=True).value < -0.9
    few = correlation([1, 2, 3], [1, 2, 4], [("a", "b"), ("a", "c"), ("b", "c")], partial=True)
    assert np.isnan(few.value) and np.isnan(few.low)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
@pytest.mark.parametrize("partial", [False, True])
def test_a_correlation_does_not_hang_on_the_last_bits_of_its_points(kind: str, partial: bool) -> None:
    # Once a task is left out, other pairs are explained whole by their tasks: what is left of them is rounding.
    rng = np.random.default_rng(3)
    members = [*combinations("abcde", 2), ("f", "a"), ("f", "g"), ("g", "h")]
    x, y = rng.normal(60, 10, (2, len(members))).round(1)
    found = correlation(x, y, members, kind=kind, partial=partial)
    assert np.isfinite(found.low) and -1 < found.low < found.high < 1
    for _ in range(20):
        near = [values * (1 + 1e-14 * rng.normal(size=len(values))) for values in (x, y)]
        again = correlation(*near, members, kind=kind, partial=partial)
        assert tuple(again) == pytest.approx(tuple(found), abs=1e-8)
