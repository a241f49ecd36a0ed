"""Methods that adapt, route or train: what defines them, what they store, and that they can be read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import random_experts, random_stream
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import methods
from methods import adarank, channels, joint, nash_mtl, pcgrad, prob_surgery, surgery, twin, wemoe, zipit
from methods.api import Access, Experts, Merged, MergingError, NotApplicable, Stream
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
    "taps": {"steps": 2},
    "supermerge": {"steps": 2},
    "wemoe": {"steps": 2},
    "twin": {"steps": 2},
}
JOINT = {"joint", "pcgrad", "pcgrad_weighted", "cagrad", "nash_mtl"}
ACCESS = {name: Access(train="labelled") for name in (*JOINT, "taps")}
ACCESS |= {name: Access(val="labelled") for name in ("supermerge", "twin")}


def merge(name: str, experts: Experts, **keywords: Any) -> Merged:
    stream = random_stream(experts.tasks, classes=5 if name in ACCESS else None)
    found: Merged = methods.get(name)(experts, stream, **{**QUICK[name], **keywords})
    return found


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(7))


def with_states(
    experts: Experts, tuned: dict[str, dict[str, Tensor]], base: dict[str, Tensor] | None = None
) -> Experts:
    return Experts(base or experts.base, tuned, heads=experts.heads, encoder=experts.encoder)


def small_net_experts(tasks: int = 2) -> Experts:
    """A convolutional encoder with 16 features and experts near each other."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16))
    generator = torch.Generator().manual_seed(0)

    def near(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in state.items()}

    base = near({n: torch.zeros_like(t) for n, t in net.state_dict().items()})
    tuned = {f"t{k}": near(base) for k in range(tasks)}
    return Experts(base, tuned, heads={t: nn.Linear(16, 5) for t in tuned}, encoder=net)


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


# WEMoE


def plain_mixture(experts: Experts, merged: Merged, image: Tensor) -> Tensor:
    """What WEMoE defines for one image, with the merged weights written into an ordinary encoder block by block."""
    state = {n: merged.shared[n].clone() for n in experts.names}
    for name in wemoe.mlps(experts):
        encoder = experts.encoder
        encoder.load_state_dict(state)
        kept: list[Tensor] = []
        handle = encoder.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, kept=kept: kept.append(inputs[0])
        )
        encoder.eval()(image)
        handle.remove()
        router = wemoe.gate(32, len(experts), 0.0)
        router.load_state_dict({k.rpartition("/")[2]: v for k, v in merged.extra.items() if f"/{name}/" in k})
        rows = kept[0] if kept[0].shape[0] == 1 else kept[0].transpose(0, 1)
        weights = router(rows).mean(1)[0]
        for part in ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias"):
            full = f"{name}.{part}"
            state[full] = experts.base_tensor(full) + torch.tensordot(weights, experts.task_vectors(full), 1)
    return experts.forward(state, "t0", image)


def test_wemoe_merges_the_mlps_of_each_image_by_its_gates() -> None:
    experts = random_experts()
    merged = merge("wemoe", experts, steps=20, lr=0.02)
    batch = images(4) * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(4, 1, 1, 1)
    with torch.no_grad():
        found = merged.model("t0").encoder(batch)
        expected = torch.cat([plain_mixture(experts, merged, image[None]) for image in batch])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (found - methods.get("task_arithmetic")(experts).model("t0").encoder(batch)).abs().max() > 1e-2
        torch.testing.assert_close(found[1:2], merged.model("t1").encoder(batch[1:2]), atol=1e-5, rtol=1e-5)


def test_wemoe_starts_near_task_arithmetic_and_stores_all_mlps() -> None:
    experts = random_experts()
    merged = merge("wemoe", experts, steps=0)
    for key, value in merged.extra.items():
        if key.endswith("/0.weight") or key.endswith("/2.weight"):
            value.zero_()
    with torch.no_grad():
        expected = methods.get("task_arithmetic")(experts).model("t0").encoder(images())
        torch.testing.assert_close(merged.model("t0").encoder(images()), expected, atol=1e-5, rtol=1e-5)
    mlps = sum(experts.base[n].numel() for n in experts.names if ".mlp." in n)
    gates = 2 * (32 * 32 + 32 + 32 * 3 + 3)
    assert merged.storage == 4 * (3 * mlps + gates) and not merged.needs_task


def test_wemoe_batch_reduce_gives_one_mixture_to_the_batch() -> None:
    merged = merge("wemoe", random_experts(), steps=20, lr=0.02, batch_reduce=True)
    batch = images(4) * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(4, 1, 1, 1)
    with torch.no_grad():
        model = merged.model("t0").encoder
        assert (model(batch)[:1] - model(batch[:1])).abs().max() > 1e-5


