"""A merge that can be made a few tensors at a time gives what it gives at once, and holds no more than that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models
from helpers.measure import Measure
from helpers.support import golden_experts
from safetensors.torch import load_file, save_file

import methods
from benchmark.checkpoints.alignment import align
from benchmark.checkpoints.models import open_model
from benchmark.checkpoints.writing import StateWriter
from benchmark.merging import merge
from methods.api import Experts

LOCAL = [name for name in methods.names() if methods.describe(name).footprint.local]


@pytest.mark.parametrize("name", [name for name in LOCAL if "adapters" not in methods.describe(name).needs])
def test_a_method_that_says_it_is_local_gives_the_same_in_pieces(name: str) -> None:
    experts, needs = golden_experts(), methods.describe(name).needs
    experts = experts.subset(experts.tasks[: 1 if "single" in needs else 2 if "pair" in needs else None])
    whole = methods.get(name)(experts).shared
    parts: dict[str, torch.Tensor] = {}
    groups = list(merge.pieces(experts, most=3000))
    assert len(groups) > 4 and [n for group in groups for n in group] == list(experts.names)
    for group in groups:
        parts |= methods.get(name)(merge.within(experts, group)).shared
    assert parts.keys() == whole.keys() and all(torch.equal(parts[n], whole[n]) for n in whole)


def test_thresholds_over_the_whole_model_are_not_local(tmp_path: Path) -> None:
    assert {"task_arithmetic", "weight_average", "dare", "tsv_m", "iso_c"} <= set(LOCAL)
    assert not {"ties", "pcb", "lines"} & set(LOCAL)
    # TIES trims over the model: of one large and one tiny tensor at keep 20 % the tiny one is dropped.
    base = {"large": torch.zeros(20, 20), "tiny": torch.zeros(4, 4)}
    save_file(base, tmp_path / "base.safetensors")
    save_file({"large": torch.full((20, 20), 1.0), "tiny": torch.full((4, 4), 0.01)}, tmp_path / "a.safetensors")
    paths = {"a": tmp_path / "a.safetensors"}
    assert own_models.merge("ties:keep=0.2", tmp_path / "base.safetensors", paths, tmp_path / "out") == 0
    merged = load_file(tmp_path / "out/base.safetensors")
    assert not merged["tiny"].any() and merged["large"].any()
    plan = merge.Plan(align(open_model(tmp_path / "base.safetensors"), paths), "dare", {"inner": "ties"})
    assert not plan.local


def _plan(tmp_path: Path, method: str, weights: list[float] | None = None, **keywords: Any) -> merge.Plan:
    torch.manual_seed(0)
    if not (tmp_path / "base").exists():
        own_models.family(own_models.vit().to(torch.bfloat16), tmp_path)
    paths = {f"t{i}": tmp_path / f"expert{i}" for i in range(3)}
    return merge.Plan(align(open_model(tmp_path / "base"), paths), method, keywords, weights)


def _written(tmp_path: Path, plan: merge.Plan, name: str) -> dict[str, torch.Tensor]:
    (tmp_path / name).mkdir()
    merge.write(plan, tmp_path / name)
    return load_file(tmp_path / name / "model.safetensors")


@pytest.mark.parametrize("method", ["task_arithmetic", "weight_average"])
def test_weights_1_0_0_give_the_first_expert_exactly(method: str, tmp_path: Path) -> None:
    written = _written(tmp_path, _plan(tmp_path, method, [1.0, 0.0, 0.0]), "out")
    first = load_file(tmp_path / "expert0/model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in first.items())


def test_equal_experts_with_weights_01_and_1_give_11_times_or_the_normalisation_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, tuned = {"w": torch.randn(8, 8)}, {"w": torch.randn(8, 8)}
    save_file(base, tmp_path / "base.safetensors")
    for name in "ab":
        save_file(tuned, tmp_path / f"{name}.safetensors")
    paths = {name: tmp_path / f"{name}.safetensors" for name in "ab"}
    aligned = align(open_model(tmp_path / "base.safetensors"), paths)
    plan = merge.Plan(aligned, "task_arithmetic", {}, [0.1, 1.0])
    (tmp_path / "sum").mkdir()
    merge.write(plan, tmp_path / "sum")
    vector = load_file(tmp_path / "sum/base.safetensors")["w"] - base["w"]
    torch.testing.assert_close(vector, 1.1 * (tuned["w"] - base["w"]), atol=1e-6, rtol=1e-5)
    assert "weights multiply the task vectors, and scale is 1" in plan.said[0]
    assert "divided by their mean" in merge.Plan(aligned, "weight_average", {}, [0.1, 1.0]).said[0]


def test_the_writer_gives_what_safetensors_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "half": torch.randn(3, 5).to(torch.bfloat16), "count": torch.tensor(7), "none": torch.empty(0, 4),
        "bits": torch.rand(9) > 0.5, "wide": torch.randn(2, 2, 2).double(), "plain": torch.randn(11),
    }  # fmt: skip
    layout = {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    with StateWriter(tmp_path / "x.safetensors", layout, {"format": "pt"}) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[n], v) for n, v in tensors.items())
    with pytest.raises(ValueError, match="1 tensors of y.safetensors were not written"):
        with StateWriter(tmp_path / "y.safetensors", {"a": (torch.float32, (2,))}):
            pass
    with pytest.raises(ValueError, match="its place in"):
        with StateWriter(tmp_path / "y.safetensors", {"a": (torch.float32, (2,))}) as writer:
            writer.write("a", torch.zeros(3))


def test_a_local_merge_holds_a_piece_and_not_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size, count, tasks = 512, 64, 3
    for name in ["base", *map(str, range(tasks))]:
        state = {f"layer.{i}.weight": torch.randn(size, size) for i in range(count)}
        save_file(state, tmp_path / f"{name}.safetensors")
        del state
    paths = {f"t{i}": tmp_path / f"{i}.safetensors" for i in range(tasks)}
    monkeypatch.setattr(merge, "PIECE", 2 * size * size)
    plan = merge.Plan(align(open_model(tmp_path / "base.safetensors"), paths), "task_arithmetic")
    (tmp_path / "out").mkdir()
    with Measure() as measure:
        merge.write(plan, tmp_path / "out")
    assert measure.peak_anonymous_mb is not None and measure.peak_anonymous_mb < 0.5 * 4 * count * size * size / 2**20


@pytest.mark.parametrize("method", ["task_arithmetic", "weight_average", "ties", "dare", "tsv_m", "iso_c"])
def test_a_bfloat16_merge_is_the_float32_merge_rounded_once(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    narrow = own_models.vit().to(torch.bfloat16)
    (tmp_path / "narrow").mkdir()
    base, experts, tuned = own_models.family(narrow, tmp_path / "narrow", count=2)
    (tmp_path / "wide").mkdir()
    narrow.float().save_pretrained(tmp_path / "wide/base")
    for i, expert in enumerate(tuned):
        expert.float().save_pretrained(tmp_path / f"wide/expert{i}")
    wide = {task: tmp_path / "wide" / path.name for task, path in experts.items()}
    assert own_models.merge(method, base, experts, tmp_path / "out") == 0
    assert own_models.merge(method, tmp_path / "wide/base", wide, tmp_path / "whole") == 0
    merged, whole = (load_file(tmp_path / out / "model.safetensors") for out in ("out", "whole"))
    assert all(merged[name].dtype == torch.bfloat16 for name in merged)
    assert all(torch.equal(merged[name], whole[name].to(torch.bfloat16)) for name in whole)
    assert any(not torch.equal(merged[name], value) for name, value in load_file(base / "model.safetensors").items())


def test_emr_takes_the_largest_entry_of_the_elected_sign_and_not_the_sum() -> None:
    base = {"w": torch.zeros(1, 3)}
    experts = {"a": {"w": torch.tensor([[1.0, -3.0, 0.5]])}, "b": {"w": torch.tensor([[2.0, 1.0, -2.0]])}}
    merged = methods.get("emr")(Experts.from_state_dicts(base, experts))
    # Signs of the sums: +, -, -; the largest entries of these: 2, -3, -2.
    unified = next(value for name, value in merged.tensors() if value.shape == (1, 3) and value.is_floating_point())
    assert torch.equal(unified, torch.tensor([[2.0, -3.0, -2.0]]))
