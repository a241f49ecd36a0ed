"""Hidden units matched between experts: the authors' permutations, and what a permutation may not change."""

from __future__ import annotations

import pytest
import torch
from helpers.support import (
    Encoder,
    about,
    assert_state,
    golden,
    golden_experts,
    golden_states,
    proved,
    random_experts,
)
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import methods
from methods import rebasin
from methods.api import Experts, NotApplicable

STEMS = ("rebasin_weight_matching__mlp_3hidden_noise0.5__seed0", "rebasin_weight_matching__vit_mlp_experts0-1__seed0")


@pytest.mark.parametrize("stem", STEMS)
def test_units_are_matched_as_the_authors_code_matches_them(stem: str) -> None:
    stored = golden(stem)
    groups = [[(name, axis) for name, axis in group] for group in about(stem)["hyperparameters"]["groups"]]
    a, b = ({n[2:]: t for n, t in stored.items() if n.startswith(f"{k}/")} for k in "ab")
    assert sorted(map(sorted, rebasin.hidden_units({n: t.shape for n, t in a.items()}))) == sorted(map(sorted, groups))
    orders = rebasin.match(a, b, groups)
    for number, order in enumerate(orders):
        assert torch.equal(order, stored[f"perm/{number}"]) and not torch.equal(order, torch.arange(len(order)))
    merged = methods.get("rebasin")(Experts.from_state_dicts(a, {"a": a, "b": b})).state_dict()
    expected = {n: t for n, t in stored.items() if "/" not in n}
    assert_state(merged, expected, {n: (a[n] + b[n]) / 2 for n in a}, 1e-6)
    proved("rebasin", max(float((merged[n] - t).abs().max()) for n, t in expected.items()), 1e-6)


def shuffled(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same function, its MLPs' hidden units in another order."""
    groups = rebasin.hidden_units({n: t.shape for n, t in state.items()})
    generator = torch.Generator().manual_seed(seed)
    return rebasin.permuted(
        state, groups, [torch.randperm(state[g[0][0]].shape[0], generator=generator) for g in groups]
    )


@pytest.mark.parametrize("count", [2, 3])
def test_experts_that_differ_in_the_order_of_their_units_alone_merge_to_one_function(count: int) -> None:
    base, tuned = golden_states()
    states = {"t0": tuned["t0"], **{f"t{k}": shuffled(tuned["t0"], k) for k in range(1, count)}}
    experts = Experts.from_state_dicts(base, states, encoder=Encoder())
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = experts.forward(experts.state("t0"), "t0", images)
    plain = experts.forward(methods.get("weight_average")(experts).state_dict(), "t0", images)
    assert (plain - expected).abs().max() > 1e-2
    merged = methods.get("rebasin")(experts).state_dict()
    torch.testing.assert_close(experts.forward(merged, "t0", images), expected, atol=1e-5, rtol=1e-4)


def test_experts_of_one_base_are_matched_already() -> None:
    experts = golden_experts()
    mean = methods.get("weight_average")(experts).state_dict()
    near = {t: {n: experts.base[n] + 0.1 * experts.task_vector(n, t) for n in experts.names} for t in experts.tasks}
    gentle = Experts.from_state_dicts(dict(experts.base), near)
    found = methods.get("rebasin")(gentle).state_dict()
    for name, value in methods.get("weight_average")(gentle).state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    assert mean.keys() == found.keys()


@pytest.mark.parametrize("size", [1, 2, 7, 40])
@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0, 3.0])
def test_units_are_in_order_where_no_assignment_gains(size: int, noise: float) -> None:
    """The quick proof never claims what the assignment denies, and finds it in every order that cannot be bettered."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(size, 12, generator=generator) * torch.linspace(0.1, 5, size)[:, None]
    likeness = rows @ (rows + noise * torch.randn(rows.shape, generator=generator)).T
    best = torch.as_tensor(linear_sum_assignment(likeness.numpy(), maximize=True)[1])
    assert rebasin.in_order(likeness) == torch.equal(best, torch.arange(size))
    assert rebasin.in_order(likeness[:, best], tries=10_000)


def test_units_that_are_in_order_are_not_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """An assignment of the 1,536 units of a small tower takes seconds, and there are 96 of them."""
    monkeypatch.setattr(rebasin, "linear_sum_assignment", lambda *_, **__: pytest.fail("units were in order"))
    experts = golden_experts()
    near = {t: {n: experts.base[n] + 0.1 * experts.task_vector(n, t) for n in experts.names} for t in experts.tasks}
    methods.get("rebasin")(Experts.from_state_dicts(dict(experts.base), near))


def test_layers_that_share_their_units_with_others_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    shapes = {n: t.shape for n, t in net.state_dict().items() if t.is_floating_point()}
    with pytest.raises(NotApplicable, match="hidden units"):
        rebasin.hidden_units(shapes)
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    groups = rebasin.hidden_units({n: t.shape for n, t in plain.state_dict().items()})
    assert groups == [[("0.weight", 0), ("0.bias", 0), ("2.weight", 1)]]
    assert len(rebasin.hidden_units({n: t.shape for n, t in random_experts().base.items()})) == 2
