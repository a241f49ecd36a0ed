"""A suite of a user's own opens, or says in one line what of its files is not as it should be; what it computes is what
the models' own library computes; and what changes of it is another identity."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.own_suites import (
    CLASSES,
    SIZE,
    SMALL,
    class_folders,
    perturbed,
    save_processor,
    write_suite,
    write_yaml,
)
from helpers.peft_files import merge, write_adapter
from open_clip import CLIP, SimpleTokenizer
from safetensors.torch import load_file, save_file

from benchmark import suites
from benchmark.common.errors import UserError
from benchmark.domains.vision.heads import zero_shot_head
from benchmark.domains.vision.own.bench import OwnBench
from benchmark.domains.vision.own.text_heads import text_head
from benchmark.domains.vision.own.weights import open_checkpoint
from benchmark.harness.child import portable
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records.store import Store
from benchmark.suites.own import Head
from methods.api import UNLABELLED, Access


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite")).parent


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy of the suite's folder, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "suite"))


def opened(path: Path) -> OwnBench:
    bench = suites.open_bench(suites.load(str(path)))
    assert isinstance(bench, OwnBench)
    return bench


def refused(path: Path) -> UserError:
    with pytest.raises(UserError) as raised:
        opened(path)
    assert "\n" not in raised.value.message and raised.value.message.startswith(str(suites.load(str(path)).typed))
    return raised.value


@torch.no_grad()
def logits_of(bench: OwnBench, task: str) -> torch.Tensor:
    """Of the expert on its test images, as the harness computes them."""
    experts, source = bench.experts(), bench.source(task, "test")
    return experts.head(task)(experts.forward(experts.state(task), task, source[torch.arange(len(source))][0]))


@torch.no_grad()
def test_an_expert_predicts_what_its_own_library_predicts_of_the_same_files(root: Path) -> None:
    bench = opened(root / "suite.yaml")
    processor = transformers.AutoImageProcessor.from_pretrained(root / "base")
    from PIL import Image

    for task in CLASSES:
        model = transformers.AutoModelForImageClassification.from_pretrained(root / task).eval()
        names = [entry.name for _, entries in bench.images[task].parts["test"] for entry in entries]
        pictures = [Image.open(root / "data" / task / name) for name in names]
        wanted = model(**processor(images=pictures, return_tensors="pt")).logits
        # Pixels are resized by two libraries, which round in their own ways.
        torch.testing.assert_close(logits_of(bench, task), wanted, rtol=0.02, atol=0.02)
        assert bench.images[task].classes.names == CLASSES[task]


def test_names_are_those_of_the_files(root: Path) -> None:
    stored = load_file(root / "pets" / "model.safetensors")
    experts = opened(root / "suite.yaml").experts()
    assert set(experts.base) == {name for name in stored if not name.startswith("classifier")}
    assert all(torch.equal(experts.expert("pets")[name], stored[name]) for name in experts.base)
    assert torch.equal(experts.head("pets").get_parameter("weight"), stored["classifier.weight"])


def run(bench: OwnBench, store: Path, *texts: str) -> dict[str, Any]:
    records = execute(plan(bench, list(texts), seeds=[0]), bench, Store(store), Options())
    assert all(record.status == "done" for record in records), [r.error.line() for r in records if r.error]
    return {record.variant: record for record in records}


METHODS = ["ties", "task_arithmetic:scale=val", "symerge:steps=2", "adamerging:steps=2", "surgery:steps=2", "regmean"]


@pytest.mark.slow
def test_methods_of_every_access_run_and_say_what_they_were_handed(root: Path, tmp_path: Path) -> None:
    bench = opened(root / "suite.yaml")
    records = run(bench, tmp_path / "results", *METHODS)
    assert {name: record.access for name, record in records.items() if name in METHODS[:3]} == {
        "ties": [], "task_arithmetic:scale=val": ["labelled val"], "symerge:steps=2": ["unlabelled test"],
    }  # fmt: skip
    for record in records.values():
        assert record.spec.suite == "own:tiny" and {task: r.n for task, r in record.tasks.items()} == {
            "pets": 18, "shapes": 12, "food": 24,
        }  # fmt: skip
        assert any("val are 3 of 30 training images" in note for note in record.provenance.notes)
    individual = records["individual"]
    for task in CLASSES:
        right = logits_of(bench, task).argmax(-1).numpy() == bench.source(task, "test").labels.numpy()  # type: ignore[attr-defined]
        assert np.array_equal(individual.tasks[task].statistics.numpy(), right)


def identity(path: Path) -> str:
    bench = opened(path)
    (job,) = [job for job in plan(bench, ["ties"], seeds=[0]) if job.variant == "ties"]
    return job.id


def repaint(root: Path) -> None:
    image = next((root / "data" / "pets" / "test" / "cat").iterdir())
    shutil.copy(next((root / "data" / "pets" / "test" / "dog").iterdir()), image)


def retrain(root: Path, name: str, tensor: str) -> None:
    state = load_file(root / name / "model.safetensors")
    state[tensor] = state[tensor] + 0.01
    save_file(state, root / name / "model.safetensors", {"format": "pt"})


def reconfigure(root: Path) -> None:
    path = root / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 1e-3}))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "an image": repaint,
    "an expert": lambda root: retrain(root, "pets", "vit.layernorm.weight"),
    "a head": lambda root: retrain(root, "pets", "classifier.bias"),
    "the base": lambda root: retrain(root, "base", "vit.layernorm.weight"),
    "the base's configuration": reconfigure,
    "the draw": lambda root: write_yaml(
        root, splits={"seed": 1, "val": 0.3}, tasks={"pets": {"data": "data/pets/train"}}
    ),
    "the preprocessing": lambda root: write_yaml(root, preprocessing={"interpolation": "nearest"}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changes_of_the_files_is_another_identity(kind: str, root: Path) -> None:
    before = identity(root / "suite.yaml")
    assert identity(root / "suite.yaml") == before
    CHANGES[kind](root)
    assert identity(root / "suite.yaml") != before


def test_a_moved_folder_is_the_same_identity(root: Path, tmp_path: Path) -> None:
    before = identity(root / "suite.yaml")
    assert identity(Path(shutil.move(root, tmp_path / "moved")) / "suite.yaml") == before


def test_data_are_asked_for_by_access_alone(root: Path) -> None:
    bench = opened(write_yaml(root, splits={"val": 0}))
    assert set(bench.data_of(Access())) == {"test"}
    assert set(bench.data_of(Access(train=UNLABELLED))) == {"test", "train"}
    with pytest.raises(UserError, match="pets has no val images; it has train, test"):
        bench.data_of(Access(val=UNLABELLED))
    assert bench.data_folders() == sorted(root / "data" / task for task in CLASSES)


def pets(root: Path, **changed: Any) -> Path:
    """The suite with other keys of one task."""
    return write_yaml(root, tasks={"pets": changed})


def other_width(root: Path) -> Path:
    save_file({"weight": torch.randn(3, 7)}, root / "head.safetensors")
    return pets(root, head="head.safetensors")


def other_shape(root: Path) -> Path:
    retrain(root, "pets", "vit.layernorm.weight")
    state = load_file(root / "pets" / "model.safetensors")
    state["vit.layernorm.weight"] = torch.ones(4)
    save_file(state, root / "pets" / "model.safetensors")
    return root / "suite.yaml"


def shorter(root: Path) -> Path:
    state = load_file(root / "pets" / "model.safetensors")
    save_file({n: t for n, t in state.items() if "layer.1" not in n}, root / "pets" / "model.safetensors")
    return root / "suite.yaml"


def fewer_classes(root: Path) -> Path:
    shutil.rmtree(root / "data" / "pets" / "test" / "cat")
    shutil.rmtree(root / "data" / "pets" / "train" / "cat")
    return root / "suite.yaml"


def unreadable(root: Path) -> Path:
    (root / "pets" / "model.safetensors").write_bytes(b"no tensors")
    return root / "suite.yaml"


def not_finite(root: Path) -> Path:
    state = load_file(root / "pets" / "model.safetensors")
    state["classifier.bias"][0] = torch.nan
    save_file(state, root / "pets" / "model.safetensors")
    return root / "suite.yaml"


MISTAKES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "no base": (lambda r: write_yaml(r, base="nowhere"), "base: there is no ", "Nothing is fetched"),
    "no expert": (lambda r: pets(r, expert="pats"), "expert of pets: there is no ", "Write its path"),
    "no weights": (lambda r: pets(r, expert="data"), "expert of pets: ", "a model's folder"),
    "no safetensors": (unreadable, "expert of pets: ", "Give a file of weights"),
    "no images": (lambda r: pets(r, data="images"), "pets: there is no ", "Write a path of"),
    "the base as an expert": (lambda r: pets(r, expert="base"), "pets is the base", "fine-tuned"),
    "another head's name": (lambda r: pets(r, head="fc"), "has no fc.weight; it has classifier.weight", "head: NAME"),
    "a head of another width": (other_width, "the head takes 7 features, ViTForImageClassification gives", "features"),
    "a head that is not there": (lambda r: pets(r, head="h.pt"), "pets: there is no head", "path"),
    "a head with NaN": (not_finite, "NaN or Inf in classifier.bias", "Save it again"),
    "another architecture": (shorter, "is no ViTForImageClassification: it lacks vit.encoder.layer.1", "architecture"),
    "another shape": (other_shape, "vit.layernorm.weight is [4]; the base's is [16]", "another base"),
    "a class without images": (fewer_classes, "the data have no class 'cat', which the head has", "absent: [cat]"),
    "another order by mistake": (
        lambda r: pets(r, classes=["cat", "dog"]), "the head has 3 outputs, and 2 classes", "classes",
    ),
    "images of another size": (
        lambda r: write_yaml(r, preprocessing={"size": 56}), "takes no images of 56 x 56", "preprocessing",
    ),
    "no processor": (
        lambda r: (r / "base" / "preprocessor_config.json").unlink() or r / "suite.yaml",
        "nothing says how pictures are made ready", "preprocessing: {size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_suite_and_what_to_type(kind: str, root: Path) -> None:
    make, said, hint = MISTAKES[kind]
    error = refused(make(root))
    assert said in error.message and hint in error.hint


def test_heads_of_files_with_their_classes(root: Path) -> None:
    weight, bias = torch.randn(3, 16), torch.randn(3)
    classes = ["fish", "dog", "cat"]
    save_file({"weight": weight, "bias": bias}, root / "head.safetensors", {"classes": json.dumps(classes)})
    for normalise in (False, True):
        said = {"file": "head.safetensors", "normalise": normalise}
        bench = opened(write_yaml(root, tasks={"pets": {"head": said}}))
        assert bench.images["pets"].classes.names == classes
        features = torch.randn(4, 16)
        wanted = (torch.nn.functional.normalize(features, dim=-1) if normalise else features) @ weight.T + bias
        torch.testing.assert_close(bench.heads["pets"](features), wanted)


def write_clip(root: Path) -> Any:
    """A CLIP of transformers with the vocabulary of CLIP itself, and its experts: image towers."""
    torch.manual_seed(0)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config={**SMALL}, text_config={**text, "max_position_embeddings": 24}, projection_dim=12
    )
    model = transformers.CLIPModel(config).eval()
    for seed, name in enumerate(("base", *CLASSES)):
        other = perturbed(model, seed) if seed else model
        other.save_pretrained(root / name)
    transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(root / "base")
    for task, names in CLASSES.items():
        class_folders(root / "data" / task, names, 6)
    return model


@torch.no_grad()
def test_heads_are_made_of_class_names_by_a_clip_of_transformers(tmp_path: Path) -> None:
    model = write_clip(tmp_path)
    said = {"text": "base", "templates": ["a photo of a {}.", "the {}."], "words": {"cat": "tabby cat"}}
    bench = opened(write_yaml(tmp_path, head=said))
    tokens = SimpleTokenizer(context_length=24)
    rows = []
    for name in ("tabby cat", "dog", "fish"):
        ids = tokens([f"a photo of a {name}.", f"the {name}."])
        out: Any = model.get_text_features(
            input_ids=ids, attention_mask=(torch.arange(24) <= ids.argmax(-1, True)).long()
        )
        each = torch.nn.functional.normalize(out if isinstance(out, torch.Tensor) else out.pooler_output, dim=-1)
        rows.append(torch.nn.functional.normalize(each.mean(0), dim=0))
    wanted = torch.stack(rows) * model.logit_scale.exp()
    torch.testing.assert_close(bench.heads["pets"].get_parameter("weight"), wanted, rtol=1e-4, atol=1e-5)
    assert logits_of(bench, "pets").shape == (3, 3) and bench.encoder.name == "CLIPVisionModelWithProjection"


def test_a_clip_that_says_what_it_is_makes_heads_for_a_base_of_another_library(tmp_path: Path) -> None:
    write_clip(tmp_path)
    clip = open_checkpoint(tmp_path / "base", "text tower")
    said = Head(templates=["a {}."])
    names = ["cat", "dog"]
    made = [text_head("pets", said, names, clip, encoder).head for encoder in (None, "open_clip/ViT-B-32")]
    assert torch.equal(made[0].get_parameter("weight"), made[1].get_parameter("weight"))


def write_open_clip(root: Path) -> CLIP:
    """A CLIP of open_clip; experts are state dicts of ``torch.save``, wrapped as training scripts do."""
    torch.manual_seed(0)
    about = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 16, "patch_size": 14, "head_width": 8},
        "text_cfg": {"context_length": 24, "width": 8, "heads": 2, "layers": 1, "vocab_size": 49408},
    }
    model = CLIP(**about).eval()
    (root / "base").mkdir(parents=True)
    (root / "base" / "open_clip_config.json").write_text(json.dumps({"model_cfg": about, "preprocess_cfg": {}}))
    save_file(model.state_dict(), root / "base" / "open_clip_model.safetensors")
    for seed, task in enumerate(CLASSES, 1):
        state = {f"module.{name}": value for name, value in perturbed(model, seed).state_dict().items()}
        torch.save({"state_dict": state}, root / f"{task}.pt")
        class_folders(root / "data" / task, CLASSES[task], 6)
    return model


@torch.no_grad()
def test_pickled_experts_of_open_clip_with_heads_of_its_text_tower(tmp_path: Path) -> None:
    model = write_open_clip(tmp_path)
    tasks = {task: {"expert": f"{task}.pt"} for task in CLASSES}
    bench = opened(write_yaml(tmp_path, head={"text": "base"}, tasks=tasks))
    wanted = zero_shot_head(model, SimpleTokenizer(context_length=24), CLASSES["food"], ["a photo of a {}."])
    torch.testing.assert_close(bench.heads["food"].get_parameter("weight"), wanted.weight.detach())
    expert = perturbed(model, 3)
    images = bench.source("food", "test")[torch.arange(4)][0]
    features = bench.experts().forward(bench.experts().state("food"), "food", images)
    torch.testing.assert_close(features, expert.encode_image(images))  # type: ignore[operator]
    assert "text" not in " ".join(bench.experts().base)


@pytest.mark.parametrize("named", ["as the library does", "as the file does"])
@torch.no_grad()
def test_adapters_are_the_experts_that_peft_would_make_of_them(named: str, root: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(root / "base").eval()
    wanted = {}
    for seed, (task, names) in enumerate(CLASSES.items()):
        shutil.rmtree(root / task)
        modules = [name for name, part in model.named_modules() if name.endswith(("q_proj", "query"))]
        head = {"classifier.weight": torch.randn(len(names), 16), "classifier.bias": torch.randn(len(names))}
        factors = write_adapter(
            root / task, model, modules, whole=head, seed=seed, base_model_name_or_path="somebody/vit"
        )
        expert = transformers.AutoModelForImageClassification.from_pretrained(root / "base").eval()
        merge(expert, factors, 2.0)
        wanted[task] = expert
        if named == "as the file does":
            path = root / task / "adapter_model.safetensors"
            renamed = {
                name.replace(".layers.", ".encoder.layer.").replace(
                    "attention.q_proj", "attention.attention.query"
                ): value
                for name, value in load_file(path).items()
            }
            save_file(renamed, path)
    tasks = {task: {"classes": names} for task, names in CLASSES.items()}
    bench = opened(write_yaml(root, tasks=tasks))
    experts = bench.experts()
    assert experts.lacks("adapters") is None and len(experts.lora("pets")) == 2
    for task, expert in wanted.items():
        images = bench.source(task, "test")[torch.arange(4)][0]
        hidden = expert.vit(pixel_values=images).last_hidden_state[:, 0]
        features = experts.forward(experts.state(task), task, images)
        torch.testing.assert_close(features, hidden, rtol=1e-4, atol=1e-4)


def test_experts_in_shards_and_in_half_precision_reach_another_process_as_places_in_files(
    root: Path, tmp_path: Path
) -> None:
    for name in ("pets", "base"):
        model = transformers.AutoModelForImageClassification.from_pretrained(root / name)
        shutil.rmtree(root / name)
        model.to(torch.bfloat16).save_pretrained(root / name, max_shard_size="10KB")
        assert len(list((root / name).glob("*.safetensors"))) > 1
    save_processor(root / "base")
    bench = opened(root / "suite.yaml")
    experts = bench.experts()
    assert experts.expert("pets")["vit.layernorm.weight"].dtype == torch.bfloat16
    assert experts.state("pets")["vit.layernorm.weight"].dtype == torch.float32
    packed = portable.pack(experts, tmp_path)
    text = pickle.dumps(packed)
    assert len(text) < 300_000  # no weights are in it
    again = portable.placed(pickle.loads(text), torch.device("cpu"))
    for name in experts.names:
        assert torch.equal(again.base[name], experts.base[name])
        assert torch.equal(again.expert("pets")[name], experts.expert("pets")[name])
    images = bench.source("pets", "test")[torch.arange(4)][0]
    for one, other in zip(experts.heads.values(), again.heads.values(), strict=True):
        assert torch.equal(one.get_parameter("weight"), other.get_parameter("weight"))
    with torch.no_grad():
        wanted = experts.forward(experts.state("pets"), "pets", images)
        assert torch.equal(again.forward(again.state("pets"), "pets", images), wanted)


def test_an_unfamiliar_base_without_classifier_and_experts_with_one(root: Path) -> None:
    """The usual case of the hub: the base is a backbone, whose names lack what stands before the experts'."""
    base = transformers.AutoModelForImageClassification.from_pretrained(root / "base")
    torch.manual_seed(0)
    backbone = transformers.ViTModel(transformers.ViTConfig(**SMALL))
    backbone.load_state_dict(base.vit.state_dict(), strict=False)
    before = logits_of(opened(root / "suite.yaml"), "pets")
    shutil.rmtree(root / "base")
    backbone.save_pretrained(root / "base")
    save_processor(root / "base")
    bench = opened(root / "suite.yaml")
    assert not any(name.startswith("vit.") for name in bench.experts().base)
    torch.testing.assert_close(logits_of(bench, "pets"), before)


