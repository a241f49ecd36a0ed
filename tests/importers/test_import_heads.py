"""An expert whose text side is not the base's: whose head it has is asked for, kept, and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from helpers.imports import BASE, EXPERT, OWN, refused, run
from helpers.lacking import lacks_package
from helpers.public import encoder, hub_family, open_clip_family, random_model, save, tuned
from helpers.towers import tiny
from safetensors.torch import load_file, save_file

from benchmark.domains.vision import public as full
from benchmark.domains.vision import zeroshot
from benchmark.domains.vision.backbones import BACKBONES, Backbone, create_encoder
from benchmark.domains.vision.family import head_notes, load_family

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """ViT-B-32 as a tiny tower."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    return BACKBONES["ViT-B-32"]


def of_clip(folder: Path, small: Backbone, part: str = "") -> tuple[Any, Any]:
    """A family on the hub whose expert is a whole CLIP, ``part`` of it fine-tuned; base and expert."""
    models = hub_family(folder, small, ["MNIST"])
    base = models["openai/clip-vit-base-patch32"]
    expert = tuned(base, 5, part)
    for path in (folder / EXPERT).iterdir():
        path.unlink()
    expert.save_pretrained(folder / EXPERT)
    return base, expert


@torch.no_grad()
def rows(model: Any) -> torch.Tensor:
    """MNIST's head the plain way: a CLIPModel's own text features of the prompts, ``[10, D]``."""
    tokens = zeroshot.SimpleTokenizer(context_length=77)
    made = []
    for name in full.info("MNIST").classes:
        prompts = tokens([prompt.format(name) for prompt in zeroshot.templates("MNIST")])
        hidden = model.text_model(input_ids=prompts).last_hidden_state
        ends = hidden[torch.arange(len(prompts)), prompts.argmax(1)]
        unit = torch.nn.functional.normalize(model.text_projection(ends), dim=-1).mean(0)
        made.append(torch.nn.functional.normalize(unit, dim=0) * model.logit_scale.exp())
    return torch.stack(made)


def head_of(out: Path, family: str = "fusionbench") -> torch.Tensor:
    return load_family(out / family / "ViT-B-32", "ViT-B-32", ["MNIST"]).heads["MNIST"].weight.detach()


