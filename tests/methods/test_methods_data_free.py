"""Properties of the data-free merges of 2022 to 2026, and of their edges; their goldens: test_golden_data_free.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.support import assert_same, golden_experts, golden_states, random_experts, random_stream
from torch import Tensor

import methods
from methods.ace import HETEROGENEITY, heterogeneity
from methods.api import Experts, Merged, MergingError, NotApplicable, Stream
from methods.svc import calibrated

SVD = torch.linalg.svd
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


def hard_experts(count: int, dtype: torch.dtype = torch.float32, idle: bool = True, width: int = 12) -> Experts:
    """Two blocks and what breaks merges: low rank, a task without a part, a scalar, a kernel, a buffer, strides."""
    generator = torch.Generator().manual_seed(count)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shapes = {
        "conv.weight": (4, 3, 3, 3),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "pos_embed": (1, width),
        "blocks.0.mlp.fc1.weight": (width, 2 * width),
        "blocks.1.mlp.fc1.weight": (width, 2 * width),
        "blocks.1.mlp.fc1.bias": (width,),
        "blocks.1.norm.weight": (width,),
        "tau": (),
        "still": (3, 4),
    }
    base = {n: noise(*s).to(dtype) for n, s in shapes.items()}
    base["blocks.1.mlp.fc1.weight"] = base["blocks.1.mlp.fc1.weight"].t().contiguous().t()
    tuned = {
        f"t{k}": {n: t + (n != "still") * 0.1 * noise(*t.shape).to(dtype) for n, t in base.items()}
        for k in range(count)
    }
    name = "blocks.0.mlp.fc1.weight"
    for k, state in enumerate(tuned.values()):
        state[name] = base[name] + (0.1 * noise(width, 1) @ noise(1, 2 * width)).to(dtype)
        state["tau"] = base["tau"] + 0.1 * (k + 1)  # two opposite numbers have no angle but the straight one
    if idle and count > 1:
        tuned["t0"]["blocks.1.mlp.fc1.weight"] = base["blocks.1.mlp.fc1.weight"]
    for k, state in enumerate([base, *tuned.values()]):
        state["steps"] = torch.tensor(k)
    return Experts.from_state_dicts(base, tuned)


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


OPPOSITE = {"a": {"w": torch.tensor([3.0, 1.0])}, "b": {"w": torch.tensor([-3.0, -1.0])}}


@pytest.mark.parametrize("name", ["model_stock", "karcher"])
def test_experts_that_cancel_are_refused_where_no_merge_is_defined(name: str) -> None:
    with pytest.raises(MergingError, match="cancel|opposite"):
        merge(name, Experts.from_state_dicts({"w": torch.zeros(2)}, OPPOSITE))


def test_multislerp_of_two_opposite_vectors_is_linear_and_of_more_refused() -> None:
    base = {"w": torch.zeros(2)}
    state = merge("multislerp", Experts.from_state_dicts(base, OPPOSITE), weights=[3.0, 3.0]).state_dict()
    assert torch.equal(state["w"], base["w"])
    alone = merge("multislerp", Experts.from_state_dicts(base, OPPOSITE), weights=[1.0, 0.0]).state_dict()
    torch.testing.assert_close(alone["w"], OPPOSITE["a"]["w"])
    twice = Experts.from_state_dicts(base, {**OPPOSITE, "c": OPPOSITE["a"], "d": OPPOSITE["b"]})
    with pytest.raises(MergingError, match="cancel"):
        merge("multislerp", twice)


def test_multislerp_weighs_directions_and_lengths() -> None:
    tuned = {"a": {"w": torch.tensor([1.0, 0.0])}, "b": {"w": torch.tensor([0.0, 3.0])}}
    state = merge("multislerp", Experts.from_state_dicts({"w": torch.zeros(2)}, tuned), weights=[6.0, 2.0]).state_dict()
    torch.testing.assert_close(state["w"], 1.5 * torch.tensor([3.0, 1.0]) / 10**0.5)


def test_cart_of_the_whole_rank_is_the_average_whatever_the_scale() -> None:
    mean = merge("weight_average", golden_experts()).state_dict()
    for rank in (1.0, 0.0):
        assert_same(merge("cart", golden_experts(), rank=rank, scale=9.0).state_dict(), mean, atol=1e-6)


def test_cart_keeps_at_least_one_direction_and_only_of_attention_and_mlp() -> None:
    experts, base = golden_experts(), golden_states()[0]
    state = merge("cart", experts, rank=0.001, scale=1.0).state_dict()
    mean = merge("weight_average", experts).state_dict()
    changed = {n for n in base if not torch.allclose(state[n], mean[n], atol=1e-6)}
    assert changed == {n for n in base if base[n].ndim == 2 and "resblocks" in n}
    name = "model.visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert int((SVD(state[name] - mean[name])[1] > 1e-4).sum()) == len(experts)


@pytest.mark.parametrize("row_space", [False, True])
def test_svc_divides_singular_values_and_keeps_the_directions(row_space: bool) -> None:
    experts, name = golden_experts(), "model.visual.transformer.resblocks.1.attn.out_proj.weight"
    vectors = experts.task_vectors(name).double()
    u, s, vh = SVD(0.3 * vectors.sum(0), full_matrices=False)
    state = merge("svc", experts, row_space=row_space).state_dict()
    found = u.T @ (state[name] - experts.base[name]).double() @ vh.T
    torch.testing.assert_close(found - found.diag().diag(), torch.zeros_like(found), atol=2e-5, rtol=0)
    for r in (0, 3, 20):
        own = [v @ vh[r] if row_space else u[:, r] @ v for v in vectors]
        along = s[r] * (u[:, r] if row_space else vh[r])
        eta = sum(max(float(along @ a / (a @ a)), 0.25) for a in own) / 4
        torch.testing.assert_close(found[r, r], s[r] / eta, atol=1e-4, rtol=1e-4)


def test_svc_for_one_task_leaves_directions_that_it_opposes() -> None:
    vectors = torch.stack([torch.diag(torch.tensor([4.0, -1.0])), torch.diag(torch.tensor([2.0, 5.0]))])
    found, share = calibrated(0.5 * vectors.sum(0), vectors[:1], 0.1, single=True)
    # Along the first axis the merge has 3 of the task's 4, along the second 2 against its -1.
    torch.testing.assert_close(found, torch.diag(torch.tensor([4.0, 2.0])))
    assert share < 1e-3


def test_ace_refines_no_direction_of_a_matrix_too_small_for_one() -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = (size * torch.randn(3, 3, generator=generator) for size in (1e-2, 10.0))
    assert heterogeneity(torch.stack([small.square().sum(), large.square().sum()])) > HETEROGENEITY
    experts = Experts.from_state_dicts({"w": torch.zeros(3, 3)}, {"a": {"w": small}, "b": {"w": large}})
    plain = merge("ace", experts).state_dict()["w"]
    assert plain.isfinite().all() and torch.equal(plain, merge("ace", experts, fraction=0.0).state_dict()["w"])
    assert not torch.equal(plain, merge("ace", experts, fraction=0.4).state_dict()["w"])


def test_dc_merge_of_tasks_that_do_not_divide_the_rank_is_the_papers_rule() -> None:
    experts = golden_experts().subset(["t0", "t1", "t2"])
    state = merge("dc_merge", experts, keep=0.05).state_dict()
    for name in ("model.visual.transformer.resblocks.0.mlp.c_proj.weight", "model.visual.proj"):
        vectors = experts.task_vectors(name).double()
        small = min(vectors.shape[1:])
        rank = small // 3
        u, v = torch.zeros(vectors.shape[1], small).double(), torch.zeros(small, vectors.shape[2]).double()
        parts = [SVD(x, full_matrices=False) for x in vectors]
        for k, (a, _, b) in enumerate(parts):
            u[:, k * rank : (k + 1) * rank], v[k * rank : (k + 1) * rank] = a[:, :rank], b[:rank]
        (a, _, b), (c, _, d) = SVD(u, full_matrices=False), SVD(v, full_matrices=False)
        left, right = a @ b, c @ d
        cores = []
        for p, s, q in parts:
            core = left.T @ (p[:, :rank] * s[:rank]) @ q[:rank] @ right.T
            least = core.abs().flatten().topk(int(0.05 * small * small)).values.min()
            cores.append(core * (core.abs() >= least))
        stack = torch.stack(cores)
        agree = stack.sign() == stack.sum(0).sign()
        core = (stack * agree).sum(0) / agree.sum(0).clamp(min=1) * (stack.sum(0) != 0)
        mask = torch.block_diag(*[torch.ones(rank, rank).double()] * 3)
        core[: 3 * rank, : 3 * rank] *= mask
        core[3 * rank :], core[:, 3 * rank :] = 0, 0
        found = (state[name] - experts.base[name]).double()
        torch.testing.assert_close(found, left @ core @ right, atol=2e-5, rtol=0)


def test_boosting_lifts_small_singular_values_of_query_key_and_value_apart() -> None:
    experts, name = golden_experts(), "model.visual.transformer.resblocks.0.attn.in_proj_weight"
    before = merge("task_arithmetic", experts).state_dict()[name] - experts.base[name]
    after = merge("subspace_boosting", experts, share=0.3).state_dict()[name] - experts.base[name]
    for one, other in zip(before.chunk(3), after.chunk(3), strict=True):
        s, lifted = SVD(one)[1], SVD(other)[1]
        least = s[int((s.cumsum(0) / s.sum() >= 0.3).nonzero()[0])]
        torch.testing.assert_close(lifted, s.clamp(min=least), atol=1e-5, rtol=1e-5)


def test_boosting_does_not_fill_in_directions_that_the_merge_lacks() -> None:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(8, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    experts = Experts.from_state_dicts({"c_fc": torch.zeros(8, 8)}, {"a": {"c_fc": vector}})
    found = SVD(merge("subspace_boosting", experts, scale=1.0).state_dict()["c_fc"])[1]
    torch.testing.assert_close(found[:2], SVD(vector)[1][:1].expand(2))
    assert float(found[2]) < 1e-4


def test_star_keeps_the_nuclear_norm() -> None:
    experts = golden_experts().subset(["t1"])
    name = "model.visual.transformer.resblocks.1.mlp.c_fc.weight"
    values = SVD(experts.task_vector(name, "t1"))[1]
    found = SVD(merge("star", experts, energy=70).state_dict()[name] - experts.base[name])[1]
    torch.testing.assert_close(found.sum(), values.sum(), atol=1e-3, rtol=1e-4)
    assert int((found > 1e-4).sum()) == int((values.cumsum(0) < 0.7 * values.sum()).sum()) + 1
    whole = merge("star", experts, energy=100).state_dict()
    assert_same({name: whole[name]}, {name: experts.expert("t1")[name]}, atol=1e-5)


def test_model_stock_goes_as_far_as_the_angle_says() -> None:
    base = {"w": torch.zeros(2, 2)}
    tuned = {"a": {"w": torch.tensor([[1.0, 0.0], [2.0, 0.0]])}, "b": {"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}}
    experts = Experts.from_state_dicts(base, tuned)
    whole = merge("model_stock", experts).state_dict()["w"]  # cosine 1/5, ratio 1/3
    torch.testing.assert_close(whole, torch.tensor([[1 / 3, 0.0], [1 / 3, 1 / 3]]))
    rows = merge("model_stock", experts, filterwise=True).state_dict()["w"]  # cosines 1 and 0
    torch.testing.assert_close(rows, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_slerp_ends_at_its_experts_and_keeps_to_the_arc() -> None:
    one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    experts = Experts.from_state_dicts({"w": torch.zeros(2)}, {"a": {"w": one}, "b": {"w": other}})
    for t, expected in ((0.0, one), (1.0, other), (0.5, torch.full((2,), 2.0**0.5))):
        torch.testing.assert_close(merge("slerp", experts, t=t).state_dict()["w"], expected)
    near = Experts.from_state_dicts({"w": torch.zeros(2)}, {"a": {"w": one}, "b": {"w": 3 * one}})
    assert merge("slerp", near, t=0.25).state_dict()["w"].tolist() == [3.0, 0.0]


def test_della_keeps_the_share_it_was_asked_to_keep_and_the_length() -> None:
    experts = golden_experts().subset(["t0"])
    weight = "model.visual.transformer.resblocks.0.mlp.c_fc.weight"
    vector = experts.task_vector(weight, "t0")
    state = merge("della", experts, density=0.3, epsilon=0.2).state_dict()[weight] - experts.base[weight]
    kept = state.abs() > 1e-7
    assert 0.25 < float(kept.float().mean()) < 0.35
    torch.testing.assert_close(state.abs().sum(), vector.abs().sum(), atol=1e-2, rtol=1e-4)
    rows = vector.abs().sort(dim=1).values
    small, large = vector.abs() <= rows[:, 9:10], vector.abs() >= rows[:, -10:-9]
    assert float(kept[large].float().mean()) > 2 * float(kept[small].float().mean())
    again = merge("della", experts, density=0.3, epsilon=0.2, seed=1).state_dict()[weight]
    assert not torch.equal(again - experts.base[weight], state)


@pytest.mark.parametrize("name", ["della", "sce"])
def test_where_vectors_cancel_the_positive_one_is_elected(name: str) -> None:
    tuned = {"a": {"w": torch.tensor([1.0, -2.0, 3.0])}, "b": {"w": torch.tensor([-1.0, 2.0, 3.0])}}
    experts = Experts.from_state_dicts({"w": torch.zeros(3)}, tuned)
    assert merge(name, experts).state_dict()["w"].tolist() == [1.0, 2.0, 3.0]


def test_ram_keeps_what_is_a_tasks_own_and_averages_the_rest() -> None:
    tuned = {"a": {"w": torch.tensor([1.0, 2.0, 0.005, 0.0])}, "b": {"w": torch.tensor([3.0, 0.01, 0.005, 4.0])}}
    experts = Experts.from_state_dicts({"w": torch.zeros(4)}, tuned)
    assert merge("ram", experts).state_dict()["w"].tolist() == [2.0, 2.0, 0.0, 4.0]
    # Of each task's two entries one is shared: its own are raised by 0.1 * min(1, 0.2).
    torch.testing.assert_close(merge("ram", experts, plus=True).state_dict()["w"], torch.tensor([2.0, 2.04, 0.0, 4.08]))


def test_arcee_fusion_of_a_large_tensor_hangs_on_its_seed_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(1100, 1000, generator=generator)}
    tuned = {"a": {"w": base["w"] + 0.1 * torch.randn(1100, 1000, generator=generator)}}
    experts = Experts.from_state_dicts(base, tuned)
    one, same, other = (merge("arcee_fusion", experts, seed=s).state_dict()["w"] for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert 0.01 < float((one != base["w"]).float().mean()) < 0.3


def test_fr_merging_adds_up_what_its_disc_leaves_of_matrices_and_the_first_tasks_biases() -> None:
    experts = golden_experts()
    state = merge("fr_merging", experts, ratio=10.0, align=False, scale=1.0).state_dict()
    bias, norm = (f"model.visual.transformer.resblocks.0.{n}" for n in ("mlp.c_fc.bias", "ln_1.weight"))
    torch.testing.assert_close(state[bias], experts.expert("t0")[bias])
    assert torch.equal(state[norm], experts.base[norm])
    weight = "model.visual.transformer.resblocks.0.attn.out_proj.weight"
    total = experts.task_vectors(weight).sum(0)
    # A disc of everything: each frequency once, and those at the inner radius and within twice.
    rows = torch.arange(32) - 16
    inner = (rows[:, None] ** 2 + rows**2 < 9) * -1.0 + (rows[:, None] ** 2 + rows**2 <= 9) * 1.0
    expected = torch.fft.ifft2(torch.fft.fft2(total) * (1 + inner)).real
    torch.testing.assert_close(state[weight] - experts.base[weight], expected, atol=1e-5, rtol=0)


def test_localize_stitch_averages_where_masks_meet_and_leaves_the_texts_tensors() -> None:
    base = {n: torch.zeros(4) for n in ("w", "model.positional_embedding", "model.logit_scale")}
    ones = torch.tensor([9.0, 8.0, 1.0, 0.5])
    tuned = {"a": {n: ones for n in base}, "b": {n: -ones.flip(0) for n in base}, "c": {n: 2 * ones for n in base}}
    # Three of four are the largest, and the comparison is strict: two stay.
    state = merge("localize_stitch", Experts.from_state_dicts(base, tuned), keep=0.75).state_dict()
    assert state["w"].tolist() == [13.5, 12.0, -8.0, -9.0]
    assert torch.equal(state["model.logit_scale"], base["w"])
    assert torch.equal(state["model.positional_embedding"], base["w"])


def test_localize_stitch_draws_its_samples_once_and_trains_masks_on_labels() -> None:
    experts = random_experts(tasks=2)
    stream = random_stream(experts.tasks, draws=4, size=8, classes=5)
    about = methods.describe("localize_stitch")
    assert not about.access and about.access_for({"labels": True}).describe() == "labelled train"
    trained = merge("localize_stitch", experts, stream, labels=True, examples=16, batch_size=8, epochs=3)
    assert stream.drawn == 2 * 16
    plain = merge("localize_stitch", experts)
    assert any(not torch.equal(t, plain.state_dict()[n]) for n, t in trained.state_dict().items())


def test_free_merging_puts_each_tasks_largest_entries_over_the_shared_ones(tmp_path: Path) -> None:
    experts = golden_experts()
    merged = merge("free_merging", experts, keep=0.1)
    weight = "model.visual.transformer.resblocks.0.mlp.c_fc.weight"
    shared = merged.shared[weight] - experts.base[weight]
    for k, task in enumerate(experts.tasks):
        found = merged.state_dict(task)[weight] - experts.base[weight]
        own = (found - shared).abs() > 1e-6
        vector = experts.task_vector(weight, task)
        assert torch.equal(own.sum(1), torch.full((128,), 3))
        torch.testing.assert_close(found[own], 0.5 * merged.trace["rescalers"][k] * vector[own], atol=1e-6, rtol=1e-4)
        assert float(vector.abs().where(own, 9.0).amin(1).min()) >= float(vector.abs().where(~own, 0.0).max(1)[0].min())
    merged.save(tmp_path / "merged.safetensors")
    loaded = Merged.load(tmp_path / "merged.safetensors", experts)
    assert_same(loaded.state_dict("t2"), merged.state_dict("t2"), atol=0)
    base = dict(experts.base)
    still = merge("free_merging", Experts.from_state_dicts(base, {"a": base, "b": base}))
    assert_same(still.state_dict("b"), base, atol=0)


def test_every_method_here_is_registered_with_what_it_needs() -> None:
    needs = {name: methods.describe(name).needs for name, _ in MANY}
    assert needs["cart"] == needs["svc"] == needs["ace"] == needs["dc_merge"] == ("matrices",)
    assert methods.describe("slerp").needs == ("pair",) and methods.describe("arcee_fusion").needs == ("single",)
    assert methods.describe("knots").needs == methods.describe("core_space").needs == ("adapters",)
