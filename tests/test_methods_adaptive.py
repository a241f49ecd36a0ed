"""Methods that adapt, route or train: what defines them, what they store, and that they can be read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import random_experts, random_stream
from torch import Tensor

import methods
from methods import adarank, joint, nash_mtl, pcgrad, prob_surgery, surgery
from methods.api import Access, Experts, Merged, MergingError
from methods.losses import supervised_loss

QUICK: dict[str, dict[str, Any]] = {
    "adarank": {"steps": 2},
    "surgery": {"steps": 2},
    "prob_surgery": {"steps": 2, "rank": 8},
    "joint": {"steps": 2},
    "pcgrad": {"steps": 2},
    "pcgrad_weighted": {"steps": 2},
    "cagrad": {"steps": 2},
    "nash_mtl": {"steps": 2},
}
LABELS = {"joint", "pcgrad", "pcgrad_weighted", "cagrad", "nash_mtl"}


def merge(name: str, experts: Experts, **keywords: Any) -> Merged:
    stream = random_stream(experts.tasks, classes=5 if name in LABELS else None)
    found: Merged = methods.get(name)(experts, stream, **{**QUICK[name], **keywords})
    return found


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(7))


def with_states(
    experts: Experts, tuned: dict[str, dict[str, Tensor]], base: dict[str, Tensor] | None = None
) -> Experts:
    return Experts(base or experts.base, tuned, heads=experts.heads, encoder=experts.encoder)


def assert_reads_back(merged: Merged, experts: Experts, path: Path) -> None:
    merged.save(path / "merged.safetensors")
    again = Merged.load(path / "merged.safetensors", experts)
    for task in experts.tasks:
        with torch.no_grad():
            assert torch.equal(merged.model(task)(images()), again.model(task)(images()))
    assert again.storage == merged.storage


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
def test_a_seed_gives_one_result(name: str) -> None:
    first, second = (merge(name, random_experts()) for _ in range(2))
    for (key, a), (other, b) in zip(first.tensors(), second.tensors(), strict=True):
        assert key == other and torch.equal(a, b)


def test_adaptation_asks_for_unlabelled_test_and_training_for_labelled_train() -> None:
    for name in QUICK:
        access = methods.describe(name).access_for({})
        assert access == (Access(train="labelled") if name in LABELS else Access(test="unlabelled"))


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


# Joint training and gradient combinations


@pytest.mark.parametrize("name", sorted(LABELS))
def test_training_lowers_the_loss_and_leaves_experts_and_heads_alone(name: str) -> None:
    experts = random_experts()
    before = {t: {n: v.clone() for n, v in experts.expert(t).items()} for t in experts.tasks}
    stream = random_stream(experts.tasks, draws=1, classes=5)
    merged = methods.get(name)(experts, stream, steps=40, lr=1e-3)
    losses = merged.trace["losses"]
    assert losses[-1] < 0.7 * losses[0]
    assert merged.trace["images"] == 40 * 8 * 3
    assert all(torch.equal(before[t][n], v) for t in experts.tasks for n, v in experts.expert(t).items())
    assert not merged.heads and merged.storage == 0


def test_joint_sees_nothing_of_the_experts_weights() -> None:
    experts = random_experts()
    other = Experts(
        experts.base, {t: dict(experts.base) for t in experts.tasks}, heads=experts.heads, encoder=experts.encoder
    )
    first, second = merge("joint", experts), merge("joint", other)
    assert all(torch.equal(first.shared[n], second.shared[n]) for n in experts.names)


def test_joint_shares_the_end_it_is_told_to() -> None:
    experts = random_experts()
    names = list(experts.names)
    assert [len(s) for s in joint.stages(names)] == [5, 12, 12, 3]
    bottom, top = (joint.per_task(names, end, 1) for end in ("bottom", "top"))
    assert set(names) - set(bottom) == {
        n for n in names if "resblocks" not in n and "ln_post" not in n and not n.endswith("proj")
    }
    assert set(names) - set(top) == {n for n in names if "ln_post" in n or n == "model.visual.proj"}
    merged = merge("joint", experts, shared="bottom", layers=3, lr=1e-3)
    assert set(merged.layers["t0"]) == {"model.visual.proj", "model.visual.ln_post.weight", "model.visual.ln_post.bias"}
    assert not torch.equal(merged.layers["t0"]["model.visual.proj"], merged.layers["t1"]["model.visual.proj"])
    assert merged.storage == 2 * 4 * (32 * 16 + 64) and merged.needs_task
    with pytest.raises(MergingError, match="4 stages"):
        merge("joint", experts, shared="top", layers=5)
    with pytest.raises(MergingError, match="layers is 1"):
        merge("joint", experts, layers=1)


def test_joint_steps_equal_plain_descent_on_the_summed_loss() -> None:
    experts = random_experts()
    stream = random_stream(experts.tasks, classes=5)
    merged = methods.get("joint")(experts, stream, steps=1, lr=1e-3, warmup=0.0, weight_decay=0.0)
    replay = random_stream(experts.tasks, classes=5)
    state = {n: experts.base_tensor(n).clone().requires_grad_() for n in experts.names}
    total = torch.zeros(())
    for task in experts.tasks:
        batch = replay.draw(task, 8)
        outputs = experts.head(task)(experts.forward(state, task, batch.inputs))
        total = total + torch.nn.functional.cross_entropy(outputs, batch.labels)
    total.backward()
    optimiser = torch.optim.AdamW(state.values(), lr=1e-3, weight_decay=0.0)
    optimiser.step()
    for name in experts.names:
        torch.testing.assert_close(merged.shared[name], state[name].detach(), atol=1e-5, rtol=0)


def test_projected_gradients_conflict_with_none_of_two() -> None:
    gradients = torch.tensor([[1.0, 0.0, 0.5], [-1.0, 0.4, 0.2]])
    rows = pcgrad.projection(gradients @ gradients.T, None) @ gradients
    assert rows[0] @ gradients[1] == pytest.approx(0, abs=1e-6) and rows[1] @ gradients[0] == pytest.approx(0, abs=1e-6)
    agreeing = gradients.abs()
    torch.testing.assert_close(pcgrad.combine(agreeing), agreeing.sum(0))


def test_weighted_projection_leaves_the_first_drawn_whole() -> None:
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    rows = pcgrad.projection(gradients @ gradients.T, pcgrad.precedence([1, 0])) @ gradients
    assert torch.equal(rows[1], gradients[1])
    assert rows[0] @ gradients[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_bargaining_weights_solve_their_equation(count: int) -> None:
    random = np.random.default_rng(count)
    gradients = random.normal(size=(count, 20)) * np.exp(random.normal(size=(count, 1)) * 3)
    gram = gradients @ gradients.T
    alpha = nash_mtl.bargain(gram)
    np.testing.assert_allclose(alpha * (gram @ alpha), 1.0, atol=1e-6)
    for hopeless in (np.zeros((count, 4)), np.concatenate([gradients, -gradients])):
        assert np.isfinite(nash_mtl.bargain(hopeless @ hopeless.T)).all()


def test_supervised_losses_leave_out_what_has_no_label() -> None:
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.randint(3, (2, 4, 4))
    labels[0] = -1
    expected = torch.nn.functional.cross_entropy(logits[1:], labels[1:])
    torch.testing.assert_close(supervised_loss("segmentation", logits, labels), expected)
    depth, truth = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4) + 0.1
    truth[0] = 0
    torch.testing.assert_close(supervised_loss("depth", depth, truth), (depth[1, 0] - truth[1]).abs().mean())
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 4, 4), dim=1)
    assert supervised_loss("normals", 2 * normals, normals) == pytest.approx(0, abs=1e-6)
    with pytest.raises(MergingError, match="labels"):
        supervised_loss("classification", logits, None)
