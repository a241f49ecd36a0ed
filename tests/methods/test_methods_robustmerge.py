"""RobustMerge: adapters in, one model out, whatever their factors are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.support import assert_same, golden_experts, merge
from torch import Tensor

from methods.api import Experts, Merged, MergingError, NotApplicable
from methods.robustmerge import fuse


def adapters(count: int = 3, rank: int = 4, seed: int = 0) -> dict[str, dict[str, tuple[Tensor, Tensor, float]]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"t{k}": {"fc": (torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator), 2.0)}
        for k in range(count)
    }


def lora_experts(given: dict[str, dict[str, tuple[Tensor, Tensor, float]]]) -> Experts:
    base = {"fc.weight": torch.ones(5, 6), "other.weight": torch.ones(5, 6), "free": torch.ones(3)}
    return Experts.from_lora(base, given)


def test_robustmerge_says_that_it_needs_adapters() -> None:
    with pytest.raises(NotApplicable, match="LoRA"):
        merge("robustmerge", golden_experts())


def test_robustmerge_gives_one_model_and_applies_the_adapters_scale(tmp_path: Path) -> None:
    experts = lora_experts(adapters())
    merged = merge("robustmerge", experts)
    assert merged.storage == 0 and not merged.needs_task
    change = 2.0 * merged.extra["fc.lora_B.weight"] @ merged.extra["fc.lora_A.weight"]
    torch.testing.assert_close(merged.state_dict()["fc.weight"], 1 + change)
    assert torch.equal(merged.state_dict()["free"], torch.ones(3))
    merged.save(tmp_path / "merged.safetensors")
    assert_same(Merged.load(tmp_path / "merged.safetensors", experts).state_dict(), merged.state_dict(), atol=0)


def test_robustmerge_does_not_depend_on_how_a_scale_is_split_from_its_factor() -> None:
    given = adapters()
    folded = {
        t: {m: (a, b * (s / (k + 1)), float(k + 1)) for m, (a, b, s) in modules.items()}
        for k, (t, modules) in enumerate(given.items())
    }
    expected = merge("robustmerge", lora_experts(given)).state_dict()
    assert_same(merge("robustmerge", lora_experts(folded)).state_dict(), expected, atol=1e-5)


def test_robustmerge_stands_empty_directions_and_missing_modules() -> None:
    given = adapters()
    a, b, scale = given["t0"]["fc"]
    given["t0"]["fc"] = (torch.cat([a[:1], torch.zeros(3, 6)]), torch.zeros_like(b), scale)
    given["t1"]["other"] = given["t1"].pop("fc")
    state = merge("robustmerge", lora_experts(given)).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    assert not torch.equal(state["other.weight"], torch.ones(5, 6))
    assert not torch.equal(state["fc.weight"], torch.ones(5, 6))
    with pytest.raises(MergingError, match="rank"):
        merge("robustmerge", lora_experts({"t0": adapters(1, 4)["t0"], "t1": adapters(1, 3)["t0"]}))


def test_robustmerge_lifts_the_scales_of_strong_directions_to_the_clamp() -> None:
    factors = torch.tensor([[[8.0, 8.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0], [7.9, 4.0, 4.0, 4.0]]])
    a, b = fuse(factors, torch.ones(1, 2, 3), keep=0.5, clamp=0.2, weight=1.0)
    assert torch.equal(a[1], factors[0, 1]) and a[2].count_nonzero() == 1
    torch.testing.assert_close(b, torch.ones(2, 3))
