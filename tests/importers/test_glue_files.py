"""RoBERTa experts in every form that they are stored in: shards, adapters, wrapped names, half precision, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.damage import ODD, json_of, places
from helpers.glue_files import config, write
from helpers.lacking import lacks_package
from helpers.peft_files import merge, write_adapter
from safetensors.torch import load_file, save_file

import methods
from benchmark.checkpoints.adapters import open_experts
from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import read_json, weights
from benchmark.checkpoints.peft import read_adapter
from benchmark.common.errors import UserError
from benchmark.domains.text.encoder import load_tokenizer
from benchmark.domains.text.family import TextFamily, create_encoder, load_family
from benchmark.domains.text.glue import TASKS
from benchmark.importers.labels import order_of
from benchmark.importers.text import SUBFOLDER, import_family
from methods.api import Experts

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


def imported(folder: Path, tasks: list[str], say: Callable[[str], None] = lambda line: None) -> TextFamily:
    import_family("local", folder / "in", folder / "out", tasks, say=say)
    return load_family(folder / "out", "local", tasks, {t: TASKS[t].outputs for t in tasks})


def experts_of(family: TextFamily) -> Experts:
    return open_experts(family.base, family.experts, heads=family.heads, encoder=create_encoder(family.folder))


def assert_same_logits(family: TextFamily, task: str, model: Any) -> None:
    experts = experts_of(family)
    inputs = load_tokenizer(family.folder)(["the cat runs .", "a dog"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        got = experts.copy_head(task)(experts.forward(experts.state(task), task, dict(inputs)))
    assert float(expected.std()) > 0
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def expert(place: Path) -> Any:
    return transformers.RobertaForSequenceClassification.from_pretrained(str(place), local_files_only=True)


def adapted(folder: Path, task: str = "RTE") -> tuple[Path, Any]:
    """A base in ``folder/in`` and, in its memory, the base with a fresh head: what an adapter is trained on."""
    write(folder / "in", [task])
    place = folder / "in" / TASKS[task].config / SUBFOLDER
    for path in place.iterdir():
        path.unlink()
    model = transformers.RobertaForSequenceClassification(config(num_labels=TASKS[task].outputs)).eval()
    base = load_file(folder / "in/roberta-base/model.safetensors")
    model.load_state_dict({n: t for n, t in base.items() if n.startswith("roberta.")}, strict=False)
    return place, model


def head_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("classifier.")}


QUERIES = [f"roberta.encoder.layer.{i}.attention.self.{part}" for i in range(2) for part in ("query", "value")]


@pytest.mark.parametrize("of_base", [False, True])
def test_shards_are_read_by_their_index(of_base: bool, tmp_path: Path) -> None:
    models = write(tmp_path / "in", ["RTE"])
    place = tmp_path / "in/rte" / SUBFOLDER
    (place / "model.safetensors").unlink()
    models["RTE"].save_pretrained(place, max_shard_size="6KB")
    assert len(list(place.glob("model-*-of-*.safetensors"))) > 2
    if of_base:
        whole = transformers.RobertaForMaskedLM.from_pretrained(str(tmp_path / "in/roberta-base"))
        (tmp_path / "in/roberta-base/model.safetensors").unlink()
        whole.save_pretrained(tmp_path / "in/roberta-base", max_shard_size="6KB")
    assert_same_logits(imported(tmp_path, ["RTE"]), "RTE", models["RTE"])


def sharded(tmp_path: Path) -> Path:
    models = write(tmp_path / "in", ["RTE"])
    place = tmp_path / "in/rte" / SUBFOLDER
    (place / "model.safetensors").unlink()
    models["RTE"].save_pretrained(place, max_shard_size="6KB")
    return place


def change_index(place: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = place / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("damage, words", [
    (lambda p: save_file({"x": torch.ones(1)}, p / "model.safetensors"), "holds model.safetensors beside shards"),
    (lambda p: torch.save({"x": torch.ones(1)}, p / "pytorch_model.bin"), ""),
    (lambda p: sorted(p.glob("model-0*"))[1].unlink(), "lacks 1 of .* shards, e.g. model-00002-of"),
    (lambda p: (p / "model.safetensors.index.json").unlink(), "shards .* without model.safetensors.index.json"),
    (lambda p: (p / "model.safetensors.index.json").write_text("[]"), "it holds a list, expected an object"),
    (lambda p: (p / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
    (lambda p: change_index(p, lambda m: m.update({next(iter(m)): "../model-00001.safetensors"})), "no file beside it"),
    (lambda p: change_index(p, lambda m: m.pop(next(iter(m)))), "differ in .*: they are not of one model"),
    (lambda p: change_index(p, lambda m: m.update(more=next(iter(m.values())))), "differ in more"),
    (lambda p: write_adapter(p, expert(p), QUERIES[:1]), "holds an adapter .* and a whole model"),
])  # fmt: skip
def test_shards_that_do_not_belong_together_are_refused(
    damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    place = sharded(tmp_path)
    damage(place)
    if not words:  # of another format: the safetensors are read, as transformers does
        assert imported(tmp_path, ["RTE"]).experts
        return
    with pytest.raises(UserError, match=words):
        imported(tmp_path, ["RTE"])


def test_an_adapter_of_peft_is_a_lora_expert(tmp_path: Path) -> None:
    place, model = adapted(tmp_path)
    modules = [*QUERIES, "roberta.embeddings.word_embeddings"]
    factors = write_adapter(place, model, modules, whole=head_of(model))
    said: list[str] = []
    family = imported(tmp_path, ["RTE"], said.append)
    assert any("adapter_model.safetensors, LoRA of roberta-base" in line for line in said)
    merge(model, factors, 2.0)  # lora_alpha / r
    assert_same_logits(family, "RTE", model)
    stored = experts_of(family).lora("RTE")
    name = "model.encoder.layer.0.attention.self.query.weight"
    assert len(stored) == len(modules) and stored[name][2] == pytest.approx(2.0)
    torch.testing.assert_close(stored[name][0], factors[QUERIES[0]][0])
    merged = methods.get("robustmerge")(experts_of(family))
    base = experts_of(family).base_tensor(name)
    assert float((merged.state_dict()[name] - base).abs().max()) > 0


@pytest.mark.parametrize("name", ["FacebookAI/roberta-base", "./models/RoBERTa-base/", "", None, "mine/first"])
def test_the_base_that_an_adapter_names_is_known_by_its_last_part(name: str | None, tmp_path: Path) -> None:
    place, model = adapted(tmp_path)
    write_adapter(place, model, QUERIES, whole=head_of(model), base_model_name_or_path=name)
    path = tmp_path / "in/roberta-base/config.json"
    if name == "mine/first":  # what the base's own configuration calls it
        path.write_text(json.dumps({**json.loads(path.read_text()), "_name_or_path": "mine/first"}))
    assert imported(tmp_path, ["RTE"]).experts


@pytest.mark.parametrize("settings, scales", [
    ({"use_rslora": True}, [6 / 3**0.5] * 4), ({"lora_alpha": 16, "bias": "none"}, [16 / 3] * 4),
    ({"alpha_pattern": {"layer.1.attention.self.query": 12, "value": 3}}, [2.0, 1.0, 4.0, 1.0]),
])  # fmt: skip
def test_the_scale_of_each_module_is_what_the_settings_say(
    settings: dict[str, Any], scales: list[float], tmp_path: Path
) -> None:
    place, model = adapted(tmp_path)
    factors = write_adapter(place, model, QUERIES, whole=head_of(model), **settings)
    merge(model, factors, dict(zip(QUERIES, scales, strict=True)))
    assert_same_logits(imported(tmp_path, ["RTE"]), "RTE", model)


def test_adapters_and_whole_fine_tunings_may_be_of_one_family(tmp_path: Path) -> None:
    place, model = adapted(tmp_path)
    factors = write_adapter(place, model, QUERIES, whole=head_of(model))
    torch.manual_seed(3)
    other = transformers.RobertaForSequenceClassification(config(num_labels=2)).eval()
    other.save_pretrained(tmp_path / "in/cola" / SUBFOLDER)
    family = imported(tmp_path, ["RTE", "CoLA"])
    merge(model, factors, 2.0)
    assert_same_logits(family, "RTE", model)
    assert_same_logits(family, "CoLA", other)
    assert experts_of(family).lacks("adapters")


def test_a_module_that_was_trained_whole_beside_an_adapter_is_not_lost(tmp_path: Path) -> None:
    place, model = adapted(tmp_path)
    name = "roberta.encoder.layer.1.output.dense.weight"
    moved = model.state_dict()[name] + 0.5
    factors = write_adapter(place, model, QUERIES, whole={**head_of(model), name: moved})
    merge(model, factors, 2.0)
    with torch.no_grad():
        model.get_parameter(name).copy_(moved)
    family = imported(tmp_path, ["RTE"])
    assert_same_logits(family, "RTE", model)
    assert experts_of(family).lacks("adapters")


@pytest.mark.parametrize("settings, words", [
    ({"base_model_name_or_path": "distilroberta-base"}, "adapts 'distilroberta-base'; the base here is 'roberta-base'"),
    ({"peft_type": "IA3"}, "of the type IA3"), ({"use_dora": True}, "use_dora True"), ({"bias": "all"}, "bias 'all'"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"), ({"lora_bias": True}, "lora_bias"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"), ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"r": 4}, "says rank 4 of .*, its factors have 3"), ({"lora_alpha": "x"}, "which is no number"),
    ({"lora_alpha": None}, "which is no number"), ({"alpha_pattern": {"(": 1}}, "a pattern"),
    ({"alpha_pattern": ["query"]}, "a pattern"), ({"drop": "layer.0.attention.self.query.lora_B"}, "has lora_A only"),
    ({"drop": "lora_"}, "holds no lora_A"), ({"drop": "classifier"}, "the head has no tensors"),
])  # fmt: skip
def test_an_adapter_that_is_more_than_its_factors_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    place, model = adapted(tmp_path)
    write_adapter(place, model, QUERIES, whole=head_of(model), **settings)
    with pytest.raises(UserError, match=words):
        imported(tmp_path, ["RTE"])


def test_an_adapter_that_does_not_fit_says_why(tmp_path: Path) -> None:
    place, model = adapted(tmp_path)

    def refused(words: str, modules: list[str] = QUERIES, of: Any = model, **more: Any) -> None:
        write_adapter(place, of, modules, **{"whole": head_of(model), **more})
        with pytest.raises(UserError, match=words):
            imported(tmp_path, ["RTE"])

    refused("adapts the head: out_proj", ["classifier.out_proj"])
    wider = transformers.RobertaForSequenceClassification(config(hidden_size=32, num_labels=2))
    refused(r"factors \[3, 32\] and \[32, 3\] .*base has \[16, 16\]. Is it an adapter of another base", of=wider)
    deeper = transformers.RobertaForSequenceClassification(config(num_hidden_layers=3, num_labels=2))
    refused("layer.2.*of which the base has none", [QUERIES[0].replace("layer.0", "layer.2")], of=deeper)
    bad = {n: t * float("nan") for n, t in head_of(model).items()}
    refused("NaN or Inf in base_model.model.classifier", whole=bad)
    (place / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="an adapter without adapter_config.json, which has its scale"):
        imported(tmp_path, ["RTE"])
    write_adapter(place, model, QUERIES, whole=head_of(model))
    (place / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="holds adapter_config.json without adapter_model.safetensors"):
        imported(tmp_path, ["RTE"])


@pytest.mark.parametrize("file", ["adapter_config.json", "model.safetensors.index.json", "config.json"])
def test_settings_of_any_kind_are_read_or_refused(file: str, tmp_path: Path) -> None:
    read: Callable[[], object]
    if file.startswith("adapter"):
        place, model = adapted(tmp_path)
        write_adapter(place, model, QUERIES, whole=head_of(model), alpha_pattern={"query": 3}, rank_pattern={"key": 2})
        read = lambda: read_adapter(weights(place), ["roberta-base"])  # noqa: E731
    else:
        place = sharded(tmp_path)
        read = lambda: weights(place).read()  # noqa: E731
    good = json.loads((place / file).read_text())
    if file == "config.json":
        good = {"id2label": {"0": "entailment", "1": "no"}, "label2id": {"entailment": 0, "no": 1}}
        read = lambda: order_of(read_json(place / file), ("no", "entailment"), place / file)  # noqa: E731
    (place / file).write_text(json.dumps(good))
    read()
    refused = 0
    for path in places(good):
        for odd in (..., *ODD):
            (place / file).write_text(json.dumps(json_of(good, path, odd)))
            try:
                read()
            except (FamilyError, UserError):
                refused += 1
    assert refused > 20


def test_an_adapter_that_changes_nothing_is_no_expert(tmp_path: Path) -> None:
    place, model = adapted(tmp_path)
    write_adapter(place, model, QUERIES, whole=head_of(model))
    state = load_file(place / "adapter_model.safetensors")
    save_file({n: t * ("lora_B" not in n) for n, t in state.items()}, place / "adapter_model.safetensors")
    with pytest.raises(UserError, match="equals the base in every tensor"):
        imported(tmp_path, ["RTE"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_names_that_a_wrapper_gave_are_those_of_the_model(prefix: str, file: str, tmp_path: Path) -> None:
    models = write(tmp_path / "in", ["RTE"])
    place = tmp_path / "in/rte" / SUBFOLDER
    state = {f"{prefix}{n}": t for n, t in load_file(place / "model.safetensors").items()}
    (place / "model.safetensors").unlink()
    save_file(state, place / file) if file.endswith(".safetensors") else torch.save(state, place / file)
    assert_same_logits(imported(tmp_path, ["RTE"]), "RTE", models["RTE"])


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)])
def test_an_expert_that_is_the_base_is_refused_in_any_precision(
    dtypes: tuple[torch.dtype, torch.dtype], tmp_path: Path
) -> None:
    write(tmp_path / "in", ["RTE", "CoLA"])
    base = load_file(tmp_path / "in/roberta-base/model.safetensors")
    place = tmp_path / "in/rte" / SUBFOLDER / "model.safetensors"
    head = {n: t for n, t in load_file(place).items() if n.startswith("classifier.")}
    inner = {n: t for n, t in base.items() if n.startswith("roberta.")}
    save_file({n: t.to(dtypes[0]) for n, t in base.items()}, tmp_path / "in/roberta-base/model.safetensors")
    save_file({n: t.to(dtypes[1]) for n, t in {**inner, **head}.items()}, place)
    with pytest.raises(UserError, match="RTE: .* equals the base in every tensor of the encoder"):
        imported(tmp_path, ["RTE"])
    said: list[str] = []
    assert imported(tmp_path, ["CoLA"], said.append).experts  # one that was fine-tuned goes
    mixed = any("CoLA: stored in another precision than the base" in line for line in said)
    assert mixed == (dtypes[0] != torch.float32)  # its own is float32


@pytest.mark.parametrize("what", ["encoder", "head", "base"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(what: str, value: float, tmp_path: Path) -> None:
    write(tmp_path / "in", ["RTE"])
    place = tmp_path / "in" / ("roberta-base" if what == "base" else f"rte/{SUBFOLDER}") / "model.safetensors"
    state = load_file(place)
    name = "classifier.dense.bias" if what == "head" else "roberta.encoder.layer.1.output.dense.bias"
    state[name][3] = value
    save_file(state, place)
    with pytest.raises(UserError, match=r"(RTE|the base): .*NaN or Inf in (model|classifier)\..*dense\.bias"):
        imported(tmp_path, ["RTE"])
    assert not (tmp_path / "out").exists()


def test_large_weights_are_imported_with_their_distance(tmp_path: Path) -> None:
    write(tmp_path / "in", ["RTE"])
    place = tmp_path / "in/rte" / SUBFOLDER / "model.safetensors"
    state = load_file(place)
    state["roberta.encoder.layer.1.output.dense.weight"][0, 0] = 1e20
    save_file(state, place)
    said: list[str] = []
    imported(tmp_path, ["RTE"], said.append)
    (line,) = (line for line in said if line.startswith("RTE") and "away from the base" in line)
    assert "inf" not in line and "nan" not in line
