"""Every method on a CUDA device, called in this process: what it makes there is what it makes on the CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.emulated import Machine, waits_of
from helpers.on_device import moved
from helpers.small import SMALL
from helpers.support import random_experts
from helpers.tiny import TinySource

import methods
from methods.api import Experts, Merged, NotApplicable, Stream
from methods.symerge import selection, self_label_loss

NAMES = methods.names()
#: Methods that adapt on a stream, batch by batch.
ADAPTING = [n for n in NAMES if {"steps", "batch_size"} <= methods.describe(n).parameters.keys()]
TASKS = 3
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
#: Waits a batch of methods that copy more than their labels and the rows of their experts' outputs.
MORE = {"surgery": 4, "prob_surgery": 3}


def merged_on(device: torch.device, name: str, **more: Any) -> Merged:
    """A few steps of the method on random images."""
    about, experts = methods.get(name), moved(random_experts(TASKS), device)
    keywords = {**{k: v for k, v in SMALL.items() if k in about.parameters}, **more}
    access = about.access_for(keywords)
    splits = {
        split: {task: TinySource(10 * k + len(split)) for k, task in enumerate(experts.tasks)}
        for split, _ in access.items()
    }
    stream = [Stream(splits, access, device=device)] if access else []
    return about(experts, *stream, **keywords)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_makes_on_cuda_what_it_makes_on_the_cpu(name: str, cuda: Machine | None) -> None:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    for device in (CUDA, CPU):
        try:
            merged = merged_on(device, name)
        except NotApplicable:
            return
        models = [merged.model(task) for task in merged.experts.tasks]
        with torch.inference_mode():
            found = [model(images.to(device)) for model in models]
        assert {output.device for output in found} == {device}
        outputs.append([output.cpu() for output in found])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0.02, atol=0.02)


#: What merges adapters, one expert or two, or trains on labels where a keyword says so: ``(name, keywords, experts)``.
SPECIAL = [
    ("knots", {}, 3),
    ("core_space", {}, 3),
    ("core_space", {"inner": "tsv_m", "isotropic": True}, 3),
    ("dc_merge", {"smoothing": "linear", "keep": 0.1}, 3),
    ("robustmerge", {}, 3),
    ("slerp", {}, 2),
    ("arcee_fusion", {}, 1),
    ("localize_stitch", {"labels": True, "examples": 8, "epochs": 2}, 3),
]


def special_experts(name: str, count: int, device: torch.device) -> Experts:
    """Random experts, of what merges adapters as adapters of their two MLPs."""
    experts = random_experts(count)
    if "adapters" in methods.describe(name).needs or name == "dc_merge":
        generator = torch.Generator().manual_seed(0)
        weights = {n: experts.base[n].shape for n in experts.names if ".mlp." in n and n.endswith("weight")}
        adapters = {
            task: {n: (torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator), 0.1)
                   for n, (rows, columns) in weights.items()}
            for task in experts.tasks
        }  # fmt: skip
        experts = Experts.from_lora(experts.base, adapters, heads=experts.heads, encoder=experts.encoder)
    return moved(experts, device)


@pytest.mark.parametrize(("name", "keywords", "count"), SPECIAL)
def test_what_merges_adapters_one_expert_or_two_makes_on_cuda_what_it_makes_on_the_cpu(
    name: str, keywords: dict[str, Any], count: int, cuda: Machine | None
) -> None:
    states = []
    for device in (CUDA, CPU):
        experts = special_experts(name, count, device)
        access = methods.describe(name).access_for(keywords)
        sources = {s: {t: TinySource(k) for k, t in enumerate(experts.tasks)} for s, _ in access.items()}
        stream = [Stream(sources, access, device=device)] if access else []
        states.append(methods.get(name)(experts, *stream, **keywords).state_dict())
    for tensor, value in states[1].items():
        assert states[0][tensor].device in (CUDA, CPU)
        torch.testing.assert_close(states[0][tensor].cpu(), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTING)
def test_a_batch_of_adaptation_waits_for_the_device_at_most_twice(name: str, cuda: Machine | None) -> None:
    waits: list[Counter[str]] = []
    for steps in (1, 3):
        with waits_of(cuda) as counted:
            try:
                merged_on(CUDA, name, steps=steps)
            except NotApplicable:
                return
        waits.append(counted)
    batches = 2 * TASKS
    assert (waits[1] - waits[0]).total() <= MORE.get(name, 2) * batches, waits[1] - waits[0]


def test_triplets_of_singular_values_are_kept_for_the_device_that_made_them(
    cuda: Machine | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    states, kept = [], []
    for device in (CPU, CUDA, CUDA):
        states.append(merged_on(device, "tsv_m").state_dict())
        kept.append(len(list((tmp_path / "svd").glob("*"))))
    assert 0 < kept[0] < kept[1] == kept[2]
    for name, value in states[2].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_of_classes_that_half_precision_ties_the_first_is_the_label(device: torch.device, cuda: Machine | None) -> None:
    """Between 16 and 32 numbers of bfloat16 are an eighth apart: 20 and 20.05 are one."""
    exact = torch.tensor([[1.0, 20.0, 20.05], [20.05, 20.0, 1.0], [20.0, 1.0, 20.0]])
    expert, merged = exact.bfloat16().to(device), torch.zeros(3, 3, device=device, requires_grad=True)
    assert expert.float().softmax(-1).argmax(-1).tolist() == [1, 0, 0]
    keywords = {"kind": "classification", "labels": "hard", "select": "all"}
    self_label_loss(merged, expert, None, **keywords).backward()
    assert merged.grad is not None and (merged.grad < 0).int().argmax(-1).tolist() == [1, 0, 0]
    own = expert.clone().requires_grad_(True)
    assert selection(own.float().softmax(-1), expert.float().softmax(-1), "agreement", 0.5).all(), "ties agree"
