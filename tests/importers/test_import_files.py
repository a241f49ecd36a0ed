"""Image towers in every form that they are stored in: shards, adapters, wrapped names, half precision, large values."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.imports import BASE, EXPERT, refused, run
from helpers.lacking import lacks_package
from helpers.peft_files import merge
from helpers.peft_files import write_adapter as write_any
from helpers.public import encoder, hub_family, open_clip_family, save, tuned
from helpers.towers import tiny
from safetensors.torch import load_file, save_file
from torch import nn

import methods
from benchmark.checkpoints.adapters import open_experts
from benchmark.domains.vision.backbones import BACKBONES, Backbone, create_encoder
from benchmark.domains.vision.family import Family, load_family
from methods.api import Experts

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
Wrap = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """ViT-B-32 as a tiny tower."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    return BACKBONES["ViT-B-32"]


def family_of(out: Path, name: str, tasks: tuple[str, ...] = ("MNIST",)) -> Family:
    return load_family(out / name / "ViT-B-32", "ViT-B-32", tasks)


def experts_of(family: Family, backbone: Backbone) -> Experts:
    return open_experts(family.base, family.experts, heads=family.heads, encoder=create_encoder(backbone).eval())


@torch.no_grad()
def features(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.visual_projection(model.vision_model(images).pooler_output)


def assert_same_features(family: Family, backbone: Backbone, model: Any) -> None:
    experts, images = experts_of(family, backbone), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        ours = experts.forward(experts.state("MNIST"), "MNIST", images)
    torch.testing.assert_close(ours, features(model, images), atol=1e-4, rtol=1e-4)


def clip_expert(folder: Path, backbone: Backbone) -> tuple[Path, Any]:
    """The hub's family with an empty folder of an expert, and a copy of its base."""
    models = hub_family(folder, backbone, ["MNIST"])
    for path in (folder / EXPERT).iterdir():
        path.unlink()
    return folder / EXPERT, copy.deepcopy(models["openai/clip-vit-base-patch32"])


LINEAR = [f"vision_model.encoder.layers.{i}.{part}" for i in range(2) for part in
          ("self_attn.q_proj", "self_attn.v_proj", "mlp.fc1")]  # fmt: skip
ALL = [*LINEAR, "vision_model.encoder.layers.0.self_attn.k_proj", "vision_model.encoder.layers.1.self_attn.out_proj",
       "vision_model.encoder.layers.1.mlp.fc2", "vision_model.embeddings.patch_embedding", "visual_projection",
       "vision_model.embeddings.position_embedding"]  # fmt: skip


def write_adapter(place: Path, model: Any, modules: list[str], **settings: Any) -> Any:
    return write_any(place, model, modules, **{"base_model_name_or_path": "openai/clip-vit-base-patch32", **settings})


def words_of(tmp_path: Path) -> tuple[object, ...]:
    return "import", "fusionbench", tmp_path / "public", "--tasks", "MNIST", "--out", tmp_path


@pytest.mark.parametrize("size", ["10KB", "10GB"])
def test_shards_of_base_and_expert_are_read_by_their_index(
    size: str, small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = hub_family(tmp_path / "public", small, ["MNIST"])
    for name, model in models.items():
        for path in (tmp_path / "public" / name).iterdir():
            path.unlink()
        model.save_pretrained(tmp_path / "public" / name, max_shard_size=size)
    assert run(*words_of(tmp_path)) == 0
    base = models["openai/clip-vit-base-patch32"]
    base.vision_model.load_state_dict(models[EXPERT].state_dict())
    found = family_of(tmp_path, "fusionbench")
    assert_same_features(found, small, base)
    if size == "10KB":
        assert found.manifest["sources"]["MNIST.safetensors"]["file"].endswith("mnist/model.safetensors.index.json")
        before = found.experts["MNIST"].stat().st_mtime_ns
        assert run(*words_of(tmp_path)) == 0 and found.experts["MNIST"].stat().st_mtime_ns == before
        last = sorted((tmp_path / "public" / EXPERT).glob("model-*"))[-1]
        save_file({n: t + 1 for n, t in load_file(last).items()}, last)
        assert run(*words_of(tmp_path)) == 0 and found.experts["MNIST"].stat().st_mtime_ns != before
        save_file(load_file(last), tmp_path / "public" / EXPERT / "model.safetensors")
        assert "holds model.safetensors beside shards" in refused(capsys, *words_of(tmp_path))


@pytest.mark.parametrize("modules, settings, scale", [
    (LINEAR, {}, 2.0), (ALL, {}, 2.0), (LINEAR, {"use_rslora": True, "lora_alpha": 4}, 4 / 3**0.5),
    (LINEAR, {"alpha_pattern": {"q_proj": 3, "fc1": 12}}, {"q_proj": 1.0, "v_proj": 2.0, "fc1": 4.0}),
])  # fmt: skip
def test_an_adapter_of_peft_is_a_lora_expert(
    modules: list[str], settings: dict[str, Any], scale: Any, small: Backbone, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    place, model = clip_expert(tmp_path / "public", small)
    factors = write_adapter(place, model, modules, **settings)
    each = scale if isinstance(scale, float) else {name: scale[name.rpartition(".")[2]] for name in modules}
    merge(model, factors, each)
    assert run(*words_of(tmp_path)) == 0
    found = family_of(tmp_path, "fusionbench")
    assert_same_features(found, small, model)
    assert found.experts["MNIST"].stat().st_size < found.base.stat().st_size / 2
    stored = experts_of(found, small).lora("MNIST")
    joined = stored["visual.transformer.resblocks.1.attn.in_proj_weight"]
    assert joined[0].shape[0] == joined[1].shape[1] == 6  # q and v, three each
    assert methods.get("robustmerge")(experts_of(found, small)).state_dict()
    assert "LoRA of openai/clip-vit-base-patch32" in capsys.readouterr().err
    assert run(*words_of(tmp_path)) == 0  # and again: nothing is converted


def test_the_scale_of_an_adapter_is_part_of_what_was_imported(small: Backbone, tmp_path: Path) -> None:
    place, model = clip_expert(tmp_path / "public", small)
    factors = write_adapter(place, model, LINEAR)
    run(*words_of(tmp_path))
    path = place / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 12}))
    assert run(*words_of(tmp_path)) == 0
    merge(model, factors, 4.0)
    assert_same_features(family_of(tmp_path, "fusionbench"), small, model)


