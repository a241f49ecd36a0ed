"""Weight averaging, task arithmetic and TIES: their limits, signs, ties and precisions."""

from __future__ import annotations

import pytest
import torch
from helpers.support import (
    assert_same,
    golden_experts,
    golden_states,
)

import methods
from methods.api import Experts, MergingError

DATA_FREE = ["weight_average", "task_arithmetic", "ties"]


def test_order_of_tasks_does_not_change_ties() -> None:
    base, tuned = golden_states(dtype=torch.float16)
    for merge in ("sum", "mean", "max"):
        ordered = methods.get("ties")(Experts.from_state_dicts(base, tuned), merge=merge).state_dict()
        turned = dict(reversed(list(tuned.items())))
        assert_same(ordered, methods.get("ties")(Experts.from_state_dicts(base, turned), merge=merge).state_dict())


@pytest.mark.parametrize("name", ["task_arithmetic", "ties"])
def test_scale_zero_returns_the_base(name: str) -> None:
    base, tuned = golden_states()
    assert_same(methods.get(name)(Experts.from_state_dicts(base, tuned), scale=0.0).state_dict(), base, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_averaging_equal_experts_returns_the_expert(count: int) -> None:
    base, tuned = golden_states()
    same = {f"t{k}": tuned["t0"] for k in range(count)}
    assert_same(methods.get("weight_average")(Experts.from_state_dicts(base, same)).state_dict(), tuned["t0"])


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_inputs_agree_to_their_precision(name: str, dtype: torch.dtype, atol: float) -> None:
    exact = methods.get(name)(golden_experts()).state_dict()
    half = methods.get(name)(golden_experts(dtype=dtype)).state_dict()
    gaps = torch.cat([(half[n] - exact[n]).abs().flatten() for n in exact])
    assert (gaps > atol).float().mean() < 0.02  # an entry next to a threshold may fall on its other side
    assert all(t.dtype == torch.float32 for t in half.values())


@pytest.mark.parametrize("name", DATA_FREE)
def test_integer_buffers_pass_through(name: str) -> None:
    base, tuned = golden_states()
    base["steps"], base["flags"] = torch.tensor(7), torch.tensor([True, False])
    for k, state in enumerate(tuned.values()):
        state["steps"], state["flags"] = torch.tensor(100 + k), torch.tensor([False, False])
    state = methods.get(name)(Experts.from_state_dicts(base, tuned)).state_dict()
    assert state["steps"].item() == 7 and state["steps"].dtype == torch.int64
    assert state["flags"].tolist() == [True, False]


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize("count", [1, 2])
def test_few_tasks_zero_vectors_and_scalars_give_finite_weights(name: str, count: int) -> None:
    base, tuned = golden_states("edge_seed0")
    state = methods.get(name)(Experts.from_state_dicts(base, dict(list(tuned.items())[:count]))).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    zero = methods.get(name)(Experts.from_state_dicts(base, {f"t{k}": dict(base) for k in range(count)}))
    assert_same(zero.state_dict(), base)


def test_keeping_everything_is_allowed() -> None:
    state = methods.get("ties")(golden_experts(), keep=1.0).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    for bad in (0, -0.1, 1.5, True):
        with pytest.raises(MergingError, match=r"keep is .* expected a fraction in \(0, 1\]"):
            methods.get("ties")(golden_experts(), keep=bad)


def test_majority_sign_decides_where_vectors_cancel() -> None:
    base = {"w": torch.zeros(6)}
    up = {"a": {"w": torch.tensor([2.0, 1, 1, 1, 0, 0])}, "b": {"w": torch.tensor([-2.0, 1, 1, 1, 0, 0])}}
    down = {t: {"w": -s["w"]} for t, s in up.items()}
    for tuned, sign in ((up, 1), (down, -1)):
        merged = methods.get("ties")(Experts.from_state_dicts(base, tuned), keep=1.0, scale=1.0)
        assert merged.state_dict()["w"].tolist() == [2 * sign] * 4 + [0, 0]


def test_the_largest_of_a_tie_that_nothing_decides_is_zero() -> None:
    base, a, b = torch.zeros(3), torch.tensor([1.0, 2.0, -3.0]), torch.tensor([-1.0, 1.0, -1.0])
    experts = Experts.from_state_dicts({"w": base}, {"a": {"w": a}, "b": {"w": b}})
    for merge, expected in (("max", [0.0, 2.0, -3.0]), ("sum", [-1.0, 3.0, -4.0]), ("mean", [-1.0, 1.5, -2.0])):
        assert methods.get("ties")(experts, keep=1.0, scale=1.0, merge=merge).state_dict()["w"].tolist() == expected
