"""Any encoder that a library builds runs under its checkpoint's names, and gives what the library's head is handed."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from helpers.own_suites import SIZE, SMALL, picture, save_processor, vit
from open_clip import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.common.errors import UserError
from benchmark.domains.vision.encoders import Encoder, library_of, open_encoder
from benchmark.domains.vision.encoders.huggingface import of_processor
from benchmark.domains.vision.encoders.names import aligned
from benchmark.domains.vision.encoders.pixels import changed
from methods.api import Experts

IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LARGER = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NO_MLP = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
OPEN_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 16, "patch_size": 14, "head_width": 8},
    "text_cfg": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}
CLASSIFIERS = {
    "ViT": (transformers.ViTForImageClassification, transformers.ViTConfig(**SMALL, num_labels=4)),
    "DINOv2": (transformers.Dinov2ForImageClassification, transformers.Dinov2Config(**NO_MLP, num_labels=4)),
    "DeiT": (transformers.DeiTForImageClassification, transformers.DeiTConfig(**SMALL, num_labels=4)),
    "BEiT": (transformers.BeitForImageClassification, transformers.BeitConfig(**SMALL, num_labels=4)),
    "CLIP": (
        transformers.CLIPForImageClassification,
        transformers.CLIPConfig(vision_config={**SMALL}, text_config={"num_hidden_layers": 1}, num_labels=4),
    ),
    "Swin": (
        transformers.SwinForImageClassification,
        transformers.SwinConfig(
            image_size=SIZE, patch_size=7, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2, num_labels=4
        ),
    ),
    "ConvNeXt": (
        transformers.ConvNextForImageClassification,
        transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], image_size=SIZE, num_labels=4),
    ),
    "ResNet": (
        transformers.ResNetForImageClassification,
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4),
    ),
}
BACKBONES = {
    "CLIPVisionModel": (transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**SMALL), "pooler_output"),
    "CLIPVisionModelWithProjection": (
        transformers.CLIPVisionModelWithProjection,
        transformers.CLIPVisionConfig(**SMALL, projection_dim=12),
        "image_embeds",
    ),
    "ViTModel": (transformers.ViTModel, transformers.ViTConfig(**SMALL), "pooler_output"),
    "Dinov2Model": (transformers.Dinov2Model, transformers.Dinov2Config(**NO_MLP), "pooler_output"),
    "SiglipVisionModel": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**SMALL), "pooler_output"),
}


def seeded(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for value in model.parameters():  # none is left at 0 or 1, so that each has its effect
            value.add_(0.05 * torch.randn_like(value))
    return model


def saved(model: Any, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def opened(source: Path, state: dict[str, Tensor], **more: Any) -> Encoder:
    """The encoder with the checkpoint's weights; its names are the checkpoint's."""
    encoder = open_encoder(source, {name: value.shape for name, value in state.items()}, **more)
    names = encoder.names(state, "it")
    assert all(ours == there for ours, there in names.items())
    encoder.module.load_state_dict({name: state[name] for name in names})
    return encoder


@torch.no_grad()
def run(module: nn.Module, images: Tensor = IMAGES) -> Tensor:
    features: Tensor = module(images)
    return features


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_features_are_what_the_librarys_classifier_is_handed(kind: str, tmp_path: Path) -> None:
    model = seeded(*CLASSIFIERS[kind])
    state = saved(model, tmp_path)
    encoder = opened(tmp_path, state, classifier=True)
    assert encoder.head is not None and f"{encoder.head}.weight" in state
    images = LARGER if kind in ("ConvNeXt", "ResNet") else IMAGES
    logits = run(encoder.module, images) @ state[f"{encoder.head}.weight"].T + state[f"{encoder.head}.bias"]
    with torch.no_grad():
        torch.testing.assert_close(logits, model(pixel_values=images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_without_a_classifier_features_are_the_models_own(kind: str, tmp_path: Path) -> None:
    made, config, output = BACKBONES[kind]
    model = seeded(made, config)
    encoder = opened(tmp_path, saved(model, tmp_path))
    with torch.no_grad():
        wanted = getattr(model(pixel_values=IMAGES), output)
    torch.testing.assert_close(run(encoder.module), wanted, rtol=1e-4, atol=1e-5)


def test_the_vision_tower_of_a_whole_clip_is_run_and_its_text_side_left_alone(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(vision_config={**SMALL}, text_config={**text}, projection_dim=12)
    model = seeded(transformers.CLIPModel, config)
    state = saved(model, tmp_path)
    encoder = opened(tmp_path, state)
    with torch.no_grad():
        wanted: Any = model.get_image_features(pixel_values=IMAGES)
    wanted = wanted if isinstance(wanted, Tensor) else wanted.pooler_output
    torch.testing.assert_close(run(encoder.module), wanted, rtol=1e-4, atol=1e-5)
    assert not [name for name in encoder.module.state_dict() if "text" in name or name == "logit_scale"]


@pytest.mark.parametrize("features", ["cls", "mean"])
def test_features_can_be_named(features: str, tmp_path: Path) -> None:
    model = vit(["a", "b", "c"])
    encoder = opened(tmp_path, saved(model, tmp_path), features=features)
    with torch.no_grad():
        hidden = model.vit(pixel_values=IMAGES).last_hidden_state
    wanted = hidden[:, 0] if features == "cls" else hidden[:, 1:].mean(1)
    torch.testing.assert_close(run(encoder.module), wanted, rtol=1e-4, atol=1e-5)


def test_an_expert_with_a_classifier_has_the_names_of_a_base_without_one(tmp_path: Path) -> None:
    """The usual case: the base is a ViTModel (``encoder...``), experts are classifiers (``vit.encoder...``)."""
    model = vit(["a", "b"])
    expert = saved(model, tmp_path / "expert")
    base = saved(seeded(transformers.ViTModel, transformers.ViTConfig(**SMALL)), tmp_path / "base")
    encoder = opened(tmp_path / "base", base, classifier=True)
    names = encoder.names(expert, "the expert")
    assert not any(name.startswith("vit.") for name in names) and all(n == f"vit.{o}" for o, n in names.items())
    encoder.module.load_state_dict({ours: expert[there] for ours, there in names.items()})
    logits = run(encoder.module) @ expert["classifier.weight"].T + expert["classifier.bias"]
    with torch.no_grad():
        torch.testing.assert_close(logits, model(pixel_values=IMAGES).logits, rtol=1e-4, atol=1e-5)


def open_clip_folder(folder: Path) -> tuple[CLIP, dict[str, Tensor]]:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = CLIP(**copy.deepcopy(OPEN_CLIP)).eval()
    about = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model, model.state_dict()


def test_an_image_tower_of_open_clip_by_its_configuration(tmp_path: Path) -> None:
    model, state = open_clip_folder(tmp_path)
    encoder = opened(tmp_path, state)
    with torch.no_grad():
        torch.testing.assert_close(run(encoder.module), model.encode_image(IMAGES))
    assert encoder.pixels is not None and encoder.pixels.mean == (0.4,) * 3 and encoder.pixels.size == (SIZE, SIZE)
    assert all(name.startswith("visual.") for name in encoder.module.state_dict())


@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_a_classifier_of_torchvision_by_name(wrapper: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).eval()
    state = {f"{wrapper}{name}": value for name, value in model.state_dict().items()}
    encoder = opened(tmp_path / "r.pt", state, encoder="torchvision/resnet18")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = model(images)
    torch.testing.assert_close(run(encoder.module, images) @ model.fc.weight.T + model.fc.bias, wanted)
    assert encoder.head == "fc" and encoder.pixels is not None and encoder.pixels.resize == 256


def test_a_classifier_of_timm_by_name_and_by_its_configuration(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind = "vit_tiny_patch16_224"
    model = timm.create_model(kind, num_classes=4).eval()
    state = model.state_dict()
    (tmp_path / "config.json").write_text(json.dumps({"architecture": kind, "num_classes": 4}))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = model(images)
    for encoder in (opened(tmp_path / "a.pt", state, encoder=f"timm/{kind}"), opened(tmp_path, state)):
        head = model.get_classifier()
        torch.testing.assert_close(run(encoder.module, images) @ head.weight.T + head.bias, wanted)
        assert encoder.head == "head" and encoder.pixels is not None and encoder.pixels.interpolation == "bicubic"


@pytest.mark.parametrize("kind", ["ViT", "DINOv2", "ResNet"])
def test_weights_put_in_by_name_are_those_that_run(kind: str, tmp_path: Path) -> None:
    """As methods do: by ``functional_call``, on copies, in another process, with ``assign``."""
    state = saved(seeded(*CLASSIFIERS[kind]), tmp_path)
    encoder = opened(tmp_path, state, classifier=True)
    other = {
        name: value * 1.5 + 0.1 if value.is_floating_point() else value
        for name, value in encoder.module.state_dict().items()
    }
    before = run(encoder.module)
    experts = Experts.from_state_dicts(encoder.module.state_dict(), {"t": other}, encoder=encoder.module)
    with torch.no_grad():
        put_in = experts.forward(other, "t", IMAGES)
    assert not torch.allclose(put_in, before) and torch.equal(run(encoder.module), before)
    for change in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))):
        module = change(encoder.module)
        module.load_state_dict(other, assign=True)
        torch.testing.assert_close(run(module), put_in)
    assert torch.equal(run(encoder.module), before)
    for name, value in other.items():  # every tensor counts, under its own name
        # A bias of keys adds the same to all of a row, and a masked token's embedding is for training.
        if value.is_floating_point() and "mask_token" not in name and not name.endswith("key.bias"):
            with torch.no_grad():
                one = experts.forward({**encoder.module.state_dict(), name: value}, "t", IMAGES)
            assert not torch.equal(one, before), name


@pytest.mark.parametrize("kind", ["ViT", "DINOv2"])
def test_layers_are_found_under_the_names_of_their_tensors(kind: str, tmp_path: Path) -> None:
    """Methods hook linear layers by the path of the weight."""
    encoder = opened(tmp_path, saved(seeded(*CLASSIFIERS[kind]), tmp_path), classifier=True)
    linear = {path: part for path, part in encoder.module.named_modules() if isinstance(part, nn.Linear)}
    seen = []
    for path, part in linear.items():
        assert torch.equal(part.weight, encoder.module.state_dict()[f"{path}.weight"])
        part.register_forward_hook(lambda *_, path=path: seen.append(path))
    run(encoder.module)
    assert sorted(seen) == sorted(linear) and len(linear) == 12


PROCESSORS = {
    "CLIP": lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20}),
    "ViT": lambda: transformers.ViTImageProcessor(size={"height": 20, "width": 20}),
    "DINOv2": lambda: transformers.BitImageProcessor(size={"shortest_edge": 26}, crop_size={"height": 20, "width": 20}),
    "ConvNeXt": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 20}),
    "large ConvNeXt": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("size", [(40, 32), (32, 57), (20, 20)])
def test_pixels_are_what_the_models_own_processor_makes_of_a_picture(kind: str, size: tuple[int, int]) -> None:
    processor = PROCESSORS[kind]()
    pixels = of_processor(processor, Path("model"))
    wanted = processor(images=picture(3, 1, size), return_tensors="pt")["pixel_values"][0].numpy()
    own = (pixels(picture(3, 1, size)) / 255 - np.array(pixels.mean)) / np.array(pixels.std)
    assert own.shape == (*wanted.shape[1:], 3)
    # Two libraries round and resize in their own ways: a step or two of 256.
    assert np.abs(own.transpose(2, 0, 1) - wanted).mean() * 255 * pixels.std[0] < 1.0


def test_the_processor_beside_a_model_is_read_and_can_be_overridden(tmp_path: Path) -> None:
    state = saved(vit(["a", "b"]), tmp_path)
    assert opened(tmp_path, state, classifier=True).pixels is None
    save_processor(tmp_path)
    pixels = opened(tmp_path, state, classifier=True).pixels
    assert pixels is not None and pixels.size == (SIZE, SIZE) and pixels.resize is None and pixels.mean == (0.5,) * 3
    other = changed(pixels, {"mean": [0.1, 0.2, 0.3], "crop": True, "interpolation": "nearest", "size": None})
    assert other.mean == (0.1, 0.2, 0.3) and other.resize == SIZE and other.interpolation == "nearest"
    with pytest.raises(UserError, match="nothing says how pictures are made ready for this model: size, mean, std"):
        changed(None, {})


def test_what_does_not_say_what_it_is_is_refused_in_a_line(tmp_path: Path) -> None:
    state = saved(vit(["a", "b"]), tmp_path / "vit")
    file = tmp_path / "vit" / "model.safetensors"
    with pytest.raises(UserError, match="does not say what it is") as raised:
        open_encoder(file, {})
    assert "encoder: LIBRARY/NAME" in str(raised.value) and "open_clip/ViT-B-32" in str(raised.value)
    with pytest.raises(UserError, match="unknown library of encoders 'openclip'; did you mean open_clip"):
        library_of(file, "openclip/ViT-B-32")
    with pytest.raises(UserError, match="unknown model of open_clip 'ViT-B-31'; did you mean ViT-B-32"):
        open_encoder(file, {}, encoder="open_clip/ViT-B-31")
    with pytest.raises(UserError, match="unknown model of torchvision 'resnet19'; did you mean resnet18"):
        open_encoder(file, {}, encoder="torchvision/resnet19")
    shapes = {name: value.shape for name, value in state.items() if "layer.1" not in name}
    with pytest.raises(
        UserError, match="is no ViTForImageClassification, which its config.json says: it lacks vit.enc"
    ):
        open_encoder(tmp_path / "vit", shapes, classifier=True)


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}})
    )
    (tmp_path / "mine.py").write_text("open('ran', 'w').close()\nclass Config: ...\nclass Model: ...\n")
    with pytest.raises(UserError, match="code of its own, which is not run"):
        open_encoder(tmp_path, {"w": torch.Size([1])})
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()


def test_names_are_aligned_under_one_prefix_or_not_at_all() -> None:
    wanted = ["a.weight", "blocks.0.weight"]
    assert aligned(wanted, ["x.a.weight", "x.blocks.0.weight", "head"]) == {n: f"x.{n}" for n in wanted}
    assert aligned([f"v.{n}" for n in wanted], wanted) == {f"v.{n}": n for n in wanted}
    assert aligned(wanted, ["x.a.weight", "y.blocks.0.weight"]) == {}
    with pytest.raises(UserError, match="more than once, under student and teacher"):
        aligned(wanted, [f"{who}.{n}" for who in ("student", "teacher") for n in wanted])


def test_the_generator_of_torch_stays_where_it_was(tmp_path: Path) -> None:
    state = saved(vit(["a", "b"]), tmp_path)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    opened(tmp_path, state, classifier=True)
    assert torch.equal(torch.get_rng_state(), before)
