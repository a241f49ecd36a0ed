"""Methods that adapt, route or train: what defines them, what they store, and that they can be read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.adaptive import ACCESS, QUICK, assert_reads_back, images, merge, with_states
from helpers.support import random_experts, random_stream

import methods
from methods import adarank, prob_surgery, surgery
from methods.api import Access, Experts, MergingError


@pytest.mark.parametrize("name", QUICK)
def test_what_is_saved_gives_the_same_predictions(name: str, tmp_path: Path) -> None:
    experts = random_experts()
    assert_reads_back(merge(name, experts), experts, tmp_path)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("case", ["one task", "equal to base", "float16", "scalar and buffer"])
def test_odd_experts_give_finite_models(name: str, case: str) -> None:
    experts = random_experts(
        tasks=1 if case == "one task" else 2, dtype=torch.float16 if case == "float16" else torch.float32
    )
    if case == "equal to base":
        experts = Experts(
            experts.base, {t: dict(experts.base) for t in experts.tasks}, heads=experts.heads, encoder=experts.encoder
        )
    if case == "scalar and buffer":
        more = {"logit_scale": torch.tensor(2.0), "count": torch.tensor([3])}
        tuned = {t: {**experts.expert(t), **more} for t in experts.tasks}
        experts = with_states(experts, tuned, {**experts.base, **more})
    merged = merge(name, experts)
    for task in experts.tasks:
        state = merged.state_dict(task)
        assert all(torch.isfinite(t).all() for t in state.values())
        assert torch.isfinite(merged.model(task)(images())).all()
    if case == "scalar and buffer":
        assert int(merged.state_dict("t0")["count"]) == 3


@pytest.mark.parametrize("name", QUICK)
def test_base_experts_and_heads_are_left_alone(name: str) -> None:
    experts, fresh = random_experts(), random_experts()
    merged = merge(name, experts)
    merged.model("t0")(images())
    for task in experts.tasks:
        assert all(torch.equal(v, fresh.expert(task)[n]) for n, v in experts.expert(task).items())
        assert torch.equal(experts.head(task).weight, fresh.head(task).weight)
    assert all(torch.equal(v, fresh.base[n]) for n, v in experts.base.items())


@pytest.mark.parametrize("name", QUICK)
def test_a_seed_gives_one_result(name: str) -> None:
    first, second = (merge(name, random_experts()) for _ in range(2))
    for (key, a), (other, b) in zip(first.tensors(), second.tensors(), strict=True):
        assert key == other and torch.equal(a, b)


def test_adaptation_asks_for_unlabelled_test_and_training_for_labelled_train() -> None:
    for name in QUICK:
        access = methods.describe(name).access_for({})
        assert access == ACCESS.get(name, Access(test="unlabelled"))


@pytest.mark.parametrize("name", ["adarank", "wemoe"])
def test_entropy_methods_refuse_tasks_without_classes(name: str) -> None:
    experts = random_experts(kinds={"t1": "depth"})
    with pytest.raises(MergingError, match=f"{name} .* 't1' is a depth task"):
        merge(name, experts)
    assert merge("surgery", experts).extra


# AdaRank


def test_adarank_forward_is_a_hard_mask_and_its_gradient_that_of_a_sigmoid() -> None:
    mask = torch.tensor([-3.0, -0.1, 0.0, 0.1, 5.0], requires_grad=True)
    hard = adarank.hard(mask)
    assert hard.tolist() == pytest.approx([0, 0, 0, 1, 1], abs=1e-7)
    hard.sum().backward()
    p = torch.sigmoid(mask.detach() / 10)
    torch.testing.assert_close(mask.grad, p * (1 - p) / 10)


def test_adarank_at_the_start_truncates_each_task_vector() -> None:
    experts = random_experts()
    merged = merge("adarank", experts, steps=0, rank=0.25, prior=0.4)
    for name in experts.names:
        vectors = experts.task_vectors(name)
        if adarank.is_block_weight(name):
            u, s, v = np.linalg.svd(vectors.double().numpy(), full_matrices=False)
            s[:, s.shape[1] // 4 :] = 0
            vectors = torch.from_numpy((u * s[:, None]) @ v).float()
        torch.testing.assert_close(
            merged.shared[name], experts.base_tensor(name) + 0.4 * vectors.sum(0), atol=1e-5, rtol=0
        )


def test_adarank_about_the_mean_with_prior_one_over_k_is_the_mean() -> None:
    experts = random_experts()
    merged = merge("adarank", experts, steps=0, origin="mean", prior=0.7)
    for name in experts.names:
        torch.testing.assert_close(
            merged.shared[name], experts.base_tensor(name) + experts.task_vectors(name).mean(0), atol=1e-5, rtol=0
        )


def test_adarank_drops_components_that_do_not_help() -> None:
    merged = merge("adarank", random_experts(), steps=60, lr=0.05)
    masks = [v for k, v in merged.trace.items() if k.startswith("mask/")]
    dropped = sum(int((m <= 0).sum()) for m in masks)
    assert 0 < dropped < sum(m.numel() for m in masks)
    assert merged.trace["losses"][-5:].mean() < merged.trace["losses"][:5].mean()


# Surgery


@pytest.mark.parametrize("name", ["surgery", "prob_surgery"])
def test_corrected_features_come_closer_to_the_experts(name: str) -> None:
    experts, stream = random_experts(), random_stream(["t0", "t1", "t2"], draws=2)
    merged = methods.get(name)(experts, stream, steps=80, lr=1e-2)
    before = methods.get("task_arithmetic")(experts)
    for task in experts.tasks:
        batch = stream.fetch(task, torch.arange(16)).inputs
        target = experts.forward(experts.state(task), task, batch)
        gaps = [(m.model(task).encoder(batch) - target).abs().mean() for m in (merged, before)]
        assert gaps[0] < 0.7 * gaps[1]


@pytest.mark.parametrize("name", ["surgery", "prob_surgery"])
def test_correction_is_f_minus_up_relu_down_f(name: str) -> None:
    experts = random_experts()
    merged, plain = merge(name, experts, steps=20, lr=1e-2), methods.get("task_arithmetic")(experts)
    features = plain.model("t1").encoder(images())
    down, up = (merged.extra[f"correction/t1/{part}"] for part in ("down", "up"))
    assert up.abs().max() > 0
    expected = features - (features @ down.T).relu() @ up.T
    torch.testing.assert_close(merged.model("t1").encoder(images()), expected)
    assert merged.storage == 3 * (down.numel() + up.numel()) * 4 and merged.needs_task


def test_correction_of_maps_acts_at_every_position() -> None:
    module = surgery.Correction(6, 2, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(module.up)
    maps = torch.randn(2, 6, 3, 4)
    found = module(maps)
    assert torch.allclose(found[:, :, 1, 2], module(maps[:, :, 1, 2]), atol=1e-6) and found.shape == maps.shape


def test_prob_surgery_divergence_is_that_of_normals() -> None:
    mean, log_variance = torch.randn(5, 4), torch.randn(5, 4)
    p = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(p, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(prob_surgery.divergence(mean, log_variance), expected)


def test_prob_surgery_can_share_one_module() -> None:
    merged = merge("prob_surgery", random_experts(), shared=True, rank=4)
    assert set(merged.extra) == {"correction/all/down", "correction/all/up"} and not merged.needs_task


def test_surgery_stands_on_per_task_merges_and_on_adapted_heads(tmp_path: Path) -> None:
    experts = random_experts()
    merged = merge("surgery", experts, inner="individual", steps=3)
    for task in experts.tasks:
        own = experts.forward(experts.state(task), task, images())
        torch.testing.assert_close(merged.model(task).encoder(images()), own, atol=0.05, rtol=0)
        assert (own - methods.get("task_arithmetic")(experts).model(task).encoder(images())).abs().max() > 0.2
    assert_reads_back(merged, experts, tmp_path)
    with pytest.raises(MergingError, match="own inner"):
        merge("surgery", experts, inner="surgery")


# SuperMerge


def test_supermerge_starts_at_the_average_and_stays_within_the_bounds_of_tanh() -> None:
    experts = random_experts()
    start = merge("supermerge", experts, steps=0)
    for name in experts.names:
        mean = experts.base_tensor(name) + experts.task_vectors(name).mean(0)
        torch.testing.assert_close(start.shared[name], mean, atol=1e-6, rtol=0)
    stream = random_stream(experts.tasks, draws=1, classes=5)
    merged = methods.get("supermerge")(experts, stream, steps=60, lr=0.2)
    found = merged.trace["coefficients"]
    assert merged.trace["losses"][-1] < merged.trace["losses"][0] - 0.1
    assert found.abs().max() <= 1 and found.abs().max() > 0.5
    for row, name in zip(found, experts.names, strict=True):
        expected = experts.base_tensor(name) + torch.tensordot(row, experts.task_vectors(name), 1)
        torch.testing.assert_close(merged.shared[name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("granularity", "count"), [("tensor", 32), ("block", 3), ("task", 1)])
def test_supermerge_has_a_coefficient_per_group_and_task(granularity: str, count: int) -> None:
    merged = merge("supermerge", random_experts(), granularity=granularity, steps=3, lr=0.1)
    assert merged.trace["trainable"] == 3 * count
    assert len(merged.trace["coefficients"].unique(dim=0)) == count
