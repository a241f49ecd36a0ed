"""What each data-free merge of 2022 to 2026 does, on cases small enough to be worked out by hand or in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.support import assert_same, golden_experts, golden_states, random_experts, random_stream

import methods
from methods.ace import HETEROGENEITY, heterogeneity
from methods.api import Experts, Merged, MergingError, Stream
from methods.fr_merging import filtered
from methods.svc import calibrated

SVD = torch.linalg.svd


def merge(name: str, experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    found: Merged = methods.get(name)(experts, stream, **keywords)
    return found


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
    # The rescalers of another share, from their definition.
    keep, names = 0.25, experts.names
    for k, found in enumerate(merge("free_merging", experts, keep=keep).trace["rescalers"]):
        own = whole = 0.0
        for name in names:
            vectors = experts.task_vectors(name)
            vector, inside = vectors[k], "attn" in name or "mlp" in name
            top = vector.abs().topk(int(keep * vector.shape[-1]), dim=-1).values
            own += float(top.sum()) / vector.numel() / len(names)
            whole += float((filtered(vectors, 0.7)[k] if inside else vector).abs().mean()) / len(names)
        torch.testing.assert_close(float(found), -math.log10(keep) * own / keep / whole, atol=1e-4, rtol=1e-4)
    merged.save(tmp_path / "merged.safetensors")
    loaded = Merged.load(tmp_path / "merged.safetensors", experts)
    assert_same(loaded.state_dict("t2"), merged.state_dict("t2"), atol=0)
    base = dict(experts.base)
    still = merge("free_merging", Experts.from_state_dicts(base, {"a": base, "b": base}))
    assert_same(still.state_dict("b"), base, atol=0)
