"""Training on labels, all tasks together: what the upper bounds compute, share and store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.adaptive import JOINT, merge, with_states
from helpers.support import random_experts, random_stream

import methods
from methods import cagrad, joint, nash_mtl, pcgrad
from methods.api import MergingError
from methods.tools import multitask
from methods.tools.losses import supervised_loss


@pytest.mark.parametrize("name", sorted(JOINT))
def test_training_lowers_the_loss_within_its_budget_of_images(name: str) -> None:
    experts = random_experts()
    stream = random_stream(experts.tasks, draws=1, classes=5)
    merged = methods.get(name)(experts, stream, steps=40, lr=1e-3)
    losses = merged.trace["losses"]
    assert losses[-1] < 0.7 * losses[0]
    assert merged.trace["images"] == 40 * 8 * 3
    assert not merged.heads and merged.storage == 0


def test_joint_sees_nothing_of_the_experts_weights() -> None:
    experts = random_experts()
    other = with_states(experts, {t: dict(experts.base) for t in experts.tasks})
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


@pytest.mark.parametrize("count", [2, 3, 8])
def test_gradients_that_cancel_give_finite_and_positive_weights(count: int) -> None:
    for seed in range(20):
        gradients = 3 * torch.randn(count, 50, generator=torch.Generator().manual_seed(seed))
        gradients[-1] = -gradients[:-1].sum(0)
        alpha = nash_mtl.bargain(multitask.products(gradients))
        assert np.isfinite(alpha).all() and (alpha > 0).all()
        assert torch.isfinite(cagrad.combine(gradients)).all()
    whole = multitask.products(torch.randn(3, 50, generator=torch.Generator().manual_seed(0)), columns=50)
    parts = multitask.products(torch.randn(3, 50, generator=torch.Generator().manual_seed(0)), columns=7)
    np.testing.assert_allclose(whole, parts, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3, 1e6])
def test_conflict_averse_weights_are_the_same_at_any_length_of_the_gradients(size: float) -> None:
    same_way = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    for seed in range(6):
        gradients = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)) if seed else same_way
        found = cagrad.combine(gradients * size) / size
        torch.testing.assert_close(found, cagrad.combine(gradients), atol=1e-2, rtol=0)
        gram = multitask.products(gradients * size)
        scale = 0.5 * float(np.sqrt(gram.mean()))
        weights = cagrad.worst_case(gram, scale)
        assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-12)

        def value(w: np.ndarray, gram: np.ndarray = gram, scale: float = scale) -> float:
            return float(w @ gram.mean(1) + scale * np.sqrt(w @ gram @ w))

        others = np.random.default_rng(seed).dirichlet(np.ones(len(gram)), 2000)
        assert value(weights) <= min(map(value, others)) + 5e-5 * gram.max()
        if not seed:
            np.testing.assert_allclose(weights, [0, 1], atol=1e-4)


def test_conflict_averse_weights_outlast_a_solver_that_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    solver, calls = cagrad.minimize, 0

    def lazy(value: object, start: np.ndarray, **keywords: object) -> object:
        nonlocal calls
        calls += 1
        optimum = solver(value, start, **keywords)
        if calls == 1:
            optimum.x = np.array([-1.0, 3.0])
        return optimum

    monkeypatch.setattr(cagrad, "minimize", lazy)
    np.testing.assert_allclose(cagrad.worst_case(np.array([[0.25, 0.5], [0.5, 1.0]]), 0.3), [1, 0], atol=1e-4)
    assert calls > 1


def test_extreme_settings_of_the_gradient_rules_run_or_are_refused() -> None:
    experts = random_experts(tasks=2)
    merged = merge("pcgrad_weighted", experts, steps=2, gamma=1000.0)
    assert torch.isfinite(merged.trace["losses"]).all()
    with pytest.raises(MergingError, match="update_every is 0"):
        merge("nash_mtl", experts, update_every=0)


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


# TAPS


def test_taps_shares_the_layers_that_no_task_needs() -> None:
    experts = random_experts()
    merged = merge("taps", experts, steps=60, sparsity=100.0, warmup=0.0)
    assert set(merged.trace["active_layers"].values()) == {0}
    norms = {n for n in experts.names if ".ln_" in n}
    assert set(merged.layers["t0"]) == norms
    for name in set(experts.names) - norms:
        assert torch.equal(merged.state_dict("t1")[name], experts.base_tensor(name))
    size = sum(experts.base[n].numel() for n in norms)
    assert merged.storage == 4 * (3 - 1) * size and merged.needs_task


def test_taps_without_a_penalty_trains_all_layers_of_every_task() -> None:
    experts = random_experts()
    stream = random_stream(experts.tasks, draws=1, classes=5)
    merged = methods.get("taps")(experts, stream, steps=40, sparsity=0.0, threshold=0.05, lr=2e-3)
    assert merged.trace["losses"][-1] < 0.8 * merged.trace["losses"][0]
    assert merged.trace["layers"] == 10 and len(merged.layers["t0"]) > 20
    weight = "model.visual.conv1.weight"
    assert not torch.equal(merged.layers["t0"][weight], merged.layers["t1"][weight])
    assert {n for n in experts.names if "embedding" in n}.isdisjoint(merged.layers["t0"])
