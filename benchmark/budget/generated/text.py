"""GLUE without its files: a random RoBERTa of the published shape, a tokenizer of a few words, texts of full length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.budget.generated import FAMILY, NOTE, TEST, TRAIN
from benchmark.checkpoints.families import describe_files, save_json, save_state
from benchmark.domains.text import glue
from benchmark.domains.text.bench import GlueBench
from benchmark.domains.text.encoder import empty_encoder
from benchmark.domains.text.extent import ROBERTA
from benchmark.domains.text.family import BASE
from benchmark.domains.text.heads import ClassificationHead
from benchmark.domains.text.tokens import Tokens
from benchmark.suites import Suite

SAMPLES = "texts"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = ["a", "cat", "dog", "runs", "sits", "the"]


def write_family(folder: Path, backbone: str, suite: Suite) -> None:
    """Base, experts and heads with random weights, as an import leaves them."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    save_json(folder / "config.json", ROBERTA)
    _tokenizer(folder)
    base = {name: tensor.clone() for name, tensor in empty_encoder(folder, "first").state_dict().items()}
    shapes: dict[str, dict[str, list[int]]] = {}

    def write(name: str, tensors: Mapping[str, Tensor]) -> None:
        save_state(folder / name, tensors)
        shapes[name] = {n: list(t.shape) for n, t in tensors.items()}

    write(BASE, base)
    for task in suite.tasks:
        write(
            f"{task}.safetensors",
            {n: t + 0.02 * t.std().nan_to_num() * torch.randn_like(t) for n, t in base.items()},
        )
        head = ClassificationHead(int(str(ROBERTA["hidden_size"])), glue.TASKS[task].outputs)
        write(f"heads/{task}.safetensors", head.state_dict())
    files = {name: {**about, "shapes": shapes[name]} for name, about in describe_files(folder, list(shapes)).items()}
    labels = {t: {"classes": list(glue.TASKS[t].classes), "assumed": False} for t in suite.tasks if _classes(t)}
    manifest = {"name": FAMILY, "backbone": backbone, "made": NOTE, "labels": labels, "files": files}
    save_json(folder / "manifest.json", manifest)


def _classes(task: str) -> bool:
    return bool(glue.TASKS[task].classes)


def _tokenizer(folder: Path) -> None:
    """Whole words, with RoBERTa's special tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # type: ignore[assignment]
    named = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>", "sep": "</s>", "cls": "<s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in named.items()},
    ).save_pretrained(str(folder))


def write_data(root: Path, backbone: str, suite: Suite) -> None:
    """Texts as long as the longest that are read, in nyu-mll/glue's layout: memory is that of the worst batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    for task in suite.tasks:
        about = glue.TASKS[task]
        for split, rows in (("train", TRAIN), (about.validation, TEST)):
            texts = {
                column: [" ".join(rng.choice(WORDS, glue.LONGEST)) for _ in range(rows)] for column in about.columns
            }
            labels = np.arange(rows) % about.outputs if about.classes else rng.uniform(0, 5, rows)
            path = root / "glue" / about.config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({**texts, "label": labels.tolist(), "idx": list(range(rows))}), path)


class _Bench(GlueBench):
    def tokens(self, task: str, split: str) -> Tokens:
        return glue.tokens(self.root, task, split, self.tokenizer, counted=False)


def open_bench(suite: Suite, backbone: str, folder: Path, device: Any, dtype: Any) -> GlueBench:
    """The real bench on what was written; rows are not counted."""
    place = {"data_root": folder / "data", "checkpoints": folder / "checkpoints"}
    return _Bench(suite, backbone, FAMILY, device, dtype, **place)
