"""AWD, and what every method that edits task vectors asks of its inner one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.support import assert_same, golden_experts, golden_states, merge, random_experts, random_stream

import methods
from methods.api import Experts, MergingError, Stream
from methods.awd import inner_products, interference


def test_awd_brings_task_vectors_nearer_to_orthogonal() -> None:
    experts = golden_experts()
    merged = merge("awd", experts, scale=0.5)
    weights = merged.trace["redundant_weights"]
    before, after = [], []
    for name, weight in zip(experts.names, weights, strict=True):
        vectors = experts.task_vectors(name)
        redundant = torch.tensordot(weight, vectors, 1)
        expected = experts.base[name] + 0.5 * (vectors - redundant).sum(0)
        torch.testing.assert_close(merged.state_dict()[name], expected, atol=1e-5, rtol=0)
        before.append(float(interference(inner_products(vectors)[None])))
        after.append(float(interference(inner_products(vectors - redundant)[None])))
    assert all(new <= old + 1e-6 for old, new in zip(before, after, strict=True))
    assert sum(after) < 0.5 * sum(before)
    assert merged.trace["mean_cosine_after"] == pytest.approx(sum(after) / len(after), abs=1e-5)


def test_awd_holds_the_redundant_vector_shorter_the_more_its_length_counts() -> None:
    experts = golden_experts()
    lengths = [float(merge("awd", experts, alpha=a).trace["redundant_weights"].norm()) for a in (0.0, 0.5, 100.0)]
    assert lengths[0] > lengths[1] > lengths[2] and lengths[2] < 0.05


def test_awd_leaves_one_task_as_it_is() -> None:
    base, tuned = golden_states()
    experts = Experts.from_state_dicts(base, {"t0": tuned["t0"]})
    assert_same(merge("awd", experts, scale=1.0).state_dict(), tuned["t0"])


def test_awd_asks_for_the_access_of_its_inner_method_and_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(inner: str, experts: Experts, stream: Stream, **keywords: Any) -> Any:
        return methods.get(inner)(experts, stream, steps=2)

    made = methods.describe("awd")
    assert made.access_for({}).describe() == "none"
    assert made.access_for({"inner": "adamerging"}).describe() == "unlabelled test"
    monkeypatch.setattr("methods.tools.inner.run", quick)
    experts = random_experts(tasks=2)
    merged = methods.get("awd")(experts, random_stream(experts.tasks, draws=4), inner="adamerging", steps=10)
    assert "coefficients" in merged.trace and merged.experts is experts


def test_editing_methods_refuse_to_pass_the_experts_through() -> None:
    experts = random_experts(tasks=2)
    for name in ("dare", "awd"):
        with pytest.raises(MergingError, match=f"inner='individual' reads the experts as they are, and {name}"):
            methods.get(name)(experts, inner="individual")
