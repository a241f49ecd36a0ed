"""Hugging Face's CLIP towers become open_clip's: the same outputs on the same images and prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.lacking import lacks_package
from helpers.public import hub_config, random_model, without_text
from helpers.towers import tiny

from benchmark.checkpoints.families import FamilyError
from benchmark.domains.vision.backbones import create_encoder
from benchmark.domains.vision.zeroshot import create_text
from benchmark.importers.huggingface import read_tower, rename, text_tower, vision_tower
from benchmark.importers.towers import check_tower

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
NAMES = ("ViT-B-32", "ViT-B-16", "ViT-L-14")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", NAMES)
def test_both_image_towers_give_the_same_features(name: str, act: str) -> None:
    backbone = tiny(name)
    model = random_model(transformers.CLIPModel(hub_config(backbone, act)))
    encoder = create_encoder(backbone, quick_gelu=act == "quick_gelu").eval()
    encoder.load_state_dict(vision_tower(model.state_dict(), None), strict=True)
    images = torch.randn(3, 3, backbone.image_size, backbone.image_size)
    with torch.inference_mode():
        theirs = model.visual_projection(model.vision_model(images).pooler_output)
        ours = encoder(images)
        other = create_encoder(backbone, quick_gelu=act != "quick_gelu").eval()
        other.load_state_dict(encoder.state_dict())
        assert (other(images) - theirs).abs().max() > 1e-3  # the comparison sees the activation
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_vision_model_alone_takes_the_bases_projection(name: str, tmp_path: Path) -> None:
    backbone = tiny(name)
    whole = hub_config(backbone)
    expert = random_model(transformers.CLIPVisionModel(whole.vision_config))
    projection = torch.randn(backbone.embed_dim, backbone.vision_cfg["width"])
    expert.save_pretrained(tmp_path)
    tower, _ = read_tower(tmp_path, projection)
    check_tower(tower, backbone, True, tmp_path)
    encoder = create_encoder(backbone).eval()
    encoder.load_state_dict(tower.visual)
    images = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), expert(images).pooler_output @ projection.T, atol=1e-5, rtol=1e-5)


def test_both_text_towers_give_the_same_embeddings() -> None:
    backbone = without_text(tiny("ViT-B-32"))
    model = random_model(transformers.CLIPModel(hub_config(backbone)))
    clip = create_text(backbone, text_tower(model.state_dict()), backbone.quick_gelu)
    tokens = torch.randint(1, 118, (4, 77))
    tokens[:, 0], tokens[:, 9], tokens[:, 10:] = 118, 119, 0  # end of text is the highest token, as in CLIP
    with torch.inference_mode():
        pooled = model.text_model(input_ids=tokens).last_hidden_state[:, 9]
        torch.testing.assert_close(clip.encode_text(tokens), model.text_projection(pooled), atol=1e-5, rtol=1e-5)
    assert clip.logit_scale.item() == pytest.approx(model.logit_scale.item())


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_stored_models_of_old_and_new_transformers_are_read(file: str, prefix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    backbone = tiny("ViT-B-16")
    model = random_model(transformers.CLIPModel(hub_config(backbone)))
    inside = {n.removeprefix("vision_model."): v for n, v in model.state_dict().items() if n.startswith("vision_model")}
    stored = {f"{prefix}{n}": v.clone() for n, v in inside.items()}
    stored[f"{prefix}embeddings.position_ids"] = torch.arange(5)  # older versions stored it
    about = {"model_type": "clip_vision_model", **hub_config(backbone).vision_config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(about))
    save_file(stored, tmp_path / file) if file.endswith("safetensors") else torch.save(stored, tmp_path / file)
    tower, _ = read_tower(tmp_path, model.visual_projection.weight.detach())
    expected = vision_tower(model.state_dict(), None)
    assert set(tower.visual) == set(expected) and all(torch.equal(tower.visual[n], v) for n, v in expected.items())
    assert (tower.quick_gelu, tower.heads) == (True, backbone.heads)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"hidden_act": "gelu"}, "saved with GELU, this family is defined with QuickGELU"),
        ({"hidden_act": "silu"}, "hidden_act 'silu'; known: quick_gelu, gelu"),
        ({"num_attention_heads": 2}, "says 2 attention heads"),
        ({"layer_norm_eps": 1e-6}, "says 1e-06 eps"),
    ],
)
def test_a_configuration_that_the_weights_cannot_show_is_checked(change: dict, words: str, tmp_path: Path) -> None:
    backbone = tiny("ViT-B-32")
    transformers.CLIPVisionModel(hub_config(backbone).vision_config).save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(FamilyError, match=words):
        tower, _ = read_tower(tmp_path, torch.zeros(backbone.embed_dim, backbone.vision_cfg["width"]))
        check_tower(tower, backbone, True, tmp_path)


def test_tensors_that_fit_no_name_are_named() -> None:
    with pytest.raises(FamilyError, match="no tensors of a CLIP vision tower: encoder.layers.0.mlp.fc3.weight"):
        rename({"encoder.layers.0.mlp.fc3.weight": torch.ones(1)}, {}, "vision")
    with pytest.raises(FamilyError, match="in_proj_bias of q only"):
        rename({"encoder.layers.0.self_attn.q_proj.bias": torch.ones(1)}, {}, "vision")
    with pytest.raises(FamilyError, match="visual_projection.weight; give the base as a CLIPModel"):
        vision_tower({}, None)


def test_another_backbones_tower_is_refused(tmp_path: Path) -> None:
    backbone = tiny("ViT-B-32")
    model = transformers.CLIPVisionModel(hub_config(backbone).vision_config)
    model.save_pretrained(tmp_path)
    tower, _ = read_tower(tmp_path, torch.zeros(backbone.embed_dim, backbone.vision_cfg["width"]))
    with pytest.raises(FamilyError, match=r"visual.*conv1.weight is \[48, 3, 32, 32\], .* Is it of another --backbone"):
        check_tower(tower, tiny("ViT-B-16"), True, tmp_path)
    with pytest.raises(FamilyError, match="tensors missing, 0 unknown to ViT-L-14"):
        check_tower(tower, tiny("ViT-L-14"), True, tmp_path)
