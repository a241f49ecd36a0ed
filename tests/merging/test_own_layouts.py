"""A user's checkpoints of every layout are merged into one that the layout's own library loads, as computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models
from safetensors.torch import load_file, save_file

WEIGHTS = [0.5, 1.0, 0.25]


def _outputs(model: Any) -> torch.Tensor:
    """What a model says of fixed inputs."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    words = torch.randint(3, 50, (2, 8), generator=generator)
    model = model.eval()
    with torch.inference_mode():
        if type(model).__name__ == "CLIPModel":
            return model(input_ids=words, pixel_values=images).logits_per_image
        if type(model).__name__.startswith("T5"):
            return model(input_ids=words, decoder_input_ids=words).logits
        by_name = model(images) if hasattr(model.config, "patch_size") else model(words)
        return by_name.logits if hasattr(by_name, "logits") else by_name.last_hidden_state


@pytest.mark.parametrize("name", own_models.HUB)
def test_a_model_of_the_hub_loads_with_its_own_library_and_says_what_was_computed_by_hand(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = own_models.HUB[name]()
    base, experts, tuned = own_models.family(model, tmp_path)
    status = own_models.merge("task_arithmetic", base, experts, tmp_path / "out", "--weights", *map(str, WEIGHTS))
    assert status == 0
    without = {"add_pooling_layer": False} if name in ("ViT", "RoBERTa") else {}
    merged = type(model).from_pretrained(tmp_path / "out", **without)
    expected = own_models.HUB[name]()
    expected.load_state_dict(own_models.combined(model, tuned, WEIGHTS))
    assert merged.state_dict().keys() == model.state_dict().keys()
    assert not torch.allclose(_outputs(merged), _outputs(model), atol=1e-3)
    torch.testing.assert_close(_outputs(merged), _outputs(expected), atol=1e-5, rtol=1e-4)
    saved, before = load_file(tmp_path / "out/model.safetensors"), load_file(base / "model.safetensors")
    assert saved.keys() == before.keys() and all(saved[n].dtype == before[n].dtype for n in saved)
    for beside in ("config.json", "generation_config.json"):
        assert (base / beside).is_file() == (tmp_path / "out" / beside).is_file()


def _bfloat16_rounds_once(folder: Path, out: Path, experts: list[Any], model: Any) -> None:
    merged = type(model).from_pretrained(out, dtype=torch.bfloat16)
    for name, value in own_models.combined(model, experts, WEIGHTS).items():
        # Float32 sums before the one rounding: an entry in a thousand may lie at the edge between two bfloat16 values.
        same = merged.state_dict()[name] == value
        assert merged.state_dict()[name].dtype == torch.bfloat16 and same.float().mean() > 0.99


def test_bfloat16_shards_keep_their_cut_and_are_computed_in_float32_and_rounded_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own_models.llama().to(torch.bfloat16)
    base, experts, tuned = own_models.family(model, tmp_path, max_shard_size="20KB")
    words = ("--weights", *map(str, WEIGHTS))
    assert own_models.merge("task_arithmetic", base, experts, tmp_path / "out", *words) == 0
    index = "model.safetensors.index.json"
    cut = json.loads((base / index).read_text())["weight_map"]
    assert json.loads((tmp_path / "out" / index).read_text())["weight_map"] == cut and len(set(cut.values())) > 2
    _bfloat16_rounds_once(base, tmp_path / "out", tuned, model)


def test_pickled_shards_with_an_index_are_read_and_written_as_safetensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own_models.llama()
    paths = {}
    for name, each in {"base": model, **{f"t{i}": own_models.tuned(model, i) for i in range(2)}}.items():
        folder = tmp_path / name
        each.config.save_pretrained(folder)
        state = each.state_dict()
        names, files = list(state), ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        for file, half in zip(files, halves, strict=True):
            torch.save({n: state[n] for n in half}, folder / file)
        table = {n: file for file, half in zip(files, halves, strict=True) for n in half}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
        paths[name] = folder
    base = paths.pop("base")
    assert own_models.merge("weight_average", base, paths, tmp_path / "out") == 0
    merged = type(model).from_pretrained(tmp_path / "out")
    expected = own_models.combined(model, [own_models.tuned(model, i) for i in range(2)], [0.5, 0.5])
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("wrapped", ["", "state_dict", "model"])
def test_open_clip_state_dicts_load_where_the_base_loaded(wrapped: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own_models.open_clip_model()
    experts = [own_models.tuned(model, i) for i in range(2)]
    torch.save({wrapped: model.state_dict()} if wrapped else model.state_dict(), tmp_path / "base.pt")
    for i, expert in enumerate(experts):  # as DataParallel saves it
        torch.save({"state_dict": {f"module.{n}": v for n, v in expert.state_dict().items()}}, tmp_path / f"{i}.pt")
    paths = {f"t{i}": tmp_path / f"{i}.pt" for i in range(2)}
    assert own_models.merge("task_arithmetic:scale=0.4", tmp_path / "base.pt", paths, tmp_path / "out") == 0
    saved = torch.load(tmp_path / "out/base.pt", weights_only=True)
    other = own_models.open_clip_model()
    other.load_state_dict(saved[wrapped] if wrapped else saved)
    for name, value in own_models.combined(model, experts, [0.4, 0.4]).items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_an_open_clip_folder_of_the_hub_is_merged_under_its_own_file_and_settings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own_models.open_clip_model()
    expert = own_models.tuned(model, 1)
    for name, each in (("base", model), ("expert", expert)):
        (tmp_path / name).mkdir()
        save_file(each.state_dict(), tmp_path / name / "open_clip_model.safetensors")
        (tmp_path / name / "open_clip_config.json").write_text('{"model_cfg": {}}')
    paths = {"t": tmp_path / "expert"}
    assert own_models.merge("task_arithmetic:scale=1", tmp_path / "base", paths, tmp_path / "out") == 0
    other = own_models.open_clip_model()
    other.load_state_dict(load_file(tmp_path / "out/open_clip_model.safetensors"))
    for name, value in expert.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert (tmp_path / "out/open_clip_config.json").read_text() == '{"model_cfg": {}}'


def test_timm_state_dicts_load_with_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = own_models.timm_model()
    expert = own_models.tuned(model, 1)
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    torch.save({"model": expert.state_dict()}, tmp_path / "expert.pth")
    paths = {"t": tmp_path / "expert.pth"}
    assert own_models.merge("task_arithmetic:scale=1", tmp_path / "base.safetensors", paths, tmp_path / "out") == 0
    other = own_models.timm_model()
    other.load_state_dict(load_file(tmp_path / "out/base.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(other.eval()(images), expert.eval()(images), atol=1e-5, rtol=1e-4)


def test_running_statistics_are_averaged_and_counters_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    experts = [own_models.tuned(model, i) for i in range(2)]
    for i, expert in enumerate(experts):
        expert.bn1.running_var.fill_(1.0 + i)
        torch.save(expert.state_dict(), tmp_path / f"{i}.pth")
    torch.save(model.state_dict(), tmp_path / "base.pth")
    paths = {f"t{i}": tmp_path / f"{i}.pth" for i in range(2)}
    assert own_models.merge("ties", tmp_path / "base.pth", paths, tmp_path / "out") == 0
    model.load_state_dict(torch.load(tmp_path / "out/base.pth", weights_only=True))
    assert "running statistics" in capsys.readouterr().out
    torch.testing.assert_close(model.bn1.running_var, torch.full((64,), 1.5))
    assert int(model.bn1.num_batches_tracked) == 0


def test_a_vision_tower_is_merged_into_its_whole_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = own_models.clip()
    model.save_pretrained(tmp_path / "base")
    paths = {}
    for i in range(2):
        tower = own_models.clip_vision()
        vision = own_models.tuned(model, i).vision_model.state_dict()
        prefix = "vision_model." if any(n.startswith("vision_model.") for n in tower.state_dict()) else ""
        tower.load_state_dict({f"{prefix}{n}": v for n, v in vision.items()})
        tower.save_pretrained(tmp_path / f"{i}")
        paths[f"t{i}"] = tmp_path / f"{i}"
    assert own_models.merge("weight_average", tmp_path / "base", paths, tmp_path / "out") == 0
    assert "tensors of the base are in no expert and stay as they are" in capsys.readouterr().out
    merged, expected = type(model).from_pretrained(tmp_path / "out").state_dict(), own_models.combined(
        model, [own_models.tuned(model, i) for i in range(2)], [0.5, 0.5]
    )  # fmt: skip
    for name, value in merged.items():
        wanted = expected[name] if name.startswith("vision_model.") else model.state_dict()[name]
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-6)
