"""Merging LoRA adapters in a space that they share: what it loses, what it does not hang on, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.support import assert_same, merge
from torch import Tensor

from methods.api import Experts, MergingError
from methods.tools.adapters import elected, joint_svd

Adapters = dict[str, dict[str, tuple[Tensor, Tensor, float]]]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("knots", {}),
    ("knots", {"inner": "task_arithmetic", "merge": "sum"}),
    ("core_space", {}),
    ("core_space", {"inner": "tsv_m"}),
    ("core_space", {"inner": "cart"}),
    ("core_space", {"inner": "task_arithmetic", "isotropic": True}),
    ("dc_merge", {"smoothing": "average", "keep": 0.2}),
    ("dc_merge", {"smoothing": "linear", "keep": 0.2}),
]


def adapters(count: int = 3, rank: int = 2, seed: int = 0) -> Adapters:
    generator = torch.Generator().manual_seed(seed)

    def one(rows: int, columns: int) -> tuple[Tensor, Tensor, float]:
        return torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator), 2.0

    return {f"t{k}": {"up": one(9, 8), "down": one(7, 10)} for k in range(count)}


def lora_experts(given: Adapters) -> Experts:
    generator = torch.Generator().manual_seed(1)
    shapes = {"up.weight": (9, 8), "down.weight": (7, 10), "other.weight": (9, 8), "free": (3,)}
    return Experts.from_lora({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, given)


def vectors(experts: Experts, name: str) -> Tensor:
    """The adapters' products ``[K, m, n]``, float64."""
    return torch.stack([(s * b.double() @ a.double()) for a, b, s in (experts.lora(t)[name] for t in experts.tasks)])


@pytest.mark.parametrize(("name", "keywords"), CASES, ids=str)
def test_only_adapted_tensors_change_and_half_precision_adapters_merge(name: str, keywords: dict[str, Any]) -> None:
    given = adapters()
    for modules in given.values():
        modules.update({m: (a.bfloat16(), b.half(), s) for m, (a, b, s) in modules.items()})
    experts = lora_experts(given)
    state = merge(name, experts, **keywords).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    assert {n for n in state if not torch.equal(state[n], experts.base[n])} == {"up.weight", "down.weight"}


@pytest.mark.parametrize(("name", "keywords"), CASES, ids=str)
def test_merges_of_adapters_hang_on_their_products_alone(name: str, keywords: dict[str, Any]) -> None:
    """Not on the order of tasks, on a scale's split, nor (but for the core, which is made of them) on the factors."""
    given = adapters()
    expected = merge(name, lora_experts(given), **keywords).state_dict()
    turned = dict(reversed(given.items()))
    assert_same(merge(name, lora_experts(turned), **keywords).state_dict(), expected, atol=1e-4)
    if name == "core_space":
        return
    folded = {
        t: {m: (s * a.flip(0) / 3, b.flip(1), 3.0) for m, (a, b, s) in modules.items()} for t, modules in given.items()
    }
    assert_same(merge(name, lora_experts(folded), **keywords).state_dict(), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "keywords"), CASES, ids=str)
def test_a_module_that_a_task_does_not_adapt_or_left_at_zero_merges(name: str, keywords: dict[str, Any]) -> None:
    given = adapters()
    del given["t1"]["down"]
    a, b, scale = given["t2"]["up"]
    given["t2"]["up"] = (a, torch.zeros_like(b), scale)
    state = merge(name, lora_experts(given), **keywords).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    empty = {t: {"up": (x, 0 * y, s)} for t, (x, y, s) in ((t, m["up"]) for t, m in adapters().items())}
    experts = lora_experts(empty)
    assert_same(merge(name, experts, **keywords).state_dict(), dict(experts.base), atol=0)


@pytest.mark.parametrize("name", ["knots", "core_space"])
def test_the_sum_in_a_shared_space_is_the_sum(name: str) -> None:
    experts = lora_experts(adapters())
    more = {"merge": "sum"} if name == "knots" else {}
    state = merge(name, experts, inner="task_arithmetic", scale=0.5, **more).state_dict()
    for each in ("up.weight", "down.weight"):
        change = 0.5 * vectors(experts, each).sum(0).float()
        torch.testing.assert_close(state[each] - experts.base[each], change, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "keywords"),
    [("knots", {}), ("core_space", {"inner": "task_arithmetic"}), ("dc_merge", CASES[-1][1])],
    ids=str,
)
def test_a_module_that_a_task_does_not_adapt_counts_as_one_that_it_left_at_zero(
    name: str, keywords: dict[str, Any]
) -> None:
    missing, zero = adapters(), adapters()
    del missing["t1"]["down"]
    a, b, scale = zero["t1"]["down"]
    zero["t1"]["down"] = (a, torch.zeros_like(b), scale)
    found, expected = (merge(name, lora_experts(each), **keywords).state_dict() for each in (missing, zero))
    assert_same(found, expected, atol=1e-5)


def test_tsv_m_in_core_space_is_tsv_m_where_nothing_is_lost() -> None:
    experts = lora_experts(adapters(3, rank=3))  # more directions than a matrix has, so that two of three a task stay
    core = merge("core_space", experts, inner="tsv_m").state_dict()
    assert_same(core, merge("tsv_m", experts).state_dict(), atol=1e-4)


