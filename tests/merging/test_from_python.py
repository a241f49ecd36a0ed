"""The same merges from Python: with paths or state dicts, written or not, weighted or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import own_models
from safetensors.torch import load_file

import symerge_bench
from benchmark.common.errors import UserError


def test_a_merge_that_is_written_is_returned_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, paths, tuned = own_models.family(own_models.vit(), tmp_path, count=2)
    for method in ("task_arithmetic", "ties", "emr"):
        written = symerge_bench.merge(method, base, paths, out=tmp_path / method)
        plain = symerge_bench.merge(method, base, paths)
        for task in paths:
            ours, other = written.state_dict(task), plain.state_dict(task)
            assert all(torch.equal(ours[name], value) for name, value in other.items())
    stored = load_file(tmp_path / "ties/model.safetensors")
    kept = symerge_bench.merge("ties", base, paths).state_dict()
    assert all(torch.equal(stored[name], value) for name, value in kept.items())
    assert "symerge_bench.merge('ties'" in json.loads((tmp_path / "ties/merge.json").read_text())["command"]


@pytest.mark.parametrize("method", ["task_arithmetic", "weight_average"])
def test_weights_mean_the_same_for_paths_and_state_dicts(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, paths, _ = own_models.family(own_models.vit(), tmp_path, count=3)
    states = {task: load_file(path / "model.safetensors") for task, path in paths.items()}
    whole = load_file(base / "model.safetensors")
    of_paths = symerge_bench.merge(method, base, paths, weights=[0.5, 1.0, 0.0]).state_dict()
    of_states = symerge_bench.merge(method, whole, states, weights=[0.5, 1.0, 0.0]).state_dict()
    total = 1.0 if method == "task_arithmetic" else 1.5
    for name, value in of_states.items():
        torch.testing.assert_close(of_paths[name], value, atol=1e-6, rtol=1e-6)
        vectors = [states[f"t{i}"][name] - whole[name] for i in range(2)]
        by_hand = whole[name] + (0.5 * vectors[0] + vectors[1]) / total
        torch.testing.assert_close(value, by_hand, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="2 weights for 3 experts"):
        symerge_bench.merge(method, whole, states, weights=[1.0, 1.0])


def test_a_dtype_that_is_asked_for_is_said_in_the_configuration(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own_models.llama()
    base, paths, _ = own_models.family(model, tmp_path, count=1)
    assert own_models.merge("ties", base, paths, tmp_path / "out", "--dtype", "bfloat16") == 0
    merged = type(model).from_pretrained(tmp_path / "out")
    assert merged.dtype == torch.bfloat16 and type(model).from_pretrained(base).dtype == torch.float32


def test_statistics_are_averaged_in_a_merge_of_several_models_too(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    torch.save(model.state_dict(), tmp_path / "base.pth")
    paths = {}
    for i in range(2):
        expert = own_models.tuned(model, i)
        expert.bn1.running_var.fill_(1.0 + i)
        torch.save(expert.state_dict(), tmp_path / f"{i}.pth")
        paths[f"t{i}"] = tmp_path / f"{i}.pth"
    assert own_models.merge("emr", tmp_path / "base.pth", paths, tmp_path / "out") == 0
    state = symerge_bench.load_merge(tmp_path / "out").state_dict("t1")
    torch.testing.assert_close(state["bn1.running_var"], torch.full((64,), 1.5))


def test_a_pickled_module_is_an_expert_and_no_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    torch.save(model, tmp_path / "base.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.save(own_models.tuned(model, 1), tmp_path / "expert.pt")
    paths = {"a": tmp_path / "expert.pt"}
    assert own_models.merge("ties", tmp_path / "base.pt", paths, tmp_path / "no") == 2
    assert "is a whole pickled module (torch.nn.modules.container.Sequential)" in capsys.readouterr().err
    assert own_models.merge("ties", tmp_path / "state.pt", paths, tmp_path / "out") == 0
    model.load_state_dict(torch.load(tmp_path / "out/state.pt", weights_only=True))