def test_an_expert_with_its_own_text_tower_predicts_with_the_head_that_was_asked_for(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, expert = of_clip(tmp_path / "public", small)
    words = ("import", "fusionbench", tmp_path / "public", "--tasks", "MNIST", "--out", tmp_path)
    said = refused(capsys, *words)
    assert "tensors outside the image tower are not the base's" in said
    assert "--head from-own-text" in said and "--head from-base" in said
    assert run(*words, *OWN) == 0
    torch.testing.assert_close(head_of(tmp_path), rows(expert), atol=1e-4, rtol=1e-4)
    assert (rows(expert) - rows(base)).abs().max() > 0.1, "the comparison would not see the base's head"
    images = torch.randn(64, 3, 64, 64)
    found = load_family(tmp_path / "fusionbench/ViT-B-32", "ViT-B-32", ["MNIST"])
    ours = create_encoder(small).eval()
    ours.load_state_dict(load_file(found.experts["MNIST"]))
    with torch.inference_mode():
        features = expert.visual_projection(expert.vision_model(images).pooler_output)
        theirs = torch.nn.functional.normalize(features, dim=-1) @ rows(expert).T
        torch.testing.assert_close(found.heads["MNIST"](ours(images)), theirs, atol=1e-3, rtol=1e-3)
    assert "prompts, own text" in capsys.readouterr().out
    assert run(*words, *BASE) == 0
    torch.testing.assert_close(head_of(tmp_path), rows(base), atol=1e-4, rtol=1e-4)


def test_the_choice_is_kept_and_stands_in_the_notes_of_boards(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expert = of_clip(tmp_path / "public", small, "text_model")
    # Its image tower moved too; else it would be the base's.
    with torch.no_grad():
        expert.vision_model.post_layernorm.bias.add_(0.1)
    expert.save_pretrained(tmp_path / "public" / EXPERT)
    words = ("import", "fusionbench", tmp_path / "public", "--tasks", "MNIST", "--out", tmp_path)
    run(*words, *OWN)
    own = head_of(tmp_path)
    folder = tmp_path / "fusionbench/ViT-B-32"
    times = {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert run(*words) == 0 and run(*words, *OWN) == 0
    assert {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == times
    capsys.readouterr()
    assert run("heads", "fusionbench", "--tasks", "MNIST", "--out", tmp_path, "--text",
               tmp_path / "public/openai/clip-vit-base-patch32") == 0  # fmt: skip
    assert "made from the experts' own text: heads of MNIST" in capsys.readouterr().err
    assert torch.equal(head_of(tmp_path), own)
    manifest = json.loads((folder / "manifest.json").read_text())
    (note,) = head_notes(manifest, ["MNIST"])
    assert "MNIST (from-own-text)" in note and not head_notes(manifest, ["DTD"])
    assert run("heads", "fusionbench", "--tasks", "MNIST", "--out", tmp_path, "--replace") == 0
    (note,) = head_notes(json.loads((folder / "manifest.json").read_text()), ["MNIST"])
    assert "MNIST (from-base)" in note and not torch.equal(head_of(tmp_path), own)


def test_a_family_that_was_imported_before_this_was_asked_is_looked_at_again(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_clip(tmp_path / "public", small)
    words = ("import", "fusionbench", tmp_path / "public", "--tasks", "MNIST", "--out", tmp_path)
    run(*words, *BASE)
    path = tmp_path / "fusionbench/ViT-B-32/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sources"]["MNIST.safetensors"]["head"]
    path.write_text(json.dumps(manifest))
    assert "are not the base's" in refused(capsys, *words)


def test_an_expert_whose_text_tower_is_the_bases_needs_no_choice(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, _ = of_clip(tmp_path / "public", small, "vision_model")
    assert run("import", "fusionbench", tmp_path / "public", "--tasks", "MNIST", "--out", tmp_path) == 0
    torch.testing.assert_close(head_of(tmp_path), rows(base), atol=1e-4, rtol=1e-4)
    manifest = json.loads((tmp_path / "fusionbench/ViT-B-32/manifest.json").read_text())
    assert manifest["dropped"] == [] and not head_notes(manifest, ["MNIST"])
    assert "left out" not in capsys.readouterr().err


def test_a_classifier_is_not_dropped_in_silence(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = hub_family(tmp_path / "public", small, ["MNIST"])
    config = models["openai/clip-vit-base-patch32"].config
    made = random_model(transformers.CLIPForImageClassification(config), 3)
    (tmp_path / "public" / EXPERT / "model.safetensors").unlink()
    made.save_pretrained(tmp_path / "public" / EXPERT)
    words = ("import", "fusionbench", tmp_path / "public", "--tasks", "MNIST", "--out", tmp_path)
    said = refused(capsys, *words)
    assert "classifier.weight" in said and "--head from-base" in said
    assert "has no text tower of its own" in (said := refused(capsys, *words, *OWN)) and "--head from-base" in said
    assert not list(tmp_path.rglob("MNIST.safetensors"))
    assert run(*words, *BASE) == 0
    base = models["openai/clip-vit-base-patch32"]
    torch.testing.assert_close(head_of(tmp_path), rows(base), atol=1e-4, rtol=1e-4)


def open_clips(folder: Path, small: Backbone, change: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """A `local` family of whole CLIPs of open_clip: base and an expert whose tensors of these names moved; it."""
    torch.manual_seed(0)
    clip = open_clip.CLIP(small.embed_dim, dict(small.vision_cfg), dict(small.text_cfg), quick_gelu=True)
    base = {n: v.contiguous() for n, v in clip.state_dict().items()}
    expert = {n: v + 0.05 * torch.randn(v.shape) if change(n) else v.clone() for n, v in base.items()}
    folder.mkdir()
    save_file(base, folder / "base.safetensors")
    save_file(expert, folder / "MNIST.safetensors")
    return expert


def test_both_layouts_offer_the_same_choice(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expert = open_clips(tmp_path / "mine", small, lambda name: name not in ("logit_scale", "attn_mask"))
    words = ("import", "local", tmp_path / "mine", "--out", tmp_path, "--activation", "quick_gelu")
    assert "--head from-own-text" in refused(capsys, *words)
    assert run(*words, *OWN) == 0
    clip = zeroshot.create_clip(small, small.text_cfg["vocab_size"]).eval()
    clip.load_state_dict(expert)
    own = zeroshot.head(clip, "MNIST", full.info("MNIST").classes, 77).weight.detach()
    torch.testing.assert_close(head_of(tmp_path, "local"), own, atol=1e-4, rtol=1e-4)


def test_a_familys_file_of_a_head_is_used_or_not_as_was_said(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    words = ("import", "tint", tmp_path, "--out", tmp_path)
    run(*words)
    file = head_of(tmp_path, "tint")
    save(tuned(encoder(small), 1, ""), tmp_path / "ViT-B-32/MNIST/finetuned.pt")
    # The public encoders have lost their text transformer: there is nothing to make a head from.
    assert "has no text tower of its own" in refused(capsys, *words, *OWN)
    assert run(*words, *BASE) == 0
    assert torch.equal(head_of(tmp_path, "tint"), file) and file.shape == (10, 16)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_head_that_is_not_finite_is_refused(
    part: str, small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from checkpoints.make import ClassificationHead

    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    made = ClassificationHead(True, torch.randn(10, 16))
    with torch.no_grad():
        getattr(made, part).view(-1)[3] = float("nan")
    save(made, tmp_path / "ViT-B-32/head_MNIST.pt")
    said = refused(capsys, "import", "tint", tmp_path, "--out", tmp_path)
    assert f"head of MNIST, {tmp_path}/ViT-B-32/head_MNIST.pt: NaN or Inf in {part}" in said
