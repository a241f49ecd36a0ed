"""The image tower is open_clip's, and the one preprocessing is what it says."""

import open_clip
import pytest
import torch
from open_clip import CLIP

from benchmark.domains.vision.backbones import BACKBONES, create_encoder, get_backbone, preprocess
from benchmark.domains.vision.vocabulary import create_clip


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_mini_encoder_equals_open_clips_tower(quick_gelu):
    backbone = get_backbone("ViT-mini")
    torch.manual_seed(0)
    clip = CLIP(backbone.embed_dim, backbone.vision_cfg, {**backbone.text_cfg, "vocab_size": 30}, quick_gelu=quick_gelu)
    state = {k: v for k, v in clip.state_dict().items() if k.startswith("visual.")}
    encoder = create_encoder("ViT-mini", quick_gelu=quick_gelu)
    encoder.load_state_dict(state, strict=True)
    images = torch.randn(3, 3, 28, 28)
    assert torch.equal(encoder(images), clip.encode_image(images))
    assert encoder(images).shape == (3, backbone.embed_dim)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_full_scale_encoders_have_open_clips_keys_and_shapes(name):
    backbone, config = get_backbone(name), open_clip.get_model_config(name)
    assert (backbone.embed_dim, backbone.text_cfg) == (config["embed_dim"], config["text_cfg"])
    assert backbone.vision_cfg == config["vision_cfg"]
    with torch.device("meta"):
        clip = CLIP(**{k: config[k] for k in ("embed_dim", "vision_cfg", "text_cfg")})
    theirs = {k: v.shape for k, v in clip.state_dict().items() if k.startswith("visual.")}
    encoder = create_encoder(name, device="meta")
    assert {k: v.shape for k, v in encoder.state_dict().items()} == theirs
    assert all(p.is_meta for p in encoder.parameters())
    size = backbone.image_size
    assert encoder(torch.empty(2, 3, size, size, device="meta")).shape == (2, backbone.embed_dim)


def test_openai_weights_use_quick_gelu_and_a_family_may_say_otherwise():
    assert {n: b.quick_gelu for n, b in BACKBONES.items() if b.image_size == 224} == {
        "ViT-B-32": True,
        "ViT-B-16": True,
        "ViT-L-14": True,
    }
    activation = {
        q: type(create_encoder("ViT-mini", quick_gelu=q).visual.transformer.resblocks[0].mlp.gelu).__name__
        for q in (True, False, None)
    }
    assert activation == {True: "QuickGELU", False: "GELU", None: "GELU"}


def test_encoder_runs_in_the_dtype_it_was_asked_for():
    encoder = create_encoder("ViT-mini", dtype=torch.bfloat16)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert encoder(torch.randn(2, 3, 28, 28, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_backbone_typo_names_the_nearest():
    with pytest.raises(ValueError, match="ViT-B-32"):
        get_backbone("ViT-B/32")


def test_preprocess_normalises_each_channel_and_repeats_grey():
    colour = torch.randint(0, 256, (4, 5, 6, 3), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = torch.stack([(colour[..., c].float() / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    found = preprocess(colour, mean, std, "cpu", torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    grey = colour[..., 0]
    repeated = preprocess(grey.unsqueeze(-1).repeat(1, 1, 1, 3), mean, std, "cpu", torch.float32)
    assert torch.equal(preprocess(grey, mean, std, "cpu", torch.float32), repeated)
    assert preprocess(grey, mean, std, "cpu", torch.float16).dtype == torch.float16


@pytest.mark.parametrize("images", [torch.zeros(2, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.uint8)])
def test_preprocess_refuses_floats_and_channels_first(images):
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess(images, (0.5,) * 3, (0.5,) * 3, "cpu", torch.float32)


def test_clip_joins_both_towers_of_the_backbone():
    clip = create_clip(get_backbone("ViT-mini"), vocabulary=40)
    assert clip.token_embedding.weight.shape == (40, 64)
    assert 450_000 < sum(p.numel() for p in clip.visual.parameters()) < 490_000
