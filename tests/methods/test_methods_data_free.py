"""Properties of the data-free merges of 2022 to 2026, and of their edges; each alone: test_each_data_free_method.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.odd import hard_experts
from helpers.support import assert_same, golden_experts, golden_states, random_experts

import methods
from methods.api import Experts, Merged, MergingError, NotApplicable, Stream

MANY: list[tuple[str, dict[str, Any]]] = [
    ("cart", {}),
    ("cart", {"rank": 0.5}),
    ("svc", {}),
    ("svc", {"inner": "weight_average", "target": 0, "row_space": True}),
    ("ace", {}),
    ("dc_merge", {}),
    ("dc_merge", {"keep": 0.5}),
    ("subspace_boosting", {}),
    ("subspace_boosting", {"inner": "tsv_m", "scale": 1.0, "share": 0.5}),
    ("star", {}),
    ("metagpt", {}),
    ("model_stock", {}),
    ("model_stock", {"filterwise": True}),
    ("karcher", {}),
    ("multislerp", {}),
    ("della", {}),
    ("della", {"density": 0.5}),
    ("della", {"density": 0.5, "linear": True}),
    ("sce", {}),
    ("sce", {"keep": 0.3}),
    ("ram", {"floor": 1e-3}),
    ("ram", {"floor": 1e-3, "plus": True}),
    ("fr_merging", {}),
    ("fr_merging", {"align": False}),
    ("localize_stitch", {}),
    ("localize_stitch", {"keep": 1.0}),
]
#: Methods that merge one expert, or two.
FEW: list[tuple[str, dict[str, Any], int]] = [("slerp", {}, 2), ("slerp", {"t": 0.2}, 2), ("arcee_fusion", {}, 1)]
#: What gives back an unchanged tensor to rounding, through another form of it.
ROUNDED = ("karcher", "slerp")
#: What refuses a tensor that some tasks left alone.
STRICT = ("star", "fr_merging")


def merge(name: str, experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    found: Merged = methods.get(name)(experts, stream, **keywords)
    return found


def cases(count: int) -> list[tuple[str, dict[str, Any]]]:
    """The methods that merge so many experts."""
    many = [c for c in MANY if count > 1 or c[0] != "model_stock"]
    return many + [(name, keywords) for name, keywords, wanted in FEW if wanted == count]


HARD = [
    (name, keywords, count, dtype)
    for count, dtype in ((1, torch.float32), (2, torch.float16), (3, torch.float32), (9, torch.bfloat16))
    for name, keywords in cases(count)
]


@pytest.mark.parametrize(("name", "keywords", "count", "dtype"), HARD, ids=lambda v: str(v).replace("torch.", ""))
def test_odd_tensors_and_any_number_of_tasks_give_finite_models(
    name: str, keywords: dict[str, Any], count: int, dtype: torch.dtype
) -> None:
    experts = hard_experts(count, dtype, idle=name not in STRICT)
    state = merge(name, experts, **keywords).state_dict()
    assert all(torch.isfinite(t.float()).all() for t in state.values())
    assert state["steps"].item() == 0
    torch.testing.assert_close(state["still"], experts.base["still"].float(), atol=1e-6 * (name in ROUNDED), rtol=0)
    weight = "blocks.0.attn.qkv.weight"
    moved = not torch.equal(state[weight], experts.base[weight].float())
    assert moved or (name == "sce" and count == 1)  # one task does not vary


@pytest.mark.parametrize(("name", "keywords"), cases(3) + cases(2)[-2:] + cases(1)[-1:], ids=str)
def test_experts_equal_to_the_base_give_the_base(name: str, keywords: dict[str, Any]) -> None:
    base = dict(hard_experts(3).base)
    count = next((n for each, _, n in FEW if each == name), 3)
    experts = Experts.from_state_dicts(base, {f"t{k}": base for k in range(count)})
    state = merge(name, experts, **keywords).state_dict()
    for each, value in base.items():
        torch.testing.assert_close(state[each].float(), value.float(), atol=1e-6 * (name in ROUNDED), rtol=0)


@pytest.mark.parametrize(("name", "keywords"), cases(4), ids=str)
def test_text_tensors_that_no_expert_changed_leave_the_visual_tower_sound(name: str, keywords: dict[str, Any]) -> None:
    experts = golden_experts("edge_seed0")
    visual = [n for n in experts.names if ".visual." in n]
    alone = Experts.from_state_dicts(
        {n: experts.base[n] for n in visual}, {t: {n: experts.expert(t)[n] for n in visual} for t in experts.tasks}
    )
    state, same = (merge(name, each, **keywords).state_dict() for each in (experts, alone))
    for tensor in experts.names:
        expected = same[tensor] if tensor in visual else experts.base[tensor]
        torch.testing.assert_close(state[tensor], expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "keywords"), [c for c in cases(4) if c[0] != "fr_merging"], ids=str)
def test_the_order_of_tasks_does_not_matter(name: str, keywords: dict[str, Any]) -> None:
    experts = golden_experts()
    turned = experts.subset(["t2", "t0", "t3", "t1"])
    if "target" in keywords:
        keywords = {**keywords, "target": "t1"}
    one, other = (merge(name, each, **keywords).state_dict() for each in (experts, turned))
    assert_same(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["cart", "metagpt", "karcher", "multislerp", "della", "sce", "ram"])
def test_one_expert_merged_with_none_is_itself(name: str) -> None:
    experts = golden_experts().subset(["t2"])
    merged = merge(name, experts, **({"floor": 0.0} if name == "ram" else {}))
    assert_same(merged.state_dict(), dict(experts.expert("t2")), atol=1e-6)


@pytest.mark.parametrize(("name", "keywords"), cases(3), ids=str)
def test_a_merge_survives_its_file_and_runs(name: str, keywords: dict[str, Any], tmp_path: Path) -> None:
    experts = random_experts(tasks=3)
    merged = merge(name, experts, **keywords)
    merged.save(tmp_path / "merged.safetensors")
    loaded = Merged.load(tmp_path / "merged.safetensors", experts)
    images = torch.randn(2, 3, 16, 16)
    assert loaded.storage == merged.storage == 0 and not merged.needs_task
    torch.testing.assert_close(loaded.model("t1")(images), merged.model("t1")(images))


@pytest.mark.parametrize(
    ("name", "keywords", "text"),
    [
        ("cart", {"rank": 2}, "rank is 2"),
        ("svc", {"alpha": 0}, "alpha is 0"),
        ("svc", {"inner": "svc"}, "own inner"),
        ("svc", {"inner": "emr"}, "one per task"),
        ("svc", {"inner": "iso_c"}, "hang on rounding.*task_arithmetic"),
        ("svc", {"inner": "iso_cts"}, "hang on rounding"),
        ("svc", {"inner": "adamerging"}, "needs data"),
        ("svc", {"target": 4}, "0 to 3"),
        ("svc", {"target": "t9"}, "Did you mean t"),
        ("ace", {"fraction": 2}, "fraction is 2"),
        ("dc_merge", {"keep": 0}, "keep is 0"),
        ("dc_merge", {"smoothing": "avg"}, "'average', 'linear'"),
        ("dc_merge", {"smoothing": "average"}, "LoRA"),
        ("dc_merge", {"smoothing": "linear", "ratio": 0.5}, "ratio is 0.5"),
        ("subspace_boosting", {"share": -1}, "share is -1"),
        ("subspace_boosting", {"inner": "tsv_c"}, "one per task"),
        ("star", {"energy": 0}, "energy is 0"),
        ("karcher", {"tolerance": 0}, "tolerance above 0"),
        ("multislerp", {"weights": [1.0, 2.0]}, "a list of 4"),
        ("multislerp", {"weights": [0.0] * 4}, "not all 0"),
        ("della", {"density": 0.9}, r"within \(0, 1\)"),
        ("della", {"density": 2}, "density is 2"),
        ("sce", {"keep": 2}, "keep is 2"),
        ("ram", {"floor": -1}, "floor is -1"),
        ("fr_merging", {"ratio": -1}, "ratio is -1"),
        ("localize_stitch", {"keep": 1e-6}, "less than one of 32384 entries"),
        ("localize_stitch", {"labels": True}, "labelled train"),
        ("free_merging", {"keep": 0}, "keep is 0"),
        ("slerp", {}, "slerp merges two experts and these are 4"),
        ("arcee_fusion", {}, "arcee_fusion merges one expert and these are 4"),
        ("knots", {}, "LoRA"),
        ("core_space", {}, "LoRA"),
    ],
)
def test_bad_values_and_what_does_not_fit_are_named(name: str, keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(MergingError, match=text):
        merge(name, golden_experts(), **keywords)


def test_what_does_not_fit_is_not_applicable() -> None:
    for name, experts in (
        ("slerp", golden_experts()),
        ("arcee_fusion", golden_experts()),
        ("knots", golden_experts()),
        ("core_space", golden_experts()),
        ("model_stock", golden_experts().subset(["t0"])),
    ):
        with pytest.raises(NotApplicable):
            merge(name, experts)


@pytest.mark.parametrize("name", STRICT)
def test_a_division_by_the_size_of_a_zero_task_vector_is_refused(name: str) -> None:
    base, tuned = golden_states()
    weight = "model.visual.transformer.resblocks.1.mlp.c_fc.weight"
    idle = {**tuned, "t2": {**tuned["t2"], weight: base[weight]}}
    with pytest.raises(MergingError, match=f"t2 is 0 in {weight}"):
        merge(name, Experts.from_state_dicts(base, idle))
    untouched = {t: {**state, weight: base[weight]} for t, state in tuned.items()}
    state = merge(name, Experts.from_state_dicts(base, untouched)).state_dict()
    assert torch.equal(state[weight], base[weight]) and not torch.equal(state["model.visual.proj"], 0 * base[weight])


@pytest.mark.parametrize(("name", "count"), [("karcher", 3), ("slerp", 2), ("arcee_fusion", 1), ("metagpt", 3)])
def test_an_expert_that_is_not_finite_is_named(name: str, count: int) -> None:
    base, tuned = golden_states()
    weight = "model.visual.proj"
    damaged = {**tuned["t0"], weight: tuned["t0"][weight].clone().index_fill_(0, torch.tensor([2]), torch.nan)}
    experts = Experts.from_state_dicts(base, {**dict(list(tuned.items())[:count]), "t0": damaged})
    with pytest.raises(MergingError, match=f"expert t0: {weight} holds 16 NaN"):
        merge(name, experts)


def test_every_method_here_is_registered_with_what_it_needs() -> None:
    needs = {name: methods.describe(name).needs for name, _ in MANY}
    assert needs["cart"] == needs["svc"] == needs["ace"] == needs["dc_merge"] == ("matrices",)
    assert methods.describe("slerp").needs == ("pair",) and methods.describe("arcee_fusion").needs == ("single",)
    assert methods.describe("knots").needs == methods.describe("core_space").needs == ("adapters",)
