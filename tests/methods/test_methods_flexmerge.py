"""FlexMerge: how much it merges, what it stores, and its ends."""

from __future__ import annotations

import pytest
import torch
from helpers.support import assert_same, golden_experts, merge

import methods
from methods.api import Experts


@pytest.mark.parametrize("similarity", ["merged", "constituents"])
def test_flexmerge_stops_at_the_size_it_was_given_and_stores_that_much(similarity: str) -> None:
    experts = golden_experts("edge_seed0")
    visual = 4 * sum(experts.base[n].numel() for n in experts.names if bool(experts.task_vectors(n).any()))
    sizes = []
    for size in (4.0, 2.5, 1.5, 1.0):
        merged = merge("flexmerge", experts, size=size, similarity=similarity)
        sizes.append(merged.trace["size"])
        assert merged.trace["size"] <= size + 1e-9
        assert merged.storage == pytest.approx((merged.trace["size"] - 1) * visual, abs=1)
    assert sizes[0] == 4.0 and sizes[-1] == 1.0 and sizes == sorted(sizes, reverse=True)


def test_flexmerge_at_its_ends_is_the_experts_and_the_inner_method() -> None:
    experts = golden_experts()
    for task in experts.tasks:
        assert_same(merge("flexmerge", experts, size=4.0).state_dict(task), dict(experts.expert(task)), atol=0)
    assert_same(merge("flexmerge", experts).state_dict(), merge("weight_average", experts).state_dict())
    expected = merge("task_arithmetic", experts, scale=1.5 / 4).state_dict()
    assert_same(merge("flexmerge", experts, inner="ta", scale=1.5).state_dict(), expected)
    expected = merge("ties", experts, keep=0.2, merge="mean", scale=1.0).state_dict()
    assert_same(merge("flexmerge", experts, inner="ties", keep=0.2, scale=1.0).state_dict(), expected)


def test_flexmerge_links_constituents_as_its_code_names_it() -> None:
    angles = torch.tensor([0.0, 0.2, 0.9, 1.75])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    experts = Experts.from_state_dicts({"w": torch.zeros(2)}, {f"t{k}": {"w": p} for k, p in enumerate(points)})
    second = {}
    for link in ("single", "complete", "average"):
        merged = merge("flexmerge", experts, merges=2, similarity="constituents", linkage=link)
        second[link] = merged.trace["merge_log"][1][1]
    assert second["single"] == pytest.approx(float(torch.tensor(0.85).cos()), abs=1e-5)
    assert second["complete"] == pytest.approx(float(torch.tensor(0.7).cos()), abs=1e-5)
    assert second["single"] <= second["average"] <= second["complete"]


def test_flexmerge_keeps_pairs_apart_under_emr() -> None:
    experts = golden_experts()
    merged = merge("flexmerge", experts, inner="emr", merges=1)
    assert merged.trace["size"] == 4.0
    for task in experts.tasks:
        assert_same(merged.state_dict(task), dict(experts.expert(task)), atol=0)


def test_flexmerge_keeps_the_experts_of_a_block_whose_entries_are_all_trimmed() -> None:
    torch.manual_seed(0)
    base = {"proj": torch.zeros(20, 20), "ln_post.weight": torch.ones(20)}
    tuned = {
        f"t{k}": {"proj": torch.randn(20, 20), "ln_post.weight": 1 + 0.001 * (k + 1) * torch.ones(20)} for k in range(3)
    }
    experts = Experts.from_state_dicts(base, tuned)
    apart = methods.get("flexmerge")(experts, inner="ties", keep=0.2, size=3.0)
    for task, state in tuned.items():
        assert all(torch.equal(t, state[n]) for n, t in apart.state_dict(task).items())
    together = methods.get("flexmerge")(experts, inner="ties", keep=0.2)
    assert torch.equal(together.state_dict("t0")["ln_post.weight"], base["ln_post.weight"])
