"""WEMoE and Twin-Merging: every sample is given the weights that the papers define."""

from __future__ import annotations

import pytest
import torch
from helpers.adaptive import images, merge, small_net_experts
from helpers.support import random_experts, random_stream
from torch import Tensor

import methods
from methods import twin, wemoe
from methods.api import Experts, Merged, NotApplicable, Stream

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
