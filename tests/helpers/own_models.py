"""Tiny random models of the libraries that people fine-tune, saved by the libraries themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.cli.main import main

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {**SIZES, "image_size": 32, "patch_size": 8}
WORDS = {**SIZES, "vocab_size": 100}


def clip() -> Any:
    import transformers

    texts = {**WORDS, "bos_token_id": 0, "eos_token_id": 1}
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=IMAGES, text_config=texts, projection_dim=16))


def clip_vision() -> Any:
    import transformers

    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**IMAGES))


def vit() -> Any:
    import transformers

    return transformers.ViTModel(transformers.ViTConfig(**IMAGES), add_pooling_layer=False)


def vit_classifier(classes: int) -> Any:
    import transformers

    return transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGES, **labels(classes)))


def dinov2() -> Any:
    import transformers

    sizes = {k: v for k, v in IMAGES.items() if k != "intermediate_size"}
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))


def bert() -> Any:
    import transformers

    return transformers.BertForSequenceClassification(transformers.BertConfig(**WORDS))


def roberta() -> Any:
    import transformers

    return transformers.RobertaModel(transformers.RobertaConfig(**WORDS), add_pooling_layer=False)


def t5() -> Any:
    import transformers

    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=2, vocab_size=100)
    )


def llama() -> Any:
    import transformers

    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**WORDS))


def tied_llama() -> Any:
    import transformers

    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**WORDS, tie_word_embeddings=True))


def open_clip_model() -> Any:
    import open_clip

    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)


def timm_model() -> Any:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=3)


HUB: dict[str, Callable[[], Any]] = {
    "CLIPModel": clip, "CLIPVisionModel": clip_vision, "ViT": vit, "DINOv2": dinov2, "BERT": bert, "RoBERTa": roberta,
    "T5": t5, "Llama": llama, "Llama, tied": tied_llama,
}  # fmt: skip


def labels(classes: int) -> dict[str, Any]:
    """The part of a configuration that names classes."""
    names = {i: f"class {i}" for i in range(classes)}
    return {"id2label": names, "label2id": {v: k for k, v in names.items()}}


def tuned(model: Any, seed: int, size: float = 0.02) -> Any:
    """A copy whose parameters lie a little apart, tied ones together."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_((size * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return other


def family(model: Any, folder: Path, count: int = 3, **saving: Any) -> tuple[Path, dict[str, Path], list[Any]]:
    """The base and its experts, saved by transformers: their paths, and the experts themselves."""
    experts = [tuned(model, seed) for seed in range(count)]
    model.save_pretrained(folder / "base", **saving)
    for i, expert in enumerate(experts):
        expert.save_pretrained(folder / f"expert{i}", **saving)
    return folder / "base", {f"t{i}": folder / f"expert{i}" for i in range(count)}, experts


def merge(method: str, base: Path, experts: dict[str, Path], out: Path, *words: str) -> int:
    """The command, as a user types it; its status."""
    named = [f"{name}={path}" for name, path in experts.items()]
    return main(["merge", method, "--base", str(base), "--experts", *named, "--out", str(out), *words])


def combined(model: nn.Module, experts: list[nn.Module], weights: list[float]) -> dict[str, Tensor]:
    """``base + sum of weight times task vector`` in float64, rounded once to what the base has, by hand."""
    base, states = model.state_dict(), [expert.state_dict() for expert in experts]
    total = {}
    for name, value in base.items():
        if not value.is_floating_point():
            total[name] = value
            continue
        exact = value.double() + sum(
            w * (state[name].double() - value.double()) for w, state in zip(weights, states, strict=True)
        )
        total[name] = exact.to(value.dtype)
    return total