def test_an_adapter_of_another_base_is_refused_though_it_fits(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, model = clip_expert(tmp_path / "public", small)
    write_adapter(place, model, LINEAR, base_model_name_or_path="laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    said = refused(capsys, *words_of(tmp_path))
    assert "adapts 'laion/CLIP-ViT-B-32-laion2B-s34B-b79K'; the base here is 'openai/clip-vit-base-patch32'" in said


def test_an_adapter_of_both_towers_asks_for_its_head(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, model = clip_expert(tmp_path / "public", small)
    factors = write_adapter(place, model, [*LINEAR, "text_model.encoder.layers.0.mlp.fc1"])
    assert "1 tensors outside the image tower are not the base's" in refused(capsys, *words_of(tmp_path))
    assert run(*words_of(tmp_path), *BASE) == 0
    merge(model, factors, 2.0)
    assert_same_features(family_of(tmp_path, "fusionbench"), small, model)


def test_an_adapter_where_a_whole_model_belongs_says_so(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, model = clip_expert(tmp_path / "public", small)
    write_adapter(place, model, LINEAR)
    base = tmp_path / "public/openai/clip-vit-base-patch32"
    (base / "model.safetensors").unlink()
    write_adapter(base, model, LINEAR)
    assert "is an adapter; expected a whole model" in refused(capsys, *words_of(tmp_path))
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    (tmp_path / "mine").mkdir()
    state = {n: t.contiguous() for n, t in create_encoder(small).state_dict().items()}
    save_file(state, tmp_path / "mine/base.safetensors")
    save_file(load_file(place / "adapter_model.safetensors"), tmp_path / "mine/MNIST.safetensors")
    said = refused(capsys, "import", "local", tmp_path / "mine", "--out", tmp_path, "--activation", "gelu")
    assert "is an adapter, not a model" in said and "merge_and_unload" in said


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod.", "", "inner _orig_mod"])
def test_experts_may_be_wrapped_otherwise_than_their_base(wrap: str, small: Backbone, tmp_path: Path) -> None:
    open_clip_family(tmp_path, "tall", small, ["MNIST"])
    path = tmp_path / "single_task/ViT-B-32/MNISTVal/nonlinear_finetuned.pt"
    state = torch.load(path, weights_only=True)
    kept = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.visual.")}
    if wrap == "":  # a CLIP's own names, where the base is an ImageEncoder
        state = {n.removeprefix("model."): t for n, t in state.items()}
    elif wrap.startswith("inner"):
        state = {n.replace("visual.", "visual._orig_mod."): t for n, t in state.items()}
    else:
        state = {f"{wrap}{n}": t for n, t in state.items()}
    torch.save(state, path)
    assert run("import", "tall", tmp_path, "--out", tmp_path / "own") == 0
    stored = load_file(family_of(tmp_path / "own", "tall").experts["MNIST"])
    assert set(stored) == set(kept) and all(torch.equal(stored[n], t) for n, t in kept.items())


def test_a_pickled_module_within_a_wrapper_is_read_with_what_it_says(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    path = tmp_path / "ViT-B-32/MNIST/finetuned.pt"
    expert = tuned(encoder(small), 1, "visual")
    save(nn.DataParallel(expert), path)
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own") == 0
    stored = load_file(family_of(tmp_path / "own", "tint").experts["MNIST"])
    assert torch.equal(stored["visual.proj"], expert.model.visual.proj)
    save(nn.DataParallel(tuned(encoder(small, quick_gelu=False), 1, "visual")), path)
    assert "was saved with GELU" in refused(capsys, "import", "tint", tmp_path, "--out", tmp_path / "own")


@pytest.mark.parametrize("half", ["base", "expert"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_beside_float32_is_no_difference_beyond_rounding(
    half: str, dtype: torch.dtype, small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tall", small, ["MNIST"])
    folder = tmp_path / "single_task/ViT-B-32"
    base = next(folder.rglob("*zeroshot.pt"))
    names = {"base": base, "expert": folder / "MNISTVal/nonlinear_finetuned.pt"}
    state = torch.load(names[half], weights_only=True)
    torch.save({n: t.to(dtype) for n, t in state.items()}, names[half])
    words = ("import", "tall", tmp_path, "--out", tmp_path / "own")
    assert run(*words) == 0
    assert "stored in another precision than the base" in capsys.readouterr().err
    # What is the base but for rounding is no expert; what moved further beside the tower is not dropped.
    original = torch.load(base, weights_only=True)
    torch.save({n: t.float() if half == "base" else t.to(dtype) for n, t in original.items()}, names["expert"])
    assert "equals the base in every tensor" in refused(capsys, *words)
    moved = torch.load(names[half], weights_only=True)
    moved["model.token_embedding.weight"] = moved["model.token_embedding.weight"].float() * 1.05
    torch.save(moved, names[half])
    if half == "expert":
        assert "1 tensors outside the image tower are not the base's" in refused(capsys, *words)


def test_values_of_another_dtype_than_weights_have_are_named(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, model = clip_expert(tmp_path / "public", small)
    model.save_pretrained(place)
    state = load_file(place / "model.safetensors")
    name = "vision_model.post_layernorm.weight"
    save_file({**state, name: state[name].to(torch.float8_e4m3fn)}, place / "model.safetensors")
    assert f"{name} is float8_e4m3fn, which is not merged" in refused(capsys, *words_of(tmp_path))


def test_large_weights_are_imported_with_their_distance(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tall", small, ["MNIST"])
    path = tmp_path / "single_task/ViT-B-32/MNISTVal/nonlinear_finetuned.pt"
    state = torch.load(path, weights_only=True)
    state["model.visual.proj"][0, 0] = 1e20
    torch.save(state, path)
    assert run("import", "tall", tmp_path, "--out", tmp_path / "own") == 0
    assert 0 < family_of(tmp_path / "own", "tall").manifest["distance"]["MNIST"] < 1e30