def test_of_batch_normalisations_boards_say_that_their_statistics_are_merged(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    torch.manual_seed(0)
    base = transformers.ResNetForImageClassification(config).eval()
    tasks: dict[str, Any] = {}
    for seed, name in enumerate(("base", *CLASSES)):
        (perturbed(base, seed) if seed else base).save_pretrained(tmp_path / name)
        if seed:
            class_folders(tmp_path / "data" / name, ["a", "b", "c"], 5)
            tasks[name] = {"classes": ["a", "b", "c"]}
    pixels = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
    bench = opened(write_yaml(tmp_path, preprocessing=pixels, tasks=tasks))
    assert bench.notes[-1].startswith("Running means and variances of batch normalisations are merged")
    record = run(bench, tmp_path / "results", "weight_average")["weight_average"]
    assert bench.notes[-1] in record.provenance.notes


def test_names_that_say_nothing_are_none(root: Path) -> None:
    path = root / "pets" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}))
    bench = opened(root / "suite.yaml")
    assert any("pets: nothing names the outputs of the head; the order" in note for note in bench.notes)
    path.write_text(json.dumps({**about, "id2label": {"0": "fish", "1": "dog", "2": "cat"}}))
    assert opened(root / "suite.yaml").images["pets"].classes.names == ["fish", "dog", "cat"]
