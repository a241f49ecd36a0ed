"""Every method on a CUDA device, called in this process: what it makes there is what it makes on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.emulated import Machine
from helpers.small import SMALL
from helpers.support import random_experts
from helpers.tiny import TinySource

import methods
from methods.api import Experts, Merged, NotApplicable, Stream

NAMES = methods.names()


def experts_on(device: torch.device) -> Experts:
    """Three random experts whose encoder and heads are on the device, as a bench makes them."""
    experts = random_experts(device=device)
    assert experts.encoder is not None
    experts.encoder.to(device)
    for head in experts.heads.values():
        head.to(device)
    return experts


def merged_on(device: torch.device, name: str, **more: Any) -> Merged:
    """A few steps of the method on random images."""
    about, experts = methods.get(name), experts_on(device)
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
    for device in (torch.device("cuda", 0), torch.device("cpu")):
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
