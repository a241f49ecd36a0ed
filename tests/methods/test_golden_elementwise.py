"""Element-wise, masked and block-wise merges give what the authors' own code gave, and not the trivial result."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.support import about, assert_state, golden, golden_experts, golden_states
from torch import Tensor

import methods
from methods import dare
from methods.api import Experts

ATOL, BUDGET = 2e-6, 1e-4


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix/`` by their own names (all without a prefix for ``""``)."""
    found = {k.rpartition("/")[2]: v for k, v in stored.items() if k.rpartition("/")[0] == prefix}
    assert found, prefix
    return found


SINGLE = [
    ("breadcrumbs", {}, "breadcrumbs__keep0.15_rem0.01_lam0.3__seed0", ""),
    ("pcb", {}, "pcb__r0.2_lam1.2__seed0", ""),
    ("lines", {"alpha": 0.2, "beta": 0.6}, "lines_ta__a0.2_b0.6__seed0", ""),
    ("consensus", {}, "tall_consensus__lam0.4_k2_alpha0.3__seed0", "consensus"),
]


@pytest.mark.parametrize(("name", "keywords", "stem", "prefix"), SINGLE)
def test_single_models_match_the_authors_code(name: str, keywords: dict[str, object], stem: str, prefix: str) -> None:
    merged = methods.get(name)(golden_experts(), **keywords)
    assert_state(merged, part(golden(stem), prefix), golden_states()[0], ATOL, BUDGET)
    assert merged.storage == 0 and not merged.needs_task


def test_dare_matches_the_authors_code_under_its_masks() -> None:
    stored = golden("dare__p0.9_lam0.3__seed0")
    masks = {f"t{k}": part(stored, f"mask{k}") for k in range(4)}
    merged = dare.from_masks(golden_experts(), masks, drop=0.9, scale=0.3)
    assert_state(merged, part(stored, ""), golden_states()[0], ATOL)
    again = methods.get("dare").from_masks(golden_experts(), list(masks.values()), drop=0.9, scale=0.3)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in merged.state_dict().items())


@pytest.mark.parametrize(
    ("stem", "inputs"), [("emr__default__seed0", "inputs_seed0"), ("emr_edge__default__seed0", "edge_seed0")]
)
def test_emr_matches_the_authors_masks_and_rescalers(stem: str, inputs: str) -> None:
    stored, base = golden(stem), golden_states(inputs)[0]
    merged = methods.get("emr")(golden_experts(inputs))
    torch.testing.assert_close(merged.trace["rescalers"], stored["rescalers"], atol=ATOL, rtol=0)
    unified = part(stored, "unified")
    for k in range(4):
        masks = part(stored, f"mask{k}")
        expected = {n: base[n] + stored["rescalers"][k] * masks[n] * unified[n] for n in unified}
        assert_state(merged.state_dict(f"t{k}"), expected, base, ATOL, BUDGET)


def test_the_states_of_tall_mask_match_the_authors_code() -> None:
    stored, base = golden("tall_consensus__lam0.4_k2_alpha0.3__seed0"), golden_states()[0]
    experts = golden_experts()
    merged = methods.get("tall_mask")(experts, mask_scale=0.4)
    assert_state(merged.state_dict("t1"), part(stored, "tall_model1"), base, ATOL, BUDGET)
    for k in range(4):
        masks = part(stored, f"mask{k}")
        expected = {n: base[n] + masks[n] * experts.task_vectors(n).sum(0) for n in masks}
        assert_state(merged.state_dict(f"t{k}"), expected, base, ATOL, BUDGET)


FLEX = [
    ({"merges": 12}, "flexmerge__avg_T12__seed0", (3,)),
    ({"inner": "ta", "scale": 1.5, "merges": 20}, "flexmerge__ta_lam1.5_T20__seed0", (1, 2)),
    ({"inner": "emr", "size": 1.0}, "flexmerge__emr_full__seed0", (0, 2)),
]


@pytest.mark.parametrize(("keywords", "stem", "tasks"), FLEX)
def test_flexmerge_merges_the_blocks_the_authors_code_merges(
    keywords: dict[str, object], stem: str, tasks: tuple[int, ...]
) -> None:
    merged = methods.get("flexmerge")(golden_experts(), **keywords)
    log = [re.search(r"Layer  (\S+) Fused block similarity (\S+)", line) for line in about(stem)["merge_log"]]
    assert len(log) == len(merged.trace["merge_log"])
    for line, (block, similarity) in zip(log, merged.trace["merge_log"], strict=True):
        assert line is not None and line[1] in block
        assert similarity == pytest.approx(float(line[2]), abs=1e-5)
    stored, (base, experts) = golden(stem), golden_states()
    for k in tasks:
        expected = part(stored, f"model{k}" if f"model{k}/model.visual.proj" in stored else "model0")
        if keywords.get("inner") == "emr":
            masks = part(stored, f"mask{k}")
            expected = {n: base[n] + masks[n] * (v - base[n]) for n, v in expected.items()}
        assert_state(merged.state_dict(f"t{k}"), expected, base, ATOL, BUDGET)
        assert any((merged.state_dict(f"t{k}")[n] - experts[f"t{k}"][n]).abs().max() > 10 * ATOL for n in expected)


def test_robustmerge_matches_the_authors_factors_and_adds_them_to_the_base() -> None:
    stored = golden("robustmerge__mask0.2_att0.2_default__seed0")
    modules = ("layers.0.q_proj", "layers.0.v_proj")
    given = [part(stored, f"lora{k}") for k in range(4)]
    adapters = {
        f"t{k}": {m: (g[f"{m}.lora_A.weight"], g[f"{m}.lora_B.weight"], 0.5) for m in modules}
        for k, g in enumerate(given)
    }
    base = {f"{m}.weight": torch.randn(24, 32, generator=torch.Generator().manual_seed(0)) for m in modules}
    merged = methods.get("robustmerge")(Experts.from_lora(base, adapters))
    expected = part(stored, "merged")
    assert_state(merged.extra, expected, {n: torch.zeros(1) for n in expected}, ATOL)
    for module in modules:
        change = 0.5 * expected[f"{module}.lora_B.weight"] @ expected[f"{module}.lora_A.weight"]
        found = merged.state_dict()[f"{module}.weight"] - base[f"{module}.weight"]
        torch.testing.assert_close(found, change, atol=1e-5, rtol=0)
