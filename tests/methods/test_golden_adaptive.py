"""AdaRank, gradient combinations and ZipIt's matching give what the authors' code gave, not the trivial result."""

from __future__ import annotations

import random

import pytest
import torch
from helpers.support import about, assert_state, golden, golden_experts, golden_states, proved

import methods
from methods import cagrad, nash_mtl, pcgrad, zipit
from methods.api import Stream

RANKED = "adarank_tta__TA_prior0.3_r1.0_8steps__seed0"


def ranked_stream() -> Stream:
    """The batches AdaRank's golden run consumed: the generator's first 32 batches, of which SyMerge's file has 40."""
    drawn = torch.cat(list(golden("batches_symerge_seed0").values()))
    return Stream.from_batches({f"t{k}": drawn[8 * k : 8 * k + 8] for k in range(4)})


def heads() -> dict[str, torch.Tensor]:
    return {k.split("/")[1][:2]: v for k, v in golden(RANKED).items() if k.startswith("head_init/")}


def test_adarank_starts_as_the_authors_code() -> None:
    merged = methods.get("adarank")(golden_experts(heads=heads()), ranked_stream(), steps=0)
    assert_state(merged, golden("adarank_init__TA_prior0.3_r1.0__seed0"), golden_states()[0], atol=2e-6)


def test_adarank_follows_the_authors_code_update_by_update() -> None:
    stored = golden(RANKED)
    merged = methods.get("adarank")(golden_experts(heads=heads()), ranked_stream(), steps=8)
    names = about(RANKED)["names_in_param_order"]
    assert merged.trace["coefficient_rows"] == names
    found, expected = merged.trace["coefficients"], stored["merge_weight_final"].T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - 0.3).abs().max() > 1e-3
    torch.testing.assert_close(merged.trace["losses"], stored["loss_per_update"], atol=1e-4, rtol=1e-5)
    masks = {k[len("mask_final/") :]: v for k, v in stored.items() if k.startswith("mask_final/")}
    assert len(masks) == 8
    for name, mask in masks.items():
        # Where a mask's gradient is next to 0 Adam's step is noise at full size: one entry of all, 1.2e-5 apart, on
        # another processor.
        gap = (merged.trace[f"mask/{name}"] - mask).abs()
        assert gap.max() <= 1e-4 and (gap > 1e-5).sum() <= 0.01 * gap.numel(), name
        assert (mask - 0.1).abs().max() > 1e-3
    final = {k[len("merged_final/") :]: v for k, v in stored.items() if k.startswith("merged_final/")}
    assert_state(merged, final, golden("adarank_init__TA_prior0.3_r1.0__seed0"), atol=1e-5)


def test_gradient_combinations_match_the_authors_code() -> None:
    stored = golden("mtl_grads__K4_dim37__seed0")
    gradients, plain = stored["task_grads"], stored["task_grads"].sum(0)
    order, orders = list(range(4)), []
    shuffler = random.Random(0)
    for _ in range(4):
        shuffler.shuffle(order)
        orders.append(list(order))
    found = {
        "pcgrad_sum_noshuffle": pcgrad.combine(gradients),
        "pcgrad_sum_randomseed0": pcgrad.combine(gradients, orders),
        "pcgrad_mean_randomseed0": pcgrad.combine(gradients, orders, reduction="mean"),
        "cagrad_c0.4": cagrad.combine(gradients, c=0.4),
        "cagrad_c0.5": cagrad.combine(gradients, c=0.5),
        "nash_grad_maxnorm0.0": nash_mtl.combine(gradients, max_norm=0.0),
        "nash_grad_maxnorm1.0": nash_mtl.combine(gradients, max_norm=1.0),
    }
    of = {"pcgrad": "pcgrad", "cagrad": "cagrad", "nash": "nash_mtl"}
    for name, value in found.items():
        torch.testing.assert_close(value, stored[name], atol=2e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert (value - plain).abs().max() > 0.1
        proved(of[name.partition("_")[0]], float((value - stored[name]).abs().max()), 2e-6)
    for name in ("nash_alpha_maxnorm0.0", "nash_alpha_maxnorm1.0"):
        alpha = torch.from_numpy(nash_mtl.bargain((gradients @ gradients.T).double().numpy()))
        torch.testing.assert_close(alpha.float(), stored[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.125), (0, 0), (1.0, 1.0)])
def test_zipit_groups_the_channels_that_the_authors_code_groups(a: float, b: float) -> None:
    stored = golden("zipit_match__r0.5_2models_dim12__seed0")
    merge, unmerge = zipit.match(stored["covariance_input"], models=2, keep=12, a=a, b=b)
    torch.testing.assert_close(merge, stored[f"a{a}_b{b}/merge"], atol=1e-6, rtol=0)
    proved("zipit", float((merge - stored[f"a{a}_b{b}/merge"]).abs().max()), 1e-6)
    assert torch.equal(unmerge, stored[f"a{a}_b{b}/unmerge"])
    assert not torch.equal(unmerge, torch.eye(12).repeat(2, 1))
