"""A user's encoder of each library on an emulated CUDA device: all that it holds goes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.emulated import Machine
from helpers.own_suites import SIZE, SMALL, vit, write_suite
from safetensors.torch import load_file

from benchmark import suites
from benchmark.domains.vision.encoders import open_encoder

NO_MLP = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
MODELS: dict[str, Any] = {
    "ViT": lambda: vit(["a", "b"]),
    "CLIP": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)),
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**NO_MLP)),
    "DINOv3": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL)),
    "BEiT": lambda: transformers.BeitForImageClassification(transformers.BeitConfig(**SMALL, num_labels=2)),
    "Swin": lambda: transformers.SwinModel(
        transformers.SwinConfig(
            image_size=SIZE, patch_size=7, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2
        )
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_an_encoder_runs_there_as_here(kind: str, tmp_path: Path, cuda: Machine | None) -> None:
    MODELS[kind]().eval().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    classifier = "classifier.weight" in state
    module = open_encoder(tmp_path, {n: t.shape for n, t in state.items()}, classifier=classifier).module
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = module(images)
        there = module.to(torch.device("cuda", 0))(images.to(torch.device("cuda", 0)))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), wanted, rtol=1e-3, atol=1e-3)


def test_a_suite_of_a_users_own_is_opened_on_the_device(
    tmp_path: Path, cuda: Machine | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    suite = suites.load(str(write_suite(tmp_path / "suite", features="cls")))
    bench = suites.open_bench(suite, device="cuda")
    experts = bench.experts()
    images = bench.source("pets", "test")[torch.arange(4)][0]
    with torch.no_grad():
        logits = experts.copy_head("pets")(experts.forward(experts.state("pets"), "pets", images))
    assert images.device.type == logits.device.type == "cuda" and logits.shape == (4, 3)
