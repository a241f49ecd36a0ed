"""Gradients in float16 are scaled: none is lost, an overflow changes no parameter; other dtypes are left alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.support import random_experts
from helpers.tiny import TinyBench, TinySource
from torch import Tensor, nn

import methods
from benchmark.harness.child import process
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records.precision import Precision
from benchmark.records.store import Store
from methods.api import Batch, Experts, Merged, Stream
from methods.tools import scaling
from methods.tools.adaptation import adapt
from methods.tools.scaling import ScaledGradients

#: A loss so flat that its gradient in float16 is 0.
FLAT = 2.0**-30


class Halved(torch.autograd.Function):
    """Its input, whose gradient goes through float16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.half().float()


def loss_of(parameter: Tensor, slope: float) -> Tensor:
    return Halved.apply(parameter).sum() * slope


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


def test_a_gradient_below_float16_reaches_the_parameters_in_its_own_size() -> None:
    lost, kept = parameter(), parameter()
    loss_of(lost, FLAT).backward()
    assert lost.grad is not None and not lost.grad.any()
    with ScaledGradients():
        for _ in range(2):
            loss_of(kept, FLAT).backward()
        (value,) = torch.autograd.grad(loss_of(kept, FLAT), [kept])
    assert kept.grad is not None and kept.grad.tolist() == [2 * FLAT] * 3, "two passes add up"
    assert value.tolist() == [FLAT] * 3


def test_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    weight = parameter()
    optimiser = torch.optim.Adam([weight], lr=0.1)
    with ScaledGradients() as scaled:
        loss_of(weight, 1e-3).backward()
        optimiser.step()
        after, scale = weight.detach().clone(), scaled.scale
        optimiser.zero_grad()
        loss_of(weight, 1e-3).backward()
        loss_of(weight, 1e3).backward()
        optimiser.step()
        assert torch.equal(weight, after), "not even the momentum moves it"
        assert scaled.scale == scale / 2 and scaled.summary() == {"gradient_scale": scale / 2, "dropped_passes": 1}
        steps = optimiser.state[weight]["step"].item()
        optimiser.zero_grad()
        loss_of(weight, 1e-3).backward()
        optimiser.step()
        assert optimiser.state[weight]["step"].item() == steps + 1 and not torch.equal(weight, after)


def test_gradients_that_are_asked_for_are_zero_after_an_overflow_and_the_step_of_every_optimiser_is_skipped() -> None:
    first, second = parameter(), parameter()
    optimisers = [torch.optim.SGD([p], lr=0.1) for p in (first, second)]
    with ScaledGradients():
        for optimiser in optimisers:
            optimiser.step()
        first.grad, second.grad = torch.ones(3), torch.ones(3)
        (value,) = torch.autograd.grad(loss_of(first, 1e3), [first])
        assert not value.any()
        for optimiser in optimisers:
            optimiser.step()
        assert first.tolist() == second.tolist() == [1.0] * 3
        first.grad = torch.ones(3)
        torch.autograd.grad(loss_of(second, 1e-3), [second])
        optimisers[0].step()
    assert first.tolist() != [1.0] * 3


def test_without_an_optimiser_a_pass_is_repeated_until_it_fits() -> None:
    weight = parameter()
    with ScaledGradients() as scaled:
        for slope in (1.0, 1e3, 1e4):
            weight.grad = None
            loss_of(weight, slope).backward()
            assert weight.grad is not None and weight.grad.tolist() == [slope] * 3
        assert scaled.scale * 1e4 < 65504 and not scaled.dropped


def test_a_loss_that_is_no_number_changes_nothing() -> None:
    weight = parameter()
    optimiser = torch.optim.SGD([weight], lr=0.1)
    with ScaledGradients() as scaled:
        (loss_of(weight, 1.0) * math.nan).backward()
        optimiser.step()
        assert weight.tolist() == [1.0] * 3 and scaled.dropped == 1 and scaled.scale == scaling.START / 2


def test_the_scale_rises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PATIENCE", 3)
    weight = parameter()
    with ScaledGradients(16.0) as scaled:
        for _ in range(3):
            assert scaled.scale == 16.0
            loss_of(weight, 1.0).backward()
        assert scaled.scale == 32.0


