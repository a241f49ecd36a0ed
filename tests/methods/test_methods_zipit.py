"""ZipIt!: channels that compute the same are found, nets of any width can be read back, others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adaptive import images
from helpers.support import random_experts, random_stream
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import methods
from methods import zipit
from methods.api import Access, Experts, Merged, NotApplicable
from methods.tools import channels


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


def conv_experts(
    build: Callable[[], nn.Module], how: str, tasks: int = 3
) -> tuple[Experts, dict[str, dict[str, Tensor]]]:
    """Experts around a net, and per task the order of every space: permuted copies, or nets of their own."""
    torch.manual_seed(0)
    net = build()
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
    experts, orders = conv_experts(build, "permuted", tasks)
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
    def pooled() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12))

    experts, _ = conv_experts(pooled, "apart")
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
    experts, _ = conv_experts(plain_net, "permuted", tasks=1)
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
    assert methods.describe("zipit").access == Access(train="unlabelled")
    assert "\n" not in str(caught.value) and "plain convolutional" in str(caught.value)
