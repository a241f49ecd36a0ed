"""LoRA adapters as PEFT saves them, merged into their base: what PEFT itself computes with them comes out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models
from helpers.lacking import lacks_package
from safetensors.torch import load_file

try:
    import peft
except ImportError:
    pytest.skip(lacks_package("peft", "dev"), allow_module_level=True)

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {"r": 4, "lora_alpha": 8},
    "rsLoRA": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {"query": 2}, "alpha_pattern": {"dense": 3}},
    "all biases": {"r": 4, "bias": "all"},
    "its biases": {"r": 4, "bias": "lora_only"},
}
WORDS = torch.arange(28).reshape(4, 7)


@pytest.fixture
def base(tmp_path: Path) -> Any:
    torch.manual_seed(0)
    model = own_models.bert()
    model.save_pretrained(tmp_path / "base")
    return model.eval()


def adapter(base: Any, folder: Path, seed: int, **settings: Any) -> Any:
    """A random adapter saved by PEFT, and the model with it."""
    torch.manual_seed(seed)
    about = peft.LoraConfig(target_modules=["query", "value", "dense"], **settings)
    model = peft.get_peft_model(copy.deepcopy(base), about)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(WORDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_at_weight_1_equals_that_expert(kind: str, base: Any, tmp_path: Path) -> None:
    expert = adapter(base, tmp_path / "a", 1, **KINDS[kind])
    status = own_models.merge(
        "task_arithmetic", tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "out", "--weights", "1"
    )
    assert status == 0
    merged = type(base).from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(merged), logits(expert), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(logits(base), logits(expert), atol=1e-3)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_an_adapter_of_a_model_whose_library_calls_its_parts_otherwise_than_its_files(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = own_models.vit() if kind == "ViTModel" else own_models.vit_classifier(3)
    model.save_pretrained(tmp_path / "base")
    whole = own_models.vit_classifier(3) if kind == "ViTModel" else model
    if kind == "ViTModel":
        whole.vit.load_state_dict(model.state_dict())
    named = [n for n, part in whole.named_modules() if isinstance(part, torch.nn.Linear) and "attention" in n]
    tuned = peft.get_peft_model(copy.deepcopy(whole), peft.LoraConfig(target_modules=named, r=3, lora_alpha=6))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "a")
    words = ("--weights", "1")
    assert own_models.merge("task_arithmetic", tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "out", *words) == 0
    without = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    merged = type(model).from_pretrained(tmp_path / "out", **without)
    expert = tuned.eval().merge_and_unload()
    state = (expert.vit if kind == "ViTModel" else expert).state_dict()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(value, model.state_dict()[name]) for name, value in merged.state_dict().items())


def test_adapters_of_unlike_rank_and_a_whole_model_combine_as_by_hand(base: Any, tmp_path: Path) -> None:
    experts = [
        adapter(base, tmp_path / "a", 1, r=2).merge_and_unload(),
        adapter(base, tmp_path / "b", 2, r=5, use_rslora=True).merge_and_unload(),
        own_models.tuned(base, 3),
    ]
    experts[2].save_pretrained(tmp_path / "c")
    paths = {name: tmp_path / name for name in "abc"}
    words = ("--weights", "0.5", "1", "0.25")
    assert own_models.merge("task_arithmetic", tmp_path / "base", paths, tmp_path / "out", *words) == 0
    expected = copy.deepcopy(base)
    expected.load_state_dict(own_models.combined(base, experts, [0.5, 1.0, 0.25]))
    merged = type(base).from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(merged), logits(expected.eval()), atol=1e-6, rtol=1e-5)


def test_two_adapters_with_modules_to_save_keep_their_own_heads(base: Any, tmp_path: Path) -> None:
    experts = [adapter(base, tmp_path / f"{i}", i, r=3, modules_to_save=["classifier"]) for i in range(2)]
    paths = {f"t{i}": tmp_path / f"{i}" for i in range(2)}
    assert own_models.merge("weight_average", tmp_path / "base", paths, tmp_path / "out") == 0
    for i, expert in enumerate(experts):
        head = load_file(tmp_path / f"out/heads/t{i}.safetensors")
        whole = expert.merge_and_unload()
        torch.testing.assert_close(head["classifier.weight"], whole.classifier.weight.detach())
    kept = load_file(tmp_path / "out/model.safetensors")["classifier.weight"]
    assert torch.equal(kept, base.classifier.weight.detach())


def test_lora_native_methods_get_the_factors(base: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        adapter(base, tmp_path / f"{i}", i, r=3)
    paths = {f"t{i}": tmp_path / f"{i}" for i in range(2)}
    assert own_models.merge("robustmerge", tmp_path / "base", paths, tmp_path / "out") == 0
    own_models.tuned(base, 1).save_pretrained(tmp_path / "whole")
    whole = {**paths, "t1": tmp_path / "whole"}
    assert own_models.merge("robustmerge", tmp_path / "base", whole, tmp_path / "none") == 2
    assert "LoRA" in capsys.readouterr().err and not (tmp_path / "none").exists()


def refusal(capsys: pytest.CaptureFixture[str], base: Path, path: Path) -> str:
    capsys.readouterr()
    assert own_models.merge("ties", base, {"a": path}, base.parent / "out") == 2
    return capsys.readouterr().err


def test_what_is_no_plain_lora_or_fits_nothing_is_refused_by_name(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter(base, tmp_path / "dora", 1, r=3, use_dora=True)
    assert "DoRA" in refusal(capsys, tmp_path / "base", tmp_path / "dora")
    adapter(base, tmp_path / "plain", 1, r=3)
    own_models.llama().save_pretrained(tmp_path / "llama")
    said = refusal(capsys, tmp_path / "llama", tmp_path / "plain")
    assert "has no such matrix of this shape" in said and "another base" in said
    torch.manual_seed(0)
    untrained = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(target_modules=["query"], r=2))
    untrained.save_pretrained(tmp_path / "zero")
    assert "equals the base" in refusal(capsys, tmp_path / "base", tmp_path / "zero")
