"""Merges fitted block by block give what the authors' own code gave on its batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.support import about, assert_state, golden, golden_experts, golden_states
from torch import Tensor

import methods
from methods import regmean_pp
from methods.api import Stream

FEATCAL = [
    ("featcal__ta0.3_l0.05_rho2.2_a0.25__seed0", {}),
    (
        "featcal__ta0.3_l0.5_rho1_a1_nobias_noln__seed0",
        {"ridge": 0.5, "extrapolation": 1.0, "mix": 1.0, "bias": False, "norms": False},
    ),
]
DISTILLED = [
    ("prodistill__layerwise_lr0.05_10ep__seed0", "layer"),
    ("prodistill__elementwise_lr0.05_10ep__seed0", "element"),
]
#: The authors' names (Hugging Face's) of open_clip's weights; query, key and value have one Gram matrix.
MODULES = {
    "self_attn.q_proj": "attn.in_proj_weight",
    "self_attn.out_proj": "attn.out_proj.weight",
    "mlp.fc1": "mlp.c_fc.weight",
    "mlp.fc2": "mlp.c_proj.weight",
}


def batches(stored: dict[str, Tensor]) -> Stream:
    return Stream.from_batches({f"t{k}": stored[f"batches/t{k}"] for k in range(4)})


def parameters(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in stored.items() if "/" not in name}


def test_regmean_pp_matches_the_authors_code_on_its_batches_and_under_its_grams() -> None:
    stem = "regmean_plusplus__a0.95__seed0"
    stored, mean = golden(stem), methods.get("weight_average")(golden_experts()).state_dict()
    found = methods.get("regmean_pp")(golden_experts(encoder=True), batches(stored))
    assert_state(found, parameters(stored), mean, about(stem)["tolerance"])
    grams: list[dict[str, Tensor]] = [{} for _ in range(4)]
    for key, gram in stored.items():
        head, _, module = key.partition("/layers.")
        number, _, module = module.partition(".")
        if head.startswith("gram") and module in MODULES:
            grams[int(head[4:])][f"model.visual.transformer.resblocks.{number}.{MODULES[module]}"] = gram
    assert_state(regmean_pp.from_grams(golden_experts(), grams), parameters(stored), mean, about(stem)["tolerance"])


@pytest.mark.parametrize(("stem", "keywords"), FEATCAL)
def test_featcal_matches_the_authors_code_on_its_batches(stem: str, keywords: dict[str, Any]) -> None:
    stored = golden(stem)
    start = {n.removeprefix("start/"): v for n, v in stored.items() if n.startswith("start/")}
    merged = methods.get("featcal")(golden_experts(encoder=True), batches(stored), **keywords)
    expected = parameters(stored)
    projection = "model.visual.proj"
    del expected[projection]  # the model that was run has none
    assert_state(merged, expected, start, about(stem)["tolerance"])
    arithmetic = methods.get("task_arithmetic")(golden_experts(), scale=0.3).state_dict()
    torch.testing.assert_close(merged.state_dict()[projection], arithmetic[projection])


@pytest.mark.parametrize(("stem", "granularity"), DISTILLED)
def test_prodistill_follows_the_authors_code_update_by_update(stem: str, granularity: str) -> None:
    stored, note = golden(stem), about(stem)
    merged = methods.get("prodistill")(
        golden_experts(encoder=True), batches(stored), granularity=granularity, lr=0.05, epochs=10, examples=6
    )
    expected, found = parameters(stored), dict(merged.state_dict())
    for suffix, (first, last) in note.get("ignore_slices", {}).items():
        for name in (n for n in expected if n.endswith(suffix)):
            found[name] = found[name].clone()
            found[name][first:last] = expected[name][first:last]
    start = methods.get("task_arithmetic")(golden_experts(), scale=0.3).state_dict()
    assert_state(found, expected, start, note["tolerance_merged"])
    assert len(merged.trace["losses"]) == 20 and merged.trace["losses"][9] < merged.trace["losses"][0]
    blocks = {n for n in expected if "resblocks" in n}
    tensors = sum(golden_states()[0][n].numel() for n in blocks)
    assert merged.trace["trainable"] == 4 * (tensors if granularity == "element" else len(blocks))
