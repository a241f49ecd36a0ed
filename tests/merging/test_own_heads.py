"""What is a task's own is kept beside the merge; what does not fit is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models
from safetensors.torch import load_file, save_file

import symerge_bench
from benchmark.cli.main import main
from benchmark.common.project import ROOT
from methods.api import MergingError


def _classifiers(folder: Path, *classes: int) -> tuple[Any, dict[str, Path], list[Any]]:
    """A ViT without a head, and experts with one of so many classes each."""
    torch.manual_seed(0)
    model = own_models.vit()
    model.save_pretrained(folder / "base")
    experts = []
    for i, count in enumerate(classes):
        expert = own_models.vit_classifier(count)
        expert.vit.load_state_dict(own_models.tuned(model, i).state_dict())
        expert.save_pretrained(folder / f"{i}")
        experts.append(expert)
    return model, {f"t{i}": folder / f"{i}" for i in range(len(classes))}, experts


def test_unlike_class_counts_work_and_each_head_goes_on_the_merge(tmp_path: Path) -> None:
    _, paths, experts = _classifiers(tmp_path, 3, 5)
    assert own_models.merge("task_arithmetic", tmp_path / "base", paths, tmp_path / "out") == 0
    for i, expert in enumerate(experts):
        model = own_models.vit_classifier(expert.config.num_labels)
        merged = own_models.vit().from_pretrained(tmp_path / "out", add_pooling_layer=False)
        model.vit.load_state_dict(merged.state_dict())
        head = load_file(tmp_path / f"out/heads/t{i}.safetensors")
        assert not model.load_state_dict(head, strict=False).unexpected_keys
        torch.testing.assert_close(model.classifier.weight, expert.classifier.weight)
        names = json.loads((tmp_path / f"out/heads/t{i}.json").read_text())["id2label"]
        assert len(names) == expert.config.num_labels


def test_heads_that_a_base_has_too_stay_the_tasks_own_where_sizes_classes_or_the_user_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = own_models.vit_classifier(3)
    base.save_pretrained(tmp_path / "base")
    experts = {}
    for i, count in enumerate((3, 4)):
        expert = own_models.vit_classifier(count)
        expert.vit.load_state_dict(own_models.tuned(base, i).vit.state_dict())
        expert.save_pretrained(tmp_path / f"{i}")
        experts[f"t{i}"] = tmp_path / f"{i}"
    assert own_models.merge("ties", tmp_path / "base", experts, tmp_path / "sizes") == 0
    own = [set(load_file(tmp_path / f"sizes/heads/t{i}.safetensors")) for i in range(2)]
    assert own == [{"classifier.weight", "classifier.bias"}] * 2
    kept = load_file(tmp_path / "sizes/model.safetensors")["classifier.weight"]
    torch.testing.assert_close(kept, base.classifier.weight.detach())
    one = {"a": experts["t0"]}
    assert own_models.merge("weight_average", tmp_path / "base", one, tmp_path / "merged") == 0
    assert not (tmp_path / "merged/heads").exists()
    assert own_models.merge("weight_average", tmp_path / "base", one, tmp_path / "own", "--heads", "classifier") == 0
    assert (tmp_path / "own/heads/a.safetensors").is_file()


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    assert own_models.merge(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


def test_an_expert_equal_to_the_base_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, paths, _ = _classifiers(tmp_path, 3)
    model.save_pretrained(tmp_path / "same")
    said = _refusal(capsys, "ties", tmp_path / "base", {**paths, "copy": tmp_path / "same"}, tmp_path / "out")
    assert "expert 'copy'" in said and "equals the base" in said and not (tmp_path / "out").exists()


def test_another_vocabulary_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = own_models.llama()
    base, paths, tuned = own_models.family(model, tmp_path, count=2)
    tuned[1].resize_token_embeddings(103)
    tuned[1].save_pretrained(tmp_path / "longer")
    said = _refusal(capsys, "ties", base, {"a": paths["t0"], "b": tmp_path / "longer"}, tmp_path / "out")
    assert "'b'" in said and "103" in said and "100" in said
    (tmp_path / "longer/config.json").write_text((base / "config.json").read_text())
    said = _refusal(capsys, "ties", base, {"a": paths["t0"], "b": tmp_path / "longer"}, tmp_path / "out")
    assert "'b'" in said and "[103, 32]" in said and "another vocabulary" in said


def test_another_architecture_size_or_part_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, paths, _ = _classifiers(tmp_path, 3)
    own_models.bert().save_pretrained(tmp_path / "bert")
    said = _refusal(capsys, "ties", tmp_path / "bert", paths, tmp_path / "out")
    assert "is of type vit, the base of type bert" in said
    (tmp_path / "bert/config.json").unlink()
    assert "no weight of the base's names" in _refusal(capsys, "ties", tmp_path / "bert", paths, tmp_path / "out")
    own_models.tuned(model, 1).save_pretrained(tmp_path / "whole")
    state = load_file(tmp_path / "whole/model.safetensors")
    wide = {n: torch.zeros(len(v), v.shape[1] + 1) if "intermediate.dense.weight" in n else v for n, v in state.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    said = _refusal(capsys, "ties", tmp_path / "base", {"a": tmp_path / "wide.safetensors"}, tmp_path / "out")
    assert "another architecture or size" in said
    first = next(n for n in state if n.endswith("weight"))
    save_file({n: v for n, v in state.items() if n != first}, tmp_path / "lacks.safetensors")
    both = {**paths, "b": tmp_path / "lacks.safetensors"}
    assert "lacks 1 tensors" in _refusal(capsys, "ties", tmp_path / "base", both, tmp_path / "out")


def test_tied_weights_stay_tied_and_a_copy_left_out_or_written_twice_is_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = own_models.tied_llama()
    base, paths, tuned = own_models.family(model, tmp_path, count=2)
    # As a pickled state dict holds it: both names.
    torch.save(tuned[1].state_dict(), tmp_path / "both.bin")
    paths["t1"] = tmp_path / "both.bin"
    assert own_models.merge("weight_average", base, paths, tmp_path / "out") == 0
    assert "once more and is left out" in capsys.readouterr().out
    merged = type(model).from_pretrained(tmp_path / "out")
    assert merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()
    expected = own_models.combined(model, tuned, [0.5, 0.5])["model.embed_tokens.weight"]
    torch.testing.assert_close(merged.lm_head.weight.detach(), expected, atol=1e-6, rtol=1e-6)
    # A base with both, an expert with one: restored, and one tensor again once it is written.
    torch.save(model.state_dict(), tmp_path / "base.bin")
    assert own_models.merge("weight_average", tmp_path / "base.bin", {"a": paths["t0"]}, tmp_path / "two") == 0
    two = torch.load(tmp_path / "two/base.bin", weights_only=True)
    assert two["lm_head.weight"].data_ptr() == two["model.embed_tokens.weight"].data_ptr()
    torch.testing.assert_close(two["lm_head.weight"], tuned[0].state_dict()["lm_head.weight"], atol=1e-6, rtol=1e-6)
    # An expert that untied them would lose one of the two.
    state = {n: v.clone() for n, v in tuned[1].state_dict().items()}
    state["lm_head.weight"] += 1
    torch.save(state, tmp_path / "untied.bin")
    said = _refusal(capsys, "ties", tmp_path / "base.bin", {"a": tmp_path / "untied.bin"}, tmp_path / "three")
    assert "one tensor in the base and differ here" in said


def test_integer_buffers_stay_the_bases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = {"weight": torch.randn(4, 4), "position_ids": torch.arange(4)}
    save_file(base, tmp_path / "base.safetensors")
    save_file({"weight": torch.randn(4, 4), "position_ids": torch.arange(4) + 7}, tmp_path / "a.safetensors")
    save_file({"weight": torch.randn(4, 4)}, tmp_path / "b.safetensors")
    paths = {"a": tmp_path / "a.safetensors", "b": tmp_path / "b.safetensors"}
    assert own_models.merge("ties", tmp_path / "base.safetensors", paths, tmp_path / "out") == 0
    assert torch.equal(load_file(tmp_path / "out/base.safetensors")["position_ids"], base["position_ids"])


def test_a_stray_model_beside_shards_is_ambiguous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    base, paths, tuned = own_models.family(own_models.llama(), tmp_path, count=1, max_shard_size="20KB")
    save_file({n: v.clone() for n, v in tuned[0].state_dict().items()}, paths["t0"] / "model.safetensors")
    assert "beside shards" in _refusal(capsys, "ties", base, paths, tmp_path / "out")


def test_what_is_in_the_way_or_wrong_is_said_before_a_file_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = {"a": tmp_path / "nothing"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "--overwrite" in _refusal(capsys, "ties", tmp_path / "base", nowhere, tmp_path / "full")
    assert "Did you mean ties" in _refusal(capsys, "tiess", tmp_path / "base", nowhere, tmp_path / "out")
    assert "keep=7" in _refusal(capsys, "ties:keep=7", tmp_path / "base", nowhere, tmp_path / "out")
    said = _refusal(capsys, "ties", tmp_path / "base", nowhere, tmp_path / "out", "--weights", "1", "2")
    assert "2 weights for 1 experts" in said
    assert main(["merge", "ties", "--base", "x", "--experts", "model", "--out", str(tmp_path / "out")]) == 2
    assert "expected NAME=PATH" in capsys.readouterr().err
    assert "is missing" in _refusal(capsys, "ties", tmp_path / "base", nowhere, tmp_path / "out")


@pytest.mark.parametrize("method", ["emr", "tall_mask", "tsv_c"])
def test_a_merge_of_several_models_is_put_together_from_its_folder(method: str, tmp_path: Path) -> None:
    model, paths, _ = _classifiers(tmp_path, 3, 5)
    assert own_models.merge(method, tmp_path / "base", paths, tmp_path / "out") == 0
    whole = symerge_bench.merge(method, tmp_path / "base", paths)
    states = {}
    for task in paths:
        if method == "emr":  # As a user does, from the folder alone.
            script = [sys.executable, str(tmp_path / "out/load_merged.py"), task, str(tmp_path / task)]
            subprocess.run(script, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        else:
            symerge_bench.write_task(tmp_path / "out", task, tmp_path / task)
        type(model).from_pretrained(tmp_path / task, add_pooling_layer=False)
        states[task] = load_file(tmp_path / task / "model.safetensors")
        assert all(torch.equal(states[task][n], v) for n, v in whole.state_dict(task).items())
    assert not all(torch.equal(v, states["t1"][n]) for n, v in states["t0"].items())
    assert len((tmp_path / "out/load_merged.py").read_text().splitlines()) <= 20


def test_a_merge_that_is_its_experts_says_that_they_are_needed(tmp_path: Path) -> None:
    _, paths, _ = _classifiers(tmp_path, 3, 5)
    assert own_models.merge("individual", tmp_path / "base", paths, tmp_path / "out") == 0
    with pytest.raises(MergingError, match="of the expert 't0' itself"):
        symerge_bench.load_merge(tmp_path / "out").state_dict("t0")
