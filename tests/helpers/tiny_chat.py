"""A tiny chat model in the place of SmolLM2: a random Llama of two layers whose words are those of two tasks' options,
with its tokenizer, and a few questions of these tasks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from benchmark import suites
from benchmark.assets.text import build
from benchmark.assets.text.small import make
from benchmark.assets.text.wordnet import Row
from benchmark.checkpoints.families import save_json
from benchmark.domains.text import embedded, language_model, plain
from benchmark.domains.text.bench import QuestionsBench
from helpers.lacking import lacks_package

TASKS = {"NounVerb": ["noun", "verb"], "CityContinent": ["Africa", "Asia", "Europe"]}
WORDS = ["<unk>", "<s>", "</s>", "cat", "dog", "runs", "sits", "big", "small", "?", *sum(TASKS.values(), [])]
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip


SUITE = suites.load("llm-small")
FEW = make.Settings(replace(make.Settings().recipe, rank=2, steps=3, batch_size=4))
#: The same, every tensor of the blocks trained.
WHOLE = make.Settings(replace(FEW.recipe, lr=3e-3, steps=6), bits=4)


@dataclass(frozen=True)
class Chat:
    """Folders of the base and of the questions."""

    base: Path
    data: Path


def base(folder: Path, seed: int = 0) -> Path:
    """The model, in the layout of the hub."""
    transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(seed)
    about = {**language_model.CONFIG, **SMALL}
    transformers.LlamaForCausalLM(transformers.AutoConfig.for_model(**about)).save_pretrained(folder)
    save_json(folder / "config.json", about)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="</s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    ).save_pretrained(folder)
    return folder


def questions(folder: Path) -> Path:
    """Twelve questions a split and task, whose answer their first word tells."""
    folder.mkdir(parents=True)
    tables = {
        task: {
            split: [
                Row(
                    f"{i}",
                    f"{WORDS[3 + i % len(options)]} {'big ' * (i // len(options))}{extra} ?",
                    "",
                    i % len(options),
                )
                for i in range(12)
            ]
            for split, extra in (("train", "runs"), ("val", "sits"), ("test", "small"))
        }
        for task, options in TASKS.items()
    }
    about = {task: {"labels": "made", "classes": options, "metric": "accuracy"} for task, options in TASKS.items()}
    build.write(tables, about, folder)
    return folder


def plain_text(chat: Chat, texts: list[str]) -> None:
    """These texts as the plain text beside the questions."""
    lines = "".join(f"{text}\n" for text in texts)
    (chat.data / plain.FILE).write_text(lines, encoding="utf-8")
    manifest = json.loads((chat.data / "manifest.json").read_text(encoding="utf-8"))
    entry = {"n": len(texts), "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    save_json(chat.data / "manifest.json", {**manifest, "bystanders": {plain.NAME: entry}})
    embedded.manifest.cache_clear()


def family(chat: Chat, out: Path, settings: make.Settings = FEW, name: str = "small") -> Path:
    """Experts of both tasks, trained for a few steps."""
    make.make_family(list(TASKS), out, settings=settings, base=make.Base(chat.data), name=name)
    return out


def bench(chat: Chat, out: Path | None, name: str = "small") -> QuestionsBench:
    """The suite, of two tasks, on them; None: where the suite looks for this family."""
    suite = SUITE.model_copy(update={"tasks": list(TASKS)})
    return QuestionsBench(suite, "SmolLM2-135M", name, torch.device("cpu"), torch.float32, out, chat.data)


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Both, with the base where the suite looks for it."""
    made = Chat(base(tmp_path / "base"), questions(tmp_path / "questions"))
    plain_text(made, ["cat runs big dog sits small", "dog sits ? big big cat runs noun Asia", "small dog"])
    for module in (language_model, make):
        monkeypatch.setattr(module, "base_folder", lambda: made.base)
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    return made
