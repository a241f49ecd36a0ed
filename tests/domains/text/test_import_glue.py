"""RoBERTa experts written in the public families' layout: converted, equal logits before and after, errors said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.glue_files import WORDS, config, tokenizer_file, transformers, write, write_published
from safetensors.torch import load_file, save_file

from benchmark.common.errors import UserError
from benchmark.domains.text.encoder import load_tokenizer
from benchmark.domains.text.family import create_encoder, load_family
from benchmark.domains.text.glue import TASKS
from benchmark.importers.text import SUBFOLDER, import_family
from methods.api import Experts


@pytest.mark.parametrize(
    "family,binary,subfolder", [("ovo", False, SUBFOLDER), ("lu", True, SUBFOLDER), ("local", False, ".")]
)
def test_an_imported_expert_gives_the_logits_of_the_file_it_came_from(
    tmp_path: Path, family: str, binary: bool, subfolder: str
) -> None:
    models = write(tmp_path / "in", ["CoLA", "MNLI", "STS-B"], subfolder, binary)
    said: list[str] = []
    import_family(family, tmp_path / "in", tmp_path / "out", list(models), say=said.append)
    assert "lm_head.dense.weight" in said[0]
    assert not binary or any("roberta.embeddings.position_ids" in line for line in said)
    found = load_family(tmp_path / "out", family, list(models), {t: TASKS[t].outputs for t in models})
    experts = Experts.from_state_dicts(
        found.base, found.experts, heads=found.heads, encoder=create_encoder(found.folder)
    )
    inputs = load_tokenizer(found.folder)(["the cat runs .", "a dog"], padding=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    for task, model in models.items():
        with torch.no_grad():
            expected = model(**inputs).logits
            got = experts.copy_head(task)(experts.forward(experts.state(task), task, dict(inputs)))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert float(expected.std()) > 0


def heads_of(folder: Path, task: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"heads/{task}.safetensors")


@pytest.mark.parametrize("family", ["ovo", "lu"])
@pytest.mark.parametrize("below", ["", "roberta"])
def test_the_published_repositories_are_read_file_by_file_as_they_are(tmp_path: Path, family: str, below: str) -> None:
    models = write_published(tmp_path / "in" / below, ["MNLI", "RTE"], family)
    if below:
        (tmp_path / "in/roberta/roberta-base").rename(tmp_path / "in/roberta-base")
    said: list[str] = []
    import_family(family, tmp_path / "in", tmp_path / "out", list(models), say=said.append)
    assert not any("classifier_head" in line for line in said), "it is the head of the whole model"
    for task, model in models.items():
        assert torch.equal(heads_of(tmp_path / "out", task)["dense.weight"], model.classifier.dense.weight)


def test_a_head_that_stands_by_itself_is_taken_where_the_model_has_none_and_named_where_it_is_another(
    tmp_path: Path,
) -> None:
    models = write_published(tmp_path / "in", ["MNLI", "RTE"], "lu")
    file = tmp_path / "in/mnli" / SUBFOLDER / "model.safetensors"
    bare = {n: t for n, t in load_file(file).items() if not n.startswith("classifier.")}
    save_file(bare, file)
    other = transformers.RobertaForSequenceClassification(config(num_labels=2)).classifier
    torch.save(other, tmp_path / "in/rte" / SUBFOLDER / "classifier_head.pt")
    said: list[str] = []
    import_family("lu", tmp_path / "in", tmp_path / "out", list(models), say=said.append)
    assert any("MNLI: " in line and "model.safetensors and classifier_head.pt" in line for line in said)
    assert any("RTE: " in line and "holds another one, which is left out" in line for line in said)
    for task, model in models.items():
        assert torch.equal(heads_of(tmp_path / "out", task)["dense.weight"], model.classifier.dense.weight)


def test_the_pooler_and_language_head_of_the_base_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "in", ["RTE"])
    state = load_file(tmp_path / "in/roberta-base/model.safetensors")
    state["roberta.pooler.dense.weight"] = torch.zeros(16, 16)
    save_file(state, tmp_path / "in/roberta-base/model.safetensors")
    said: list[str] = []
    import_family("ovo", tmp_path / "in", tmp_path / "out", ["RTE"], say=said.append)
    assert "roberta.pooler.dense.weight" in said[0] and "lm_head" in said[0]
    base = load_file(tmp_path / "out/base.safetensors")
    assert base and all(name.startswith(("model.embeddings.", "model.encoder.")) for name in base)


def damaged(tmp_path: Path, what: str) -> list[str]:
    """Write a family, damage it, and return the tasks to import."""
    write(tmp_path / "in", ["RTE", "MNLI"])
    place = tmp_path / "in/rte" / SUBFOLDER
    if what == "labels":
        transformers.RobertaForSequenceClassification(config(num_labels=3)).save_pretrained(place)
    elif what == "vocabulary":
        transformers.RobertaForSequenceClassification(config(vocab_size=20, num_labels=2)).save_pretrained(place)
    elif what == "size":
        transformers.RobertaForSequenceClassification(config(intermediate_size=24, num_labels=2)).save_pretrained(place)
    elif what == "tokenizer":
        tokenizer_file(place, [*WORDS[:6], "hen", *WORDS[7:]])
    elif what in ("activation", "heads"):
        changed = {"hidden_act": "relu"} if what == "activation" else {"num_attention_heads": 4}
        transformers.RobertaForSequenceClassification(config(num_labels=2, **changed)).save_pretrained(place)
    elif what == "another model":
        transformers.BertForMaskedLM(
            transformers.BertConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
            )
        ).save_pretrained(tmp_path / "in/roberta-base")
    elif what == "encoder alone":
        state = load_file(place / "model.safetensors")
        save_file({n: t for n, t in state.items() if not n.startswith("classifier.")}, place / "model.safetensors")
    elif what == "missing":
        return ["RTE", "QNLI"]
    elif what == "truncated":
        (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:2000])
    elif what == "base":
        (tmp_path / "in/roberta-base").rename(tmp_path / "in/bert")
    return ["RTE", "MNLI"]


@pytest.mark.parametrize(
    "what,words",
    [
        ("labels", "RTE: the head has 3 labels, the task 2"),
        ("vocabulary", "a vocabulary of 20 words"),
        ("size", "intermediate.dense"),
        ("tokenizer", "another vocabulary"),
        ("encoder alone", "the head has no tensors"),
        ("activation", "hidden_act 'relu', the base's 'gelu'"),
        ("heads", "num_attention_heads 4, the base's 2"),
        ("another model", "has no embeddings.word_embeddings.weight"),
        ("missing", f"no expert of QNLI.*qnli/{SUBFOLDER}"),
        ("truncated", "cannot be read"),
        ("base", "no base in"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what(tmp_path: Path, what: str, words: str) -> None:
    tasks = damaged(tmp_path, what)
    with pytest.raises(UserError, match=words):
        import_family("ovo", tmp_path / "in", tmp_path / "out", tasks)


def test_tasks_are_added_and_a_failing_import_leaves_the_family_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "in", ["RTE", "CoLA", "MNLI"])
    for task in ("RTE", "CoLA"):
        import_family("ovo", tmp_path / "in", tmp_path / "out", [task])
    both = {"RTE": 2, "CoLA": 2}
    assert set(load_family(tmp_path / "out", "ovo", list(both), both).experts) == set(both)
    torch.manual_seed(5)
    places = [tmp_path / "in" / TASKS[task].config / SUBFOLDER for task in ("RTE", "MNLI")]
    for place, labels in zip(places, (2, 5), strict=True):
        transformers.RobertaForSequenceClassification(config(num_labels=labels)).save_pretrained(place)
    with pytest.raises(UserError, match="MNLI: the head has 5 labels"):
        import_family("ovo", tmp_path / "in", tmp_path / "out", ["RTE", "MNLI"])
    load_family(tmp_path / "out", "ovo", list(both), both)
    transformers.RobertaForMaskedLM(config()).save_pretrained(tmp_path / "in/roberta-base")
    with pytest.raises(UserError, match="holds experts of another base"):
        import_family("ovo", tmp_path / "in", tmp_path / "out", ["RTE"])


def test_a_family_that_is_not_imported_or_altered_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="assets checkpoints import ovo"):
        load_family(tmp_path / "none", "ovo", ["RTE"], {"RTE": 2})
    write(tmp_path / "in", ["RTE"])
    import_family("ovo", tmp_path / "in", tmp_path / "out", ["RTE"])
    with pytest.raises(UserError, match="asked for 'lu'"):
        load_family(tmp_path / "out", "lu", ["RTE"], {"RTE": 2})
    state = load_file(tmp_path / "out/RTE.safetensors")
    save_file({n: t + 1 for n, t in state.items()}, tmp_path / "out/RTE.safetensors")
    with pytest.raises(UserError, match="sha256"):
        load_family(tmp_path / "out", "ovo", ["RTE"], {"RTE": 2})
    assert json.loads((tmp_path / "out/manifest.json").read_text())["name"] == "ovo"