def test_gradients_that_are_handed_over_are_left_alone() -> None:
    weight = parameter()
    with ScaledGradients():
        Halved.apply(weight).backward(torch.full((3,), FLAT))
        assert weight.grad is not None and not weight.grad.any()
        (value,) = torch.autograd.grad(Halved.apply(weight), [weight], grad_outputs=torch.full((3,), 2.0))
    assert value.tolist() == [2.0] * 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_loss_of_any_dtype_keeps_its_digits(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.full((3,), 1 / 3, dtype=dtype))
    plain = torch.autograd.grad(weight.square().sum(), [weight])[0]
    with ScaledGradients() as scaled:
        weight.square().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == dtype and torch.equal(weight.grad, plain)
    assert scaled.scale == (scaling.START / 2 if dtype == torch.float16 else scaling.START), "65,536 is no float16"


def test_nothing_of_it_stays() -> None:
    weight = parameter()
    with ScaledGradients() as scaled:
        loss_of(weight, 1e-3).backward()
        torch.optim.SGD([weight], lr=0.0).step()
        loss_of(weight, 1e3).backward()
        assert scaled.dropped == 1
    optimiser = torch.optim.SGD([weight], lr=0.1)
    loss_of(weight, 1.0).backward()
    optimiser.step()
    assert weight.tolist() != [1.0] * 3


@pytest.mark.parametrize("name", ["symerge", "adamerging", "pcgrad", "localize_stitch", "surgery", "wemoe"])
def test_scaled_gradients_of_a_method_are_those_that_it_has_without(name: str) -> None:
    """In float32 a scale changes nothing but what lies below the least normal number."""
    keywords = {k: v for k, v in {"steps": 3, "batch_size": 8, "labels": True, "examples": 8, "epochs": 2}.items()}
    found = []
    for around in (False, True):
        about, experts = methods.get(name), random_experts(3)
        own = {k: v for k, v in keywords.items() if k in about.parameters and (k != "labels" or "localize" in name)}
        access = about.access_for(own)
        sources = {s: {t: TinySource(k) for k, t in enumerate(experts.tasks)} for s, _ in access.items()}
        stream = Stream(sources, access)
        if around:
            with ScaledGradients() as scaled:
                merged = about(experts, stream, **own)
            assert scaled.summary() == {"gradient_scale": scaling.START, "dropped_passes": 0}
        else:
            merged = about(experts, stream, **own)
        found.append(merged.state_dict(experts.tasks[0]))
    for tensor, value in found[0].items():
        torch.testing.assert_close(found[1][tensor], value, rtol=1e-5, atol=1e-7)


def flat(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    """Learns one number from a loss whose gradient float16 has no number for."""
    weight = parameter()

    def loss(task: str, batch: Batch) -> Tensor:
        return loss_of(weight, FLAT)

    # Adam's steps hang on the sign alone: one of a plain descent shows the size.
    trace = adapt(stream, [weight], loss, steps=1, lr=1.0, batch_size=8,
                  optimiser=lambda tensors: torch.optim.SGD(tensors, lr=1.0 / FLAT))  # fmt: skip
    return Merged(experts, {}, trace={**trace, "learned": weight.detach().clone()})


@pytest.mark.parametrize("autocast", [None, "bfloat16", "float16"])
def test_a_run_scales_in_float16_alone(autocast: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(process.STAND_INS, "adamerging", flat)
    jobs = plan(TinyBench(), ["adamerging"], seeds=[0], precision=Precision(autocast=autocast))[2:]
    (record,) = execute(jobs, TinyBench(), Store(tmp_path), Options())
    assert record.status == "done", record.error
    learned = record.trace_summary["learned"]
    if autocast == "float16":
        assert learned == [[-2.0] * 3], "1 less one for each task"
        assert record.trace_summary["gradient_scale"] == scaling.START and record.trace_summary["dropped_passes"] == 0
    else:
        assert learned == [[1.0] * 3], "the loss lies below float16, as the stand-in has it"
        assert "gradient_scale" not in record.trace_summary
