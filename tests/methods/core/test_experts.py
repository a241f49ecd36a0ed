"""Experts of one base: what does not match is refused, adapters are their products, names follow the encoder."""

from __future__ import annotations

import pytest
import torch
from helpers.support import (
    Encoder,
    Head,
    golden_experts,
    golden_states,
)
from torch import Tensor, nn

import methods
from methods.api import Experts, MergingError


def test_experts_that_do_not_match_are_refused_with_what_differs() -> None:
    base, tuned = golden_states()
    some = next(iter(base))
    short = {k: v for k, v in tuned["t0"].items() if k != some}
    with pytest.raises(MergingError, match=f"missing {some}; extra none"):
        Experts.from_state_dicts(base, {"t0": short})
    with pytest.raises(MergingError, match="extra more"):
        Experts.from_state_dicts(base, {"t0": {**tuned["t0"], "more": torch.zeros(1)}})
    with pytest.raises(MergingError, match=r"has shape \(3,\), the base has \(32,\)"):
        Experts.from_state_dicts(base, {"t0": {**tuned["t0"], some: torch.zeros(3)}})
    spoiled = {**tuned["t0"], some: torch.full((32,), float("nan"))}
    with pytest.raises(MergingError, match=f"expert t0: {some} holds 32 NaN or Inf"):
        methods.get("weight_average")(Experts.from_state_dicts(base, {"t0": spoiled}))
    for part in (float("inf"), float("-inf")):
        spoiled = {**tuned["t0"], some: torch.tensor([part] * 3 + [0.0] * 29)}
        with pytest.raises(MergingError, match=f"expert t0: {some} holds 3 NaN or Inf"):
            methods.get("weight_average")(Experts.from_state_dicts(base, {"t0": spoiled}))
    # Large values whose sum is beyond float32 are finite all the same.
    large = {**base, some: torch.full((32,), 3e38)}
    merged = methods.get("weight_average")(Experts.from_state_dicts(large, {"t0": large}))
    assert torch.equal(merged.state_dict()[some], large[some])
    with pytest.raises(MergingError, match="no experts given"):
        Experts.from_state_dicts(base, {})


def test_lora_experts_are_their_full_rank_task_vectors() -> None:
    base = {"layer.weight": torch.randn(4, 6), "bias": torch.randn(4)}
    a, b = torch.randn(2, 6), torch.randn(4, 2)
    experts = Experts.from_lora(base, {"x": {"layer": (a, b, 0.5)}, "y": {}})
    torch.testing.assert_close(experts.task_vectors("layer.weight")[0], 0.5 * b @ a)
    assert experts.task_vectors("layer.weight")[1].abs().max() == 0
    with pytest.raises(MergingError, match="do not multiply"):
        Experts.from_lora(base, {"x": {"layer": (torch.randn(2, 5), b, 1.0)}})
    with pytest.raises(MergingError, match="merges LoRA adapters"):
        golden_experts().lora("t0")


def test_a_weight_that_the_encoder_uses_twice_is_replaced_in_both_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.second(self.first(inputs))

    encoder = Twice()
    states = [{n: torch.randn(4, 4) for n in encoder.state_dict()} for _ in range(2)]
    experts = Experts.from_state_dicts(states[0], {"t0": states[1]}, encoder=encoder)
    new, inputs = torch.randn(4, 4), torch.randn(3, 4)
    torch.testing.assert_close(experts.forward({"first.weight": new}, "t0", inputs), inputs @ new.T @ new.T)


def test_coefficient_rows_follow_the_encoders_parameters() -> None:
    encoder = Encoder()
    order = list(encoder.state_dict())
    base = {n: t.clone() for n, t in sorted(encoder.state_dict().items())}
    experts = Experts.from_state_dicts(base, {"t": dict(base)}, heads={"t": Head(torch.randn(3, 16))}, encoder=encoder)
    assert list(experts.names) == order