def test_wemoe_says_what_it_cannot_route() -> None:
    with pytest.raises(NotApplicable, match="mlp.c_fc"):
        methods.get("wemoe")(small_net_experts(), random_stream(["t0", "t1"]))


# Twin-Merging


def test_twin_gives_each_sample_its_own_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = random_experts()
    merged = merge("twin", experts, steps=20)
    batch = images(4) * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(4, 1, 1, 1)
    state = {n: t for n, t in merged.extra.items() if n.startswith("router/")}
    with torch.no_grad():
        mixture = merged.model("t1").encoder
        found = mixture(batch)
        weights = mixture.router(experts.forward(merged.shared, "t0", batch)).softmax(-1)
        differences = twin.restored(merged)
        for i, image in enumerate(batch):
            own = {n: merged.shared[n] + torch.tensordot(weights[i], differences[n], 1) for n in experts.names}
            torch.testing.assert_close(found[i], experts.forward(own, "t0", image[None])[0], atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(twin, "AT_ONCE", 0)
        torch.testing.assert_close(found, mixture(batch), atol=1e-4, rtol=1e-4)
    assert len(weights.unique(dim=0)) == 4 and state and not merged.needs_task


def test_twin_at_full_rank_restores_an_expert_that_its_router_is_sure_of() -> None:
    experts = random_experts()
    merged = merge("twin", experts, rank=1.0, steps=0)
    differences = twin.restored(merged)
    for name in experts.names:
        own = experts.expert("t2")[name]
        torch.testing.assert_close(merged.shared[name] + differences[name][2], own, atol=1e-5, rtol=0)


def test_twin_router_learns_which_task_a_sample_is_from() -> None:
    experts = random_experts()
    drawn = random_stream(experts.tasks, draws=2, size=16)
    given = {
        t: drawn.fetch(t, torch.arange(32)).inputs.view(2, 16, 3, 16, 16) + 2 * k - 2
        for k, t in enumerate(experts.tasks)
    }
    stream = Stream.from_batches(given, labels={t: torch.zeros(2, 16, dtype=torch.int64) for t in given})
    merged = methods.get("twin")(experts, stream, steps=100, lr=5e-3)
    with torch.no_grad():
        mixture = merged.model("t0").encoder
        for k, task in enumerate(experts.tasks):
            logits = mixture.router(mixture.encoder(given[task][0]))
            assert (logits.argmax(-1) == k).float().mean() > 0.8


# ZipIt


class Residual(nn.Module):
    """A small residual net of torchvision's layout: stem, a plain block, a block that changes the width, features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.layer1 = BasicBlock(6, 6)
        down = nn.Sequential(nn.Conv2d(6, 10, 1, stride=2, bias=False), nn.BatchNorm2d(10))
        self.layer2 = BasicBlock(6, 10, stride=2, downsample=down)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(40, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


def plain_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 25, 12),
    )


def permuted(net: nn.Module, order: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a net that computes the same with its channels in other orders, by space of channels."""
    found = channels.trace(net.eval(), torch.randn(2, 3, 16, 16))
    state = {n: t.clone() for n, t in net.state_dict().items()}
    for layer in found.layers:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            name = f"{layer.name}.{leaf}"
            if name in state:
                state[name] = state[name][order[layer.writes]]
        if layer.mixes and layer.reads != "image":
            weight = state[f"{layer.name}.weight"]
            apart = weight.reshape(len(weight), len(order[layer.reads]), -1)[:, order[layer.reads]]
            state[f"{layer.name}.weight"] = apart.reshape(weight.shape)
    return state


def conv_experts(net: nn.Module, how: str, tasks: int = 3) -> tuple[Experts, dict[str, dict[str, Tensor]]]:
    """Experts around a net, and per task the order of every space: permuted copies, or nets of their own."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(1024, 3, 16, 16))
    net.eval()
    width = channels.trace(net, torch.randn(2, 3, 16, 16)).width
    orders = {f"t{k}": {s: torch.randperm(w) if k else torch.arange(w) for s, w in width.items()} for k in range(tasks)}
    states = {t: permuted(net, order) for t, order in orders.items()}
    if how == "apart":
        states = {
            t: {n: v + 0.2 * torch.randn(v.shape) if v.ndim > 1 else v for n, v in s.items()} for t, s in states.items()
        }
    heads = {t: nn.Linear(12, 5) for t in states}
    return Experts(net.state_dict(), states, heads=heads, encoder=net), orders


@pytest.mark.parametrize("build", [plain_net, Residual])
@pytest.mark.parametrize(("tasks", "a"), [(2, 0.3), (3, 1.0)])
def test_zipit_finds_the_channels_of_permuted_experts(build: Any, tasks: int, a: float, tmp_path: Path) -> None:
    experts, orders = conv_experts(build(), "permuted", tasks)
    stream = random_stream(experts.tasks, draws=16, size=16)
    merged = methods.get("zipit")(experts, stream, a=a, b=0.0)
    average = methods.get("weight_average")(experts)
    for task in experts.tasks:
        own = experts.forward(experts.state(task), task, images(8))
        gaps = [(m.model(task).encoder(images(8)) - own).abs().mean() / own.abs().mean() for m in (merged, average)]
        assert gaps[0] < 0.1 and gaps[1] > 0.3
    assert merged.storage == tasks * 12 * 4 and merged.needs_task
    merged.save(tmp_path / "zip.safetensors")
    again = Merged.load(tmp_path / "zip.safetensors", experts)
    assert torch.equal(again.model("t1")(images()), merged.model("t1")(images()))


@pytest.mark.parametrize("reduction", [0.0, 0.5])
def test_zipit_between_one_width_and_all(reduction: float, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12))
    experts, _ = conv_experts(net, "apart")
    merged = methods.get("zipit")(experts, random_stream(experts.tasks, draws=4), reduction=reduction, examples=32)
    assert sorted(merged.trace["channels"].values()) == ([24, 36] if reduction == 0 else [16, 24])
    gap = 0.0
    for task in experts.tasks:
        own = experts.forward(experts.state(task), task, images(8))
        gap = max(gap, float((merged.model(task).encoder(images(8)) - own).abs().max()))
    assert (gap < 1e-3) == (reduction == 0)
    kept = sum(t.numel() * t.element_size() for _, t in merged.tensors())
    assert merged.storage == kept - experts.nbytes() > 0
    merged.save(tmp_path / "zip.safetensors")
    again = Merged.load(tmp_path / "zip.safetensors", experts)
    assert torch.equal(again.model("t1")(images()), merged.model("t1")(images()))


@pytest.mark.parametrize("tasks", [1, 2])
def test_zipit_of_equal_experts_is_the_expert(tasks: int) -> None:
    experts, _ = conv_experts(plain_net(), "permuted", tasks=1)
    one = dict(experts.expert("t0"))
    experts = Experts(
        experts.base,
        {f"t{k}": one for k in range(tasks)},
        encoder=experts.encoder,
        heads={f"t{k}": experts.head("t0") for k in range(tasks)},
    )
    merged = methods.get("zipit")(experts, random_stream(experts.tasks, draws=16, size=16))
    own = experts.forward(experts.state("t0"), "t0", images(8))
    found = merged.model("t0").encoder(images(8))
    assert (found - own).abs().mean() < 0.1 * own.abs().mean() and torch.isfinite(found).all()


def test_zipit_matching_equals_a_plain_greedy_search() -> None:
    generator = torch.Generator().manual_seed(1)
    for models, width, keep, a, b in [
        (2, 9, 9, 0.3, 0.5),
        (3, 6, 6, 0.7, 1.0),
        (3, 5, 8, 1.0, 0.0),
        (4, 4, 4, 0.01, 0.3),
    ]:
        rows = torch.randn(200, models * width, generator=generator) @ torch.randn(
            models * width, models * width, generator=generator
        )
        covariance = torch.cov(rows.T)
        near = torch.corrcoef(rows.T).fill_diagonal_(-torch.inf)
        groups, owners = [[i] for i in range(models * width)], [i // width for i in range(models * width)]
        left = [int((models * width - keep) // models * b + 1e-4)] * models
        while len(groups) > keep:
            i, j = sorted(divmod(int(near.argmax()), len(groups)))
            same = owners[i] == owners[j]
            groups[i] += groups.pop(j)
            near[i] = torch.minimum(near[i], near[j]) * a
            near[:, i] = near[i]
            near[i, i] = -torch.inf
            rest = [x for x in range(len(near)) if x != j]
            near, owners = near[rest][:, rest], [owners[x] for x in rest]
            if same:
                left[owners[i]] -= 1
                if left[owners[i]] <= 0:
                    own = torch.tensor([o == owners[i] for o in owners])
                    near[own[:, None] & own[None, :]] = -torch.inf
        _, unmerge = zipit.match(covariance, models, keep, a, b)
        assert {tuple(sorted(g)) for g in groups} == {tuple(c.nonzero()[:, 0].tolist()) for c in unmerge.T}


@pytest.mark.parametrize("what", ["transformer", "grouped"])
def test_zipit_says_in_one_line_what_it_cannot_follow(what: str) -> None:
    experts = random_experts()
    if what == "grouped":
        net = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten())
        experts = Experts(net.state_dict(), {"t0": net.state_dict()}, heads={"t0": nn.Linear(6, 5)}, encoder=net)
    with pytest.raises(NotApplicable) as caught:
        methods.get("zipit")(experts, random_stream(experts.tasks))
    assert "\n" not in str(caught.value) and "plain convolutional" in str(caught.value)
