"""Adam on a quadratic with few of its products ends where Adam with all of them does."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.support import random_experts
from torch import Tensor

from methods.tools import interference, quadratic
from methods.tools.spectral import sum_vector
from methods.wudi import task_moments

STEPS, LR = 300, 1e-5


def plain(start: Tensor, c: Tensor, r: Tensor, steps: int = STEPS) -> Tensor:
    """torch's own Adam, every gradient computed, in float64."""
    start, c, r = (t.double() for t in (start, c, r))
    merged = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([merged], lr=LR)
    for _ in range(steps):
        merged.grad = 2 * ((merged.detach() - start) @ c + r)
        optimiser.step()
    return merged.detach().float()


def quadratic_of(m: int, n: int, tasks: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Start, C and R of task vectors of falling spectra, rows a hundredfold apart, entries like experts'."""
    generator = torch.Generator().manual_seed(seed)
    fall = torch.arange(1, n + 1) ** -0.7
    size = torch.logspace(-1, 1, m)[torch.randperm(m, generator=generator)]
    shared = torch.linalg.qr(torch.randn(n, n, generator=generator))[0]
    vectors = [
        3e-4 * math.sqrt(n) * size[:, None] * ((torch.randn(m, n, generator=generator) * fall / fall.norm()) @ shared)
        for _ in range(tasks)
    ]
    start = torch.stack(vectors).sum(0)
    return start, *interference.moments(start, ((v, v, v) for v in vectors))


@pytest.mark.parametrize(("m", "n"), [(300, 96), (64, 160)])
def test_few_products_end_where_all_of_them_do(m: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a fifth of one step of Adam at most, of way of some hundred, with less than half of the products."""
    asked: list[int] = []
    check = quadratic.miss
    monkeypatch.setattr(quadratic, "miss", lambda *values: asked.append(1) or check(*values))
    start, c, r = quadratic_of(m, n)
    found, expected = quadratic.descend(start, c.clone(), r, STEPS, LR), plain(start, c, r)
    assert float((found - expected).abs().max()) < 0.2 * LR
    assert float((expected - start).abs().max()) > 50 * LR
    groups = math.ceil(m / max(quadratic.ROWS, quadratic.ENTRIES // n))
    assert len(asked) / groups + quadratic.FIRST < STEPS / 2


@pytest.mark.parametrize("steps", [0, 1, 4, 7])
def test_any_number_of_steps_is_taken(steps: int) -> None:
    start, c, r = quadratic_of(20, 8)
    expected = plain(start, c, r, steps)
    torch.testing.assert_close(quadratic.descend(start, c, r, steps, LR), expected, atol=2e-8, rtol=1e-6)


def test_what_is_not_smooth_is_computed_at_every_step() -> None:
    assert [quadratic.further(8.0, missed) for missed in (math.nan, math.inf, 1e9)] == [1.0, 1.0, 4.0]
    assert quadratic.further(8.0, 0.0) == quadratic.further(8.0, 1e-30) == 12.0
    assert quadratic.further(20.0, 0.0) == quadratic.FARTHEST


def test_a_start_without_slope_stays_where_it_is() -> None:
    start, c, r = quadratic_of(20, 8)
    for inputs in (c, torch.zeros_like(c)):
        assert torch.equal(quadratic.descend(start, inputs, torch.zeros_like(r), STEPS, LR), start)


def test_tall_and_wide_matrices_have_the_moments_of_the_definition() -> None:
    experts = random_experts(3)
    for name in interference.block_weights(experts):
        start = sum_vector(experts, name).double()
        vectors = experts.task_vectors(name).double()
        grams = [v.T @ v / v.square().sum() for v in vectors]
        c, r = task_moments(experts, name, start)
        torch.testing.assert_close(c, torch.stack(grams).sum(0))
        expected = torch.stack([(start - v) @ g for v, g in zip(vectors, grams, strict=True)]).sum(0)
        torch.testing.assert_close(r, expected, atol=1e-9, rtol=1e-6)
