"""Perplexity on plain text: what a merge of language models has forgotten, beside its tasks and in no mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.lacking import lacks_package
from helpers.tiny import run
from helpers.tiny_chat import FEW, SUITE, TASKS, Chat, bench, chat, family, plain_text  # noqa: F401 - a fixture

from benchmark.assets.text import plain as made
from benchmark.common.errors import UserError
from benchmark.domains.text import embedded, plain, questions
from benchmark.domains.text.encoder import load_encoder, load_tokenizer
from benchmark.records.store import Store

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


def expected(model: torch.nn.Module, chat: Chat) -> float:  # noqa: F811
    """By the library's own loss, one text at a time."""
    tokenizer, lost, count = load_tokenizer(chat.base), 0.0, 0
    for text in plain.paragraphs(chat.data):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        lost += float(model(input_ids=ids, labels=ids).loss.detach()) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return float(torch.exp(torch.tensor(lost / count)))


def test_records_hold_the_perplexity_of_base_merge_and_each_expert(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    strong = replace(FEW, recipe=replace(FEW.recipe, lr=0.5))
    opened = bench(chat, family(chat, tmp_path / "out", strong))
    records = {
        each.spec.method: each for each in run(opened, Store(tmp_path / "r"), "weight_average", "emr", batch_size=2)
    }
    results = {name: record.bystanders[plain.NAME] for name, record in records.items()}
    assert all(each.data == plain.info(chat.data)["sha256"] and each.n == 3 * each.models for each in results.values())
    assert {name: each.models for name, each in results.items()} == {
        "pretrained": 1, "individual": 2, "weight_average": 1, "emr": 2,
    }  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(chat.base).eval()
    assert results["pretrained"].value == pytest.approx(expected(model, chat), rel=1e-4)
    experts = opened.experts()
    logs = []
    for task in TASKS:
        state = {name.removeprefix("model."): value for name, value in experts.expert(task).items()}
        model.model.load_state_dict(state, strict=False)
        logs.append(torch.tensor(expected(model, chat)).log())
    assert results["individual"].value == pytest.approx(float(torch.stack(logs).mean().exp()), rel=1e-4)
    assert abs(results["individual"].value / results["pretrained"].value - 1) > 1e-3, "the experts are the base"
    assert abs(results["weight_average"].value / results["pretrained"].value - 1) > 1e-4


def test_a_record_of_before_goes_on_without_and_a_merge_with_modules_of_its_own_has_none(
    chat: Chat,  # noqa: F811
    tmp_path: Path,
) -> None:
    opened, store = bench(chat, family(chat, tmp_path / "out")), Store(tmp_path / "r")
    opened.suite = opened.suite.model_copy(update={"bystanders": {}})
    (before, *_) = run(opened, store, "surgery:steps=1,batch_size=4")
    assert before.bystanders == {}
    opened.suite = opened.suite.model_copy(update={"bystanders": SUITE.bystanders})
    assert run(opened, store, "surgery:steps=1,batch_size=4")[0].bystanders == {}
    again = {each.spec.method: each for each in run(opened, store, "surgery:steps=1,batch_size=4", force=True)}
    assert again["pretrained"].run_id == before.run_id and plain.NAME in again["pretrained"].bystanders
    assert again["surgery"].status == "done" and again["surgery"].bystanders == {}


def test_logits_are_those_of_the_model_whatever_the_padding_and_only_the_texts_own_tokens_count(
    chat: Chat,  # noqa: F811
) -> None:
    encoder, tokenizer = load_encoder(chat.base, "last"), load_tokenizer(chat.base)
    tokens = plain.tokens_of(tokenizer, chat.data)
    whole = plain.Foretelling(encoder)(tokens.batch(torch.arange(3)))
    for i in range(3):
        torch.testing.assert_close(plain.Foretelling(encoder)(tokens.batch(torch.tensor([i])))[0], whole[i])
    assert whole[:, 1].tolist() == [1, 5, 8]


def test_another_text_and_other_tokens_than_the_manifests_are_refused(chat: Chat) -> None:  # noqa: F811
    tokenizer = load_tokenizer(chat.base)
    (chat.data / plain.FILE).write_text("another text\n")
    with pytest.raises(UserError, match="the manifest says"):
        plain.tokens_of(tokenizer, chat.data)
    plain_text(chat, ["cat runs"])
    embedded.manifest(chat.data)["bystanders"][plain.NAME]["tokens"] = "0" * 64
    with pytest.raises(UserError, match="not those of the manifest"):
        plain.tokens_of(tokenizer, chat.data)


def test_a_bystander_that_the_domain_does_not_know_is_refused_by_name(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    opened = bench(chat, family(chat, tmp_path / "out"))
    with pytest.raises(UserError, match="llm-small declares the bystander manners"):
        opened.bystander("manners")


def test_the_committed_text_is_running_english_and_no_question_of_the_suite() -> None:
    texts = plain.paragraphs()
    assert len(set(texts)) == made.COUNT == plain.info()["n"]
    assert all(len(text.split()) in made.SIZES and text.endswith(".") for text in texts)
    asked = {text for task in SUITE.tasks for text in embedded.load(task, "train", questions.FOLDER).first}
    assert not asked & set(texts)


def test_code_lists_and_short_paragraphs_are_not_chosen() -> None:
    def prose(i: int) -> str:
        return f"Paragraph {i} says " + "something in words " * 15 + "to the end."

    kept = [prose(i) for i in range(made.COUNT)]
    others = ["Too short.", "   " + prose(100), prose(101) + "\n  x = 1", prose(102)[:-1] + "::", prose(103) + " {x}."]
    topics = {"one": "\n\n".join([*kept, *others]), "two": kept[0]}
    assert sorted(made.chosen(topics)) == sorted(kept)
    with pytest.raises(ValueError, match="47 paragraphs"):
        made.chosen({"one": "\n\n".join(kept[1:])})
