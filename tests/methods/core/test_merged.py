"""What a merge stores, reads back and hands to another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.support import (
    random_experts,
    random_stream,
)

import methods
from methods.api import Merged


@pytest.mark.parametrize(
    "name", ["weight_average", "task_arithmetic", "ties", "symerge", "pretrained", "individual", "symerge:last_block"]
)
def test_a_saved_merge_reads_back_as_it_was(name: str, tmp_path: Path) -> None:
    experts = random_experts()
    name, _, layer = name.partition(":")
    about = methods.get(name)
    keywords = {"steps": 1, "batch_size": 8, **({"adapt": layer} if layer else {})} if about.access else {}
    merged = about(experts, *([random_stream(experts.tasks)] if about.access else []), **keywords)
    merged.save(tmp_path / "m.safetensors")
    back = Merged.load(tmp_path / "m.safetensors", experts)
    images = torch.randn(4, 3, 16, 16)
    for task in experts.tasks:
        assert torch.equal(merged.model(task)(images), back.model(task)(images))
    assert (back.storage, back.needs_task) == (merged.storage, merged.needs_task)


def test_storage_counts_what_must_be_kept_beyond_one_model() -> None:
    experts = random_experts(3)
    one = experts.nbytes()
    assert methods.get("task_arithmetic")(experts).storage == 0
    assert methods.get("pretrained")(experts).storage == 0
    assert methods.get("individual")(experts).storage == 2 * one


def test_adapted_heads_move_to_another_merge() -> None:
    experts = random_experts()
    symerge = methods.get("symerge")(experts, random_stream(experts.tasks), steps=2, batch_size=8)
    plain = methods.get("task_arithmetic")(experts)
    moved = plain.with_adapted({t: symerge.adapted(t) for t in experts.tasks})
    assert torch.equal(moved.head("t1").weight, symerge.head("t1").weight)
    assert torch.equal(moved.state_dict()[experts.names[0]], plain.state_dict()[experts.names[0]])
    assert not torch.equal(plain.head("t1").weight, moved.head("t1").weight)
