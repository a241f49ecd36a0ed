"""Public checkpoints become families: what is converted, what is checked, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from helpers.public import encoder, hub_family, open_clip_family, save, tuned, without_text
from helpers.towers import tiny, write_family
from safetensors.torch import load_file, save_file

from benchmark import importers
from benchmark.checkpoints.files import read_file
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.vision import public as full
from benchmark.domains.vision import zeroshot
from benchmark.domains.vision.backbones import BACKBONES, Backbone, create_encoder
from benchmark.domains.vision.family import load_family
from benchmark.importers import hub
from benchmark.importers.convert import class_order

TASKS = ["MNIST", "DTD"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """ViT-B-32 as a tiny tower."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    return BACKBONES["ViT-B-32"]


def run(*words: object) -> int:
    return cli.main(["assets", "checkpoints", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "family, layout", [("task-arithmetic", "zip"), ("task-arithmetic", "plain"), ("tint", "legacy"), ("tall", "zip")]
)
def test_a_family_of_open_clip_files_is_imported_whole(
    family: str, layout: str, small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = open_clip_family(tmp_path / "public", family, small, TASKS, layout)
    assert run("import", family, tmp_path / "public", "--out", tmp_path / "own", "--tasks", *TASKS) == 0
    said = capsys.readouterr()
    found = load_family(tmp_path / "own" / family / "ViT-B-32", "ViT-B-32", TASKS)
    about = importers.get(family)
    files = {about.base[-1]: found.base, **{about.fill(about.expert, "", t): found.experts[t] for t in TASKS}}
    for name, path in files.items():
        stored = load_file(path)
        wanted = {n.removeprefix("model."): v for n, v in truth[name].items() if n.startswith("model.visual.")}
        assert set(stored) == set(wanted) and all(torch.equal(stored[n], v) for n, v in wanted.items())
    assert found.name == family and found.quick_gelu and found.heads["DTD"].weight.shape == (47, 16)
    assert found.manifest["classes"]["DTD"] == full.info("DTD").classes
    text = ["ln_final.bias", "ln_final.weight", "logit_scale", "positional_embedding", "text_projection",
            "token_embedding.weight"]  # fmt: skip
    assert found.manifest["dropped"] == [f"model.{name}" for name in text]
    assert "left out, since no expert moves them: 6 tensors" in said.err and "the family's file" in said.out
    assert str(tmp_path) not in json.dumps(found.manifest)
    kept = found.manifest["sources"]["MNIST.safetensors"]
    assert kept["file"] == ("MNISTVal/nonlinear_finetuned.pt" if family == "tall" else "MNIST/finetuned.pt")


def test_an_imported_expert_computes_what_the_original_does(small: Backbone, tmp_path: Path) -> None:
    open_clip_family(tmp_path, "task-arithmetic", small, ["MNIST"])
    original = tuned(encoder(small), 1, "visual").eval()
    run("import", "task-arithmetic", tmp_path, "--out", tmp_path / "own")
    ours = create_encoder(small).eval()
    ours.load_state_dict(load_file(tmp_path / "own/task-arithmetic/ViT-B-32/MNIST.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), original.model.encode_image(images))


def test_fusionbench_is_imported_with_the_bases_projection_and_prompt_heads(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = hub_family(tmp_path / "public", small, ["MNIST", "EMNIST"])
    assert run("import", "fusionbench", tmp_path / "public", "--out", tmp_path, "--tasks", "MNIST", "EMNIST") == 0
    found = load_family(tmp_path / "fusionbench/ViT-B-32", "ViT-B-32", ["MNIST", "EMNIST"])
    assert found.heads["EMNIST"].weight.shape == (26, 16) and found.manifest["classes"]["EMNIST"][0] == "A"
    expert = models["tanganke/clip-vit-base-patch32_emnist_letters"]
    images = torch.randn(2, 3, 64, 64)
    ours = create_encoder(small).eval()
    ours.load_state_dict(load_file(found.experts["EMNIST"]))
    base = models["openai/clip-vit-base-patch32"]
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(images), base.visual_projection(expert.eval()(images).pooler_output), atol=1e-5, rtol=1e-5
        )
        # One row of a head, the plain way: prompts, transformers' text tower, mean of unit vectors, logit scale.
        tokens = zeroshot.SimpleTokenizer(context_length=77)(['a photo of the digit character: "C".'])
        end = int(tokens[0].argmax())
        hidden = base.text_model(input_ids=tokens).last_hidden_state[:, end]
        row = torch.nn.functional.normalize(base.text_projection(hidden), dim=-1) * base.logit_scale.exp()
    torch.testing.assert_close(found.heads["EMNIST"].weight[2:3], row, atol=1e-4, rtol=1e-4)
    capsys.readouterr()
    assert run("check", "fusionbench", "--out", tmp_path) == 0
    shown = capsys.readouterr()
    assert "26 of 26 as named" in shown.out and "5 files are what" in shown.err


def test_the_cache_folders_of_the_hub_are_read_too(small: Backbone, tmp_path: Path) -> None:
    hub_family(tmp_path / "public", without_text(small), ["MNIST"])
    for repository in list((tmp_path / "public").glob("*/*")):
        name = f"models--{repository.parent.name}--{repository.name}"
        target = tmp_path / "cache" / name / "snapshots" / ("a" * 40)
        target.parent.mkdir(parents=True)
        repository.rename(target)
    about = importers.layouts.find(importers.get("fusionbench"), tmp_path / "cache", "ViT-B-32")
    assert list(about.experts) == ["MNIST"] and about.base.name == "a" * 40


def test_your_own_experts_are_imported_once_their_activation_is_said(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_family(tmp_path / "mine", small, {t: full.info(t).classes for t in TASKS})
    (tmp_path / "mine/manifest.json").unlink()
    assert "Type --activation quick_gelu" in refused(capsys, "import", "local", tmp_path / "mine", "--out", tmp_path)
    assert run("import", "local", tmp_path / "mine", "--out", tmp_path, "--activation", "gelu") == 0
    found = load_family(tmp_path / "local/ViT-B-32", "ViT-B-32", TASKS)
    assert not found.quick_gelu and found.name == "local"
    said = refused(capsys, "import", "local", tmp_path / "mine", "--out", tmp_path, "--activation", "quick_gelu")
    assert "said twice, differently" in said


@pytest.mark.parametrize("prefix", ["", "visual.", "model.visual.", "module.model.visual.", "encoder.model.visual."])
def test_towers_under_any_prefix_are_found(prefix: str, small: Backbone, tmp_path: Path) -> None:
    state = {n.removeprefix("visual."): v for n, v in create_encoder(small).state_dict().items()}
    for number, name in enumerate(("base", *TASKS)):
        moved = {f"{prefix}{n}": v + 0.01 * number for n, v in state.items()}
        moved |= {"logit_scale": torch.ones(())} if prefix else {}
        (tmp_path / "mine/heads").mkdir(parents=True, exist_ok=True)
        save_file(moved, tmp_path / f"mine/{name}.safetensors")
    assert run("import", "local", tmp_path / "mine", "--out", tmp_path, "--activation", "gelu") == 0
    stored = load_file(tmp_path / "local/ViT-B-32/MNIST.safetensors")
    assert set(stored) == set(create_encoder(small).state_dict())


def test_text_tensors_that_an_expert_moved_are_not_dropped_in_silence(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    save(tuned(encoder(small), 1, ""), tmp_path / "ViT-B-32/MNIST/finetuned.pt")
    said = refused(capsys, "import", "tint", tmp_path, "--out", tmp_path)
    assert "6 tensors outside the image tower are not the base's (model." in said and "Is it fine-tuned from" in said


def test_an_expert_that_is_the_base_is_refused(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    save(encoder(small), tmp_path / "ViT-B-32/MNIST/finetuned.pt")
    assert "equals the base in every tensor" in refused(capsys, "import", "tint", tmp_path, "--out", tmp_path)


def test_the_activation_is_read_from_pickled_modules_and_checked(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    save(encoder(small, quick_gelu=False), tmp_path / "ViT-B-32/zeroshot.pt")
    said = refused(capsys, "import", "tint", tmp_path, "--out", tmp_path)
    assert "zeroshot.pt was saved with GELU, this family is defined with QuickGELU" in said


def test_the_number_of_attention_heads_is_read_from_pickled_modules_and_checked(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    model = encoder(small)
    for block in model.model.visual.transformer.resblocks:
        block.attn.num_heads = 2
    save(model, tmp_path / "ViT-B-32/zeroshot.pt")
    assert "says 2 attention heads, ViT-B-32 has 6" in refused(capsys, "import", "tint", tmp_path, "--out", tmp_path)


def test_a_head_of_another_number_of_classes_cites_the_known_trap(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tall", small, ["EMNIST"])
    from checkpoints.make import ClassificationHead

    save(ClassificationHead(True, torch.randn(26, 16)), tmp_path / "single_task/ViT-B-32/head_EMNISTVal.pt")
    said = refused(capsys, "import", "tall", tmp_path, "--out", tmp_path)
    assert "head of EMNIST: weight is [26, 16], expected [10, 16]" in said and "EMNIST digits (10 classes)" in said


def test_a_head_that_does_not_normalise_is_refused(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    from checkpoints.make import ClassificationHead

    save(ClassificationHead(False, torch.randn(10, 16)), tmp_path / "ViT-B-32/head_MNIST.pt")
    assert "normalize=False; expected weight and bias" in refused(capsys, "import", "tint", tmp_path, "--out", tmp_path)


def test_the_same_command_again_converts_nothing_and_new_tasks_are_added(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, TASKS)
    own = tmp_path / "own/tint/ViT-B-32"
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own", "--tasks", "MNIST") == 0
    times = {p.name: p.stat().st_mtime_ns for p in own.rglob("*.safetensors")}
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own") == 0
    now = {p.name: p.stat().st_mtime_ns for p in own.rglob("*.safetensors")}
    assert {n: t for n, t in now.items() if n in times} == times
    assert len(load_family(own, "ViT-B-32", TASKS).experts) == 2
    save(tuned(encoder(small), 9, "visual"), tmp_path / "ViT-B-32/DTD/finetuned.pt")
    before = load_file(own / "DTD.safetensors")
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own") == 0
    assert not torch.equal(load_file(own / "DTD.safetensors")["visual.proj"], before["visual.proj"])


def test_heads_are_made_later_from_a_text_tower(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"], heads=False)
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own") == 0
    assert "no heads for MNIST: symerge-bench assets checkpoints heads tint" in capsys.readouterr().err
    assert "has no text tower" in refused(capsys, "heads", "tint", "--out", tmp_path / "own")
    clip = zeroshot.create_clip(small, small.text_cfg["vocab_size"])
    save_file({n: v.contiguous() for n, v in clip.state_dict().items()}, tmp_path / "clip.safetensors")
    assert run("heads", "tint", "--out", tmp_path / "own", "--text", tmp_path / "clip.safetensors") == 0
    found = load_family(tmp_path / "own/tint/ViT-B-32", "ViT-B-32", ["MNIST"]).heads["MNIST"]
    assert torch.allclose(found.weight.norm(dim=-1), clip.logit_scale.exp()) and not found.bias.any()
    assert "1 prompts a class" in capsys.readouterr().out


def test_a_familys_own_heads_stay_when_a_text_tower_is_given(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    run("import", "tint", tmp_path, "--out", tmp_path / "own")
    head = tmp_path / "own/tint/ViT-B-32/heads/MNIST.safetensors"
    clip = zeroshot.create_clip(small, small.text_cfg["vocab_size"])
    save_file({n: v.contiguous() for n, v in clip.state_dict().items()}, tmp_path / "clip.safetensors")
    own = load_file(head)["weight"]
    words = ("heads", "tint", "--out", tmp_path / "own", "--text", tmp_path / "clip.safetensors")
    assert run(*words) == 0
    assert torch.equal(load_file(head)["weight"], own)
    assert "kept, being the family's own files: heads of MNIST" in capsys.readouterr().err
    assert run("check", "tint", "--out", tmp_path / "own") == 0
    assert "10 of 10 as named" not in capsys.readouterr().out, "a random head is compared with the prompts"
    assert run(*words, "--replace") == 0
    assert not torch.equal(load_file(head)["weight"], own)
    manifest = json.loads((tmp_path / "own/tint/ViT-B-32/manifest.json").read_text())
    assert "heads/MNIST.safetensors" not in manifest["sources"]
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own") == 0
    assert torch.equal(load_file(head)["weight"], own), "importing again brings the family's own head back"


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_prompt_heads_run_the_familys_activation(activation: str, small: Backbone, tmp_path: Path) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"], layout="plain", heads=False)
    about = importers.get("local")
    names = {about.fill(about.base[0], "ViT-B-32"): "zeroshot.pt"}
    names[about.fill(about.expert, "ViT-B-32", "MNIST")] = "MNIST/finetuned.pt"
    (tmp_path / "mine").mkdir()
    for name, place in names.items():
        state = read_file(tmp_path / "ViT-B-32" / place).tensors
        save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "mine" / name)
    out = tmp_path / "own"
    assert run("import", "local", tmp_path / "mine", "--out", out, "--activation", activation, "--tasks", "MNIST") == 0
    clip = open_clip.CLIP(
        small.embed_dim, dict(small.vision_cfg), dict(small.text_cfg), quick_gelu=activation == "quick_gelu"
    ).eval()
    save_file({n: v.contiguous() for n, v in clip.state_dict().items()}, tmp_path / "clip.safetensors")
    assert run("heads", "local", "--out", out, "--text", tmp_path / "clip.safetensors", "--replace") == 0
    classes = full.info("MNIST").classes
    prompts = [t.format(c) for c in classes for t in zeroshot.templates("MNIST")]
    with torch.no_grad():
        features = clip.encode_text(open_clip.tokenize(prompts), normalize=True)
        rows = torch.nn.functional.normalize(features.view(len(classes), -1, small.embed_dim).mean(1), dim=-1)
    found = load_family(out / "local/ViT-B-32", "ViT-B-32", ["MNIST"]).heads["MNIST"].weight
    torch.testing.assert_close(found.detach(), rows * clip.logit_scale.exp().detach(), atol=1e-4, rtol=1e-4)


def test_a_text_tower_with_another_activation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_act": "gelu"}}))
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "model.safetensors")
    with pytest.raises(importers.convert.FamilyError, match="hidden_act 'gelu' of the text tower"):
        importers.convert.read_text(tmp_path, quick_gelu=True)


def test_experts_are_compared_again_with_another_base(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    run("import", "tint", tmp_path, "--out", tmp_path / "own")
    capsys.readouterr()
    base = tmp_path / "own/tint/ViT-B-32/base.safetensors"
    kept = base.read_bytes()
    save(tuned(encoder(small), 77), tmp_path / "ViT-B-32/zeroshot.pt")
    assert "not the base's" in refused(capsys, "import", "tint", tmp_path, "--out", tmp_path / "own")
    assert base.read_bytes() == kept, "a refused import leaves the family as it was"


def test_another_base_does_not_leave_experts_of_the_old_one(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, TASKS)
    run("import", "tint", tmp_path, "--out", tmp_path / "own")
    capsys.readouterr()
    save(tuned(encoder(small), 77, "visual"), tmp_path / "ViT-B-32/zeroshot.pt")
    words = ("import", "tint", tmp_path, "--out", tmp_path / "own")
    assert "has experts for DTD too" in refused(capsys, *words, "--tasks", "MNIST")
    before = load_family(tmp_path / "own/tint/ViT-B-32", "ViT-B-32", TASKS).manifest["distance"]
    assert run(*words) == 0
    after = load_family(tmp_path / "own/tint/ViT-B-32", "ViT-B-32", TASKS).manifest["distance"]
    assert all(after[task] != before[task] for task in TASKS)


def test_an_import_goes_on_from_what_another_one_has_written(small: Backbone, tmp_path: Path) -> None:
    open_clip_family(tmp_path, "tint", small, TASKS)
    about, out = importers.get("tint"), tmp_path / "own"
    both = [importers.convert.Importer(about, "ViT-B-32", out, say=lambda line: None) for _ in range(2)]
    for importer, task in zip(both, TASKS, strict=True):
        importer.run(importers.layouts.find(about, tmp_path, "ViT-B-32", [task]))
    assert len(load_family(out, "ViT-B-32", TASKS).experts) == 2


def test_files_of_mixed_precision_load_as_they_were_imported(small: Backbone, tmp_path: Path) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"], layout="plain")
    for name in ("zeroshot.pt", "MNIST/finetuned.pt"):
        state = read_file(tmp_path / "ViT-B-32" / name).tensors
        kinds = {"model.visual.proj": torch.float16, "model.visual.conv1.weight": torch.float64}
        torch.save({n: t.to(kinds.get(n, t.dtype)) for n, t in state.items()}, tmp_path / "ViT-B-32" / name)
    assert run("import", "tint", tmp_path, "--out", tmp_path / "own") == 0
    found = load_family(tmp_path / "own/tint/ViT-B-32", "ViT-B-32", ["MNIST"])
    assert found.manifest["files"]["MNIST.safetensors"]["dtype"] == "F16+F32+F64"


def test_the_repositorys_own_spelling_of_a_backbone_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(BACKBONES, "ViT-B-16", tiny("ViT-B-16"))
    open_clip_family(tmp_path / "public", "tall", BACKBONES["ViT-B-16"], ["MNIST"])
    (place,) = (path.parent for path in (tmp_path / "public").rglob("MNISTVal"))
    (tmp_path / "hub/single_task").mkdir(parents=True)
    place.rename(tmp_path / "hub/single_task/VIT-B-16")
    found = importers.layouts.find(importers.get("tall"), tmp_path / "hub", "ViT-B-16")
    assert list(found.experts) == ["MNIST"]


def test_a_folder_that_cannot_be_written_names_the_option(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"])
    (tmp_path / "file").write_text("")
    said = refused(capsys, "import", "tint", tmp_path, "--out", tmp_path / "file" / "below")
    assert "Not a directory" in said and "--out DIR" in said


def test_another_order_of_classes_in_a_head_is_seen(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_clip_family(tmp_path, "tint", small, ["MNIST"], heads=False)
    clip = zeroshot.create_clip(small, small.text_cfg["vocab_size"])
    own = zeroshot.head(clip, "MNIST", full.info("MNIST").classes, 77).weight.detach()
    assert class_order(own, own) == [] and class_order(own.flip(0), own) == list(range(10))
    run("import", "tint", tmp_path, "--out", tmp_path)
    save_file({n: v.contiguous() for n, v in clip.state_dict().items()}, tmp_path / "clip.safetensors")
    run("heads", "tint", "--out", tmp_path, "--text", tmp_path / "clip.safetensors")
    folder = tmp_path / "tint/ViT-B-32"
    swapped = load_file(folder / "heads/MNIST.safetensors")
    swapped["weight"][[3, 5]] = swapped["weight"][[5, 3]]
    save_file(swapped, folder / "heads/MNIST.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= importers.convert.describe_files(folder, ["heads/MNIST.safetensors"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert run("check", "tint", "--out", tmp_path) == 0
    assert "8 of 10 as named; not: 3, 5" in capsys.readouterr().out


def test_missing_files_say_what_was_looked_for_and_where_they_come_from(
    small: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "import", "tall", tmp_path, "--out", tmp_path)
    assert f"looked for {tmp_path}/zeroshot.pt or" in said and "https://huggingface.co/nik-dim/tall_masks" in said
    open_clip_family(tmp_path, "tall", small, ["MNIST"])
    said = refused(capsys, "import", "tall", tmp_path, "--out", tmp_path, "--suite", "vision-8")
    assert "no expert for SUN397, Cars" in said and "looked for SUN397Val/nonlinear_finetuned.pt" in said


class Hub:
    """Stands for the hub's client: repositories are folders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def snapshot_download(self, name: str, *, revision: str, allow_patterns: list[str], cache_dir: Any) -> str:
        self.asked.append((name, revision, allow_patterns))
        return str(self.folder / name)

    def HfApi(self) -> Any:
        return SimpleNamespace(repo_info=lambda name, revision: SimpleNamespace(sha="b" * 40))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    import huggingface_hub

    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", made.HfApi)
    return made


def test_nothing_is_fetched_unless_asked_for(fake_hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "import", "tall", "--out", tmp_path)
    assert "or with --download in PATH's place" in said and not fake_hub.asked
    assert "belong to --download" in refused(capsys, "import", "tall", tmp_path, "--revision", "main")
    assert "is not on the hub" in refused(capsys, "import", "task-arithmetic", "--download", "--out", tmp_path)
    said = refused(capsys, "import", "fusionbench", "--download", "--suite", "vision-8", "--out", tmp_path)
    assert "no commit of openai/clip-vit-base-patch32, tanganke/clip-vit-base-patch32_sun397" in said
    assert "Type --revision COMMIT" in said and not fake_hub.asked


def test_download_records_the_commit_of_every_repository(small: Backbone, fake_hub: Hub, tmp_path: Path) -> None:
    hub_family(fake_hub.folder, small, ["MNIST"])
    words = ["import", "fusionbench", "--download", "--tasks", "MNIST", "--out", tmp_path, "--revision", "main"]
    commit = "c" * 40
    assert run(*words, "--revision", f"openai/clip-vit-base-patch32={commit}") == 0
    manifest = json.loads((tmp_path / "fusionbench/ViT-B-32/manifest.json").read_text())
    assert manifest["hub"] == {
        "openai/clip-vit-base-patch32": commit, "tanganke/clip-vit-base-patch32_mnist": "b" * 40
    }  # fmt: skip
    assert all("config.json" in patterns for _, _, patterns in fake_hub.asked)


def test_another_repository_of_the_family_may_be_named(small: Backbone, fake_hub: Hub, tmp_path: Path) -> None:
    open_clip_family(fake_hub.folder / "kasurashan/checkpoints_tint_2-0-2", "tint", small, ["MNIST"])
    repo = ["--repo", "kasurashan/checkpoints_tint_2-0-2", "--revision", "d" * 40]
    assert run("import", "tint", "--download", *repo, "--out", tmp_path) == 0
    assert fake_hub.asked == [("kasurashan/checkpoints_tint_2-0-2", "d" * 40, ["ViT-B-32/*"])]
    with pytest.raises(UserError, match="--repo nik-dim/tall_masks is not one of the family tint"):
        hub.repositories(importers.get("tint"), "ViT-B-32", ["MNIST"], "nik-dim/tall_masks")


def test_every_family_says_what_it_is() -> None:
    found = importers.definitions()
    assert list(found) == ["task-arithmetic", "tall", "tint", "fusionbench", "local"]
    for name, family in found.items():
        assert family.quick_gelu is (None if name == "local" else True)  # OpenAI's CLIP
        assert all(len(commit) == 40 for commit in family.revisions.values())
        assert set(family.known_tasks()) <= set(full.names())
    assert set(found["fusionbench"].names) == set(full.names())
    assert found["fusionbench"].fill("{hub}_{task}", "ViT-L-14", "Cars") == "clip-vit-large-patch14_stanford-cars"


def test_prompts_are_as_many_as_the_papers_use() -> None:
    counts = {
        "SUN397": 2, "Cars": 8, "RESISC45": 18, "EuroSAT": 3, "SVHN": 1, "GTSRB": 3, "MNIST": 1, "DTD": 8,
        "Flowers102": 1, "PCAM": 1, "FER2013": 6, "OxfordIIITPet": 1, "STL10": 2, "CIFAR100": 18, "CIFAR10": 18,
        "Food101": 1, "FashionMNIST": 2, "EMNIST": 1, "KMNIST": 1, "RenderedSST2": 1,
    }  # fmt: skip
    assert {task: len(zeroshot.templates(task)) for task in full.names()} == counts
    for task in full.names():
        prompts = zeroshot.templates(task)
        assert len(set(prompts)) == len(prompts) and all(p.count("{}") == 1 for p in prompts)
    with pytest.raises(UserError, match="unknown data set with prompts 'MNISTT'; did you mean MNIST"):
        zeroshot.templates("MNISTT")
