"""The main job's methods give what the authors' own code gave, and not the trivial result."""

from __future__ import annotations

import pytest
import torch
from helpers.support import about, assert_state, golden, golden_experts, golden_states, golden_stream
from torch import Tensor

import methods

ELEMENTWISE = [
    ("weight_average", {}, "weight_average__default__seed0", "inputs_seed0"),
    ("task_arithmetic", {"scale": 0.3}, "task_arithmetic__lam0.3__seed0", "inputs_seed0"),
    ("task_arithmetic", {"scale": 0.3}, "task_arithmetic_edge__lam0.3__seed0", "edge_seed0"),
    ("ties", {"merge": "mean", "scale": 1.0}, "ties__k20_dis-mean_lam1__seed0", "inputs_seed0"),
    ("ties", {}, "ties__k20_dis-sum_lam0.3__seed0", "inputs_seed0"),
    ("ties", {"merge": "mean", "scale": 1.0}, "ties_edge__k20_dis-mean_lam1__seed0", "edge_seed0"),
    ("ties", {}, "ties_edge__k20_dis-sum_lam0.3__seed0", "edge_seed0"),
]


@pytest.mark.parametrize(("name", "keywords", "stem", "inputs"), ELEMENTWISE)
def test_elementwise_methods_match_the_authors_code(
    name: str, keywords: dict[str, object], stem: str, inputs: str
) -> None:
    merged = methods.get(name)(golden_experts(inputs), **keywords)
    base, _ = golden_states(inputs)
    assert_state(merged, {k: v for k, v in golden(stem).items() if "/" not in k}, base, atol=2e-6, budget=1e-4)


ADAPTED = [
    ("adamerging", {"granularity": "layer"}, "adamerging_layerwise__10steps__seed0"),
    ("adamerging", {"granularity": "task"}, "adamerging_taskwise__10steps__seed0"),
    ("adamerging", {"granularity": "layer", "trim": True}, "adamergingpp_layerwise__10steps__seed0"),
    ("adamerging", {"granularity": "task", "trim": True}, "adamergingpp_taskwise__10steps__seed0"),
    ("adamerging_fresh", {}, "adamerging_layerwise__10steps__seed0"),
    ("adamerging_fresh", {"granularity": "task", "trim": True}, "adamergingpp_taskwise__10steps__seed0"),
    ("symerge", {}, "symerge__crosspseudoconf_clf_prior0.3_10ep__seed0"),
    ("symerge", {"select": "all"}, "symerge__crosspseudo_clf_prior0.3_10ep__seed0"),
    ("model_tinting", {}, "symerge__crosspseudo_clf_prior0.3_10ep__seed0"),
    ("model_tinting_pp", {}, "symerge__crosspseudoconf_clf_prior0.3_10ep__seed0"),
]


@pytest.mark.parametrize(("name", "keywords", "stem"), ADAPTED)
def test_adaptation_follows_the_authors_code_update_by_update(
    name: str, keywords: dict[str, object], stem: str
) -> None:
    stored, note = golden(stem), about(stem)
    heads = {k[len("head_init/") : -len(".weight")]: v for k, v in stored.items() if k.startswith("head_init/")}
    merged = methods.get(name)(
        golden_experts(heads=heads),
        golden_stream(stem[:7].replace("adamerg", "adamerging")),
        steps=10,
        batch_size=8,
        **keywords,
    )
    expected: Tensor = stored["lambdas_raw_final"]
    found = merged.trace["raw_coefficients"]
    torch.testing.assert_close(found, expected.reshape(found.shape), atol=1e-5, rtol=0)
    assert (found - 0.3).abs().max() > 1e-3
    losses = torch.tensor(note["loss_per_update"])
    torch.testing.assert_close(merged.trace["losses"], losses.nan_to_num(0.0), atol=1e-4, rtol=1e-5)
    adapts = "adamerging" not in name
    for task, start in heads.items():
        torch.testing.assert_close(merged.head(task).weight, stored[f"head_final/{task}.weight"], atol=1e-5, rtol=0)
        torch.testing.assert_close(merged.head(task).bias, stored[f"head_final/{task}.bias"], atol=1e-5, rtol=0)
        assert ((merged.head(task).weight - start).abs().max() > 1e-3) == adapts
    final = {k[len("merged_final/") :]: v for k, v in stored.items() if k.startswith("merged_final/")}
    assert_state(merged, final, golden_states()[0], atol=1e-5)


def test_trimmed_vectors_match_the_authors_split() -> None:
    from methods.tools.vectors import elect

    stored, experts = golden("ties_split__k20__seed0"), golden_experts()
    found = elect(experts, 0.2, lambda agreeing, sign: agreeing)
    wrong = sum(
        int((found[n][k] - value).abs().gt(2e-6).sum())
        for k in range(4)
        for n, value in ((key.split("/", 1)[1], v) for key, v in stored.items() if key.startswith(f"ties_tv{k}/"))
    )
    assert wrong <= 4
    assert len(stored) == 4 * len(found)