def test_cart_in_core_space_adds_the_leading_directions_around_the_mean() -> None:
    experts = lora_experts(adapters())
    state = merge("core_space", experts, inner="cart", keep=0.3, cart_scale=0.7).state_dict()
    for name in ("up.weight", "down.weight"):
        changes = vectors(experts, name)
        expected = changes.mean(0)
        for change in changes - changes.mean(0):
            u, s, vh = torch.linalg.svd(change)
            expected = expected + 0.7 * (u[:, :2] * s[:2]) @ vh[:2]  # ceil(0.3 * 6) directions
        found = (state[name] - experts.base[name]).double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_one_adapter_in_a_shared_space_is_itself() -> None:
    experts = lora_experts(adapters(1))
    for name, keywords in (("knots", {"keep": 1.0, "scale": 1.0}), ("core_space", {"keep": 1.0}),
                           ("core_space", {"inner": "tsv_m"}), ("core_space", {"inner": "cart"})):  # fmt: skip
        assert_same(merge(name, experts, **keywords).state_dict(), dict(experts.expert("t0")), atol=1e-5)


@pytest.mark.parametrize("ranks", [(2, 2, 2), (3, 0, 1), (8, 8, 5)], ids=str)
@pytest.mark.parametrize("shape", [(9, 8), (4, 11)], ids=str)
def test_the_joint_decomposition_of_factors_is_that_of_their_products(ranks, shape) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    factors = [(drawn(rank, shape[1]), drawn(shape[0], rank), 0.5 + k) for k, rank in enumerate(ranks)]
    products = torch.cat([scale * b @ a for a, b, scale in factors], 1)
    u, s, v = joint_svd(factors)
    assert v.shape == (3, len(s), shape[1])
    torch.testing.assert_close((u * s) @ torch.cat(list(v), 1), products)
    wanted = torch.linalg.svdvals(products)
    torch.testing.assert_close(s[: len(wanted)], wanted[: len(s)], atol=1e-12, rtol=1e-9)
    kept = s > 1e-9
    torch.testing.assert_close(u[:, kept].mT @ u[:, kept], torch.eye(int(kept.sum()), dtype=torch.float64))


def test_knots_trims_all_layers_together_and_core_space_each_alone() -> None:
    given = adapters()
    for modules in given.values():
        a, b, s = modules["down"]
        modules["down"] = (a, 1e-2 * b, s)
    experts = lora_experts(given)
    together, apart = (
        merge("knots", experts, keep=0.2).state_dict(),
        merge("core_space", experts, keep=0.2).state_dict(),
    )
    assert torch.equal(together["down.weight"], experts.base["down.weight"])
    assert not torch.equal(apart["down.weight"], experts.base["down.weight"])


def test_core_space_gives_a_flat_spectrum_where_asked() -> None:
    experts = lora_experts(adapters())
    state = merge("core_space", experts, inner="task_arithmetic", isotropic=True).state_dict()
    for name in ("up.weight", "down.weight"):
        values = torch.linalg.svd(vectors(experts, name).sum(0))[1]
        found = torch.linalg.svd((state[name] - experts.base[name]).double())[1]
        torch.testing.assert_close(found[:6], values[:6].mean().expand(6), atol=1e-4, rtol=1e-4)
        assert float(found[6:].sum()) < 1e-4


@pytest.mark.parametrize("smoothing", ["average", "linear"])
def test_dc_merge_smooths_the_spectrum_and_keeps_its_sum(smoothing: str) -> None:
    experts = lora_experts(adapters(1))
    state = merge("dc_merge", experts, smoothing=smoothing, keep=1.0, ratio=1.5).state_dict()
    for name in ("up.weight", "down.weight"):
        values = torch.linalg.svd(vectors(experts, name)[0])[1][:2]
        found = torch.linalg.svd((state[name] - experts.base[name]).double())[1][:2]
        first = min(1.5, float(values[0] / values[1])) if smoothing == "linear" else 1.0
        weights = torch.tensor([first, 1.0], dtype=torch.float64)
        torch.testing.assert_close(found, values.sum() * weights / weights.sum(), atol=1e-4, rtol=1e-4)


def test_dc_merge_refuses_more_directions_than_a_matrix_has() -> None:
    with pytest.raises(MergingError, match="up.weight have 10 directions together and its matrix 8"):
        merge("dc_merge", lora_experts(adapters(5)), smoothing="average")
    assert merge("dc_merge", lora_experts(adapters(5))).state_dict()["up.weight"].isfinite().all()


def test_ties_in_memory_elects_over_all_parts() -> None:
    one = torch.tensor([[5.0, -1.0, 0.5], [-5.0, -4.0, 0.25]])
    two = torch.tensor([[3.0], [2.0]])
    # The two largest of four entries stay, and the one at the limit; 5 and -5 cancel, and of all signs one is + and one
    # is -: neither, so the negative.
    found = elected([one, two], 0.5)
    assert found[0].tolist() == [[0.0, -1.0, 0.0], [-5.0, -4.0, 0.0]] and found[1].tolist() == [[3.0], [2.0]]
    assert elected([one, two], 1.0)[0].tolist() == [[5.0, -1.0, 0.5], [0.0, -4.0, 0.25]]
