"""GLUE in the public layouts: tiny RoBERTa experts with their tokenizer, and the hub's tables."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmark.domains.text import glue
from benchmark.domains.text.glue import TASKS
from benchmark.domains.text.tokens import Texts, Tokens, tokenise
from benchmark.importers.text import SUBFOLDER
from helpers.lacking import lacks_package

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "cat", "dog", "runs", "sits", "the", "."]


def tokenizer_file(folder: Path, words: list[str] = WORDS) -> None:
    """A whole-word tokenizer with RoBERTa's special tokens, as the hub's files are laid out."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder.mkdir(parents=True, exist_ok=True)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        sep_token="</s>",
        cls_token="<s>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def config(**changes: Any) -> Any:
    return transformers.RobertaConfig(
        **{
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 20,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            **changes,
        }
    )


def write(folder: Path, tasks: list[str], subfolder: str = SUBFOLDER, binary: bool = False) -> dict[str, Any]:
    """A base with its language head, and an expert a task, as transformers saves them; returns the experts."""
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(config()).save_pretrained(folder / "roberta-base")
    tokenizer_file(folder / "roberta-base")
    made = {}
    for task in tasks:
        place = folder / TASKS[task].config / subfolder
        model = transformers.RobertaForSequenceClassification(config(num_labels=TASKS[task].outputs)).eval()
        model.save_pretrained(place)
        tokenizer_file(place)
        if binary:
            state = {**model.state_dict(), "roberta.embeddings.position_ids": torch.arange(20)[None]}
            torch.save(state, place / "pytorch_model.bin")
            (place / "model.safetensors").unlink()
        made[task] = model
    return made


class TrainingArguments:
    """Stands for transformers' own in a pickle that nothing should read."""


def write_published(folder: Path, tasks: list[str], family: str) -> dict[str, Any]:
    """All files of vanillaOVO/roberta_base_glue_ckpts (``ovo``) or lu-vae/roberta-glue (``lu``), and the base."""
    made = write(folder, tasks, SUBFOLDER, binary=family == "ovo")
    for task, model in made.items():
        place = folder / TASKS[task].config / SUBFOLDER
        for name in ("merges.txt", "trainer_state.json", "vocab.json"):
            (place / name).write_text("{}")
        (place / "training_args.bin").write_bytes(pickle.dumps(TrainingArguments()))
        if family == "lu":
            torch.save(model.classifier, place / "classifier_head.pt")
    (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    return made


SENTENCES = ["the cat runs .", "a dog", "the dog sits .", "the cat"]


def write_rte(folder: Path, rows: int = 6, **columns: list) -> None:
    for split in ("train", "validation"):
        table = {
            "sentence1": SENTENCES[:1] * rows,
            "sentence2": SENTENCES[1:2] * rows,
            "label": [0, 1] * (rows // 2),
            "idx": list(range(rows)),
            **columns,
        }
        (folder / "rte").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / "rte" / f"{split}-00000-of-00001.parquet")


def small(monkeypatch: pytest.MonkeyPatch, rows: int = 6) -> None:
    about = glue.GlueTask(
        "rte", ("sentence1", "sentence2"), 2, "accuracy", (rows, rows), ("entailment", "not_entailment")
    )
    monkeypatch.setitem(glue.TASKS, "RTE", about)


def made(tokenizer: Any, second: list[str] | None = None) -> Tokens:
    return tokenise(tokenizer, Texts(SENTENCES, second, np.array([0.0, 1, 1, 0])), 12, classes=2)
