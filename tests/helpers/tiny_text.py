"""A tiny text bench: a random BERT with LoRA adapters, random tokens, the suite's own sources, heads and meters."""

from __future__ import annotations

import pytest
import torch

from benchmark.domains.text.encoder import TextEncoder
from benchmark.domains.text.heads import LinearHead
from benchmark.domains.text.meters import METRICS, TextMeter, meter
from benchmark.domains.text.tokens import TextSource, Tokens
from benchmark.suites import Suite
from benchmark.suites.bench import Bench, Task
from helpers.lacking import lacks_package
from methods.api import Experts

WIDTH, WORDS, RANK = 16, 40, 3
TASKS = {"mcc": 2, "accuracy_f1": 2, "accuracy": 3, "pearson_spearman": 1}


def encoder(seed: int = 0) -> TextEncoder:
    """A random BERT of two layers."""
    transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return TextEncoder(transformers.BertModel(config, add_pooling_layer=False), "mean").eval().requires_grad_(False)


def tokens(seed: int, size: int = 24, classes: int = 2) -> Tokens:
    """Random rows of 3 to 10 tokens, shortest first; every other row is a pair."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 11, (size,), generator=generator).sort().values
    labels = (
        torch.randint(classes, (size,), generator=generator) if classes > 1 else torch.randn(size, generator=generator)
    )
    return Tokens(
        ids=torch.randint(1, WORDS, (int(lengths.sum()),), generator=generator, dtype=torch.int32),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        second=torch.where(torch.arange(size) % 2 == 0, lengths, lengths // 2).int(),
        labels=labels,
        rows=torch.arange(size),
        padding=0,
        segments=True,
    )


def experts(strength: float = 0.2) -> Experts:
    """One LoRA expert a task; embeddings are no part of what is merged."""
    torch.manual_seed(1)
    model = encoder()
    base = {n: t for n, t in model.state_dict().items() if ".layer." in n}
    names = [n for n, t in base.items() if t.ndim == 2]
    adapters = {
        task: {
            n: (strength * torch.randn(RANK, base[n].shape[1]), strength * torch.randn(base[n].shape[0], RANK), 2.0)
            for n in names
        }
        for task in TASKS
    }
    heads = {task: LinearHead(WIDTH, outputs) for task, outputs in TASKS.items()}
    return Experts.from_lora(base, adapters, heads=heads, encoder=model, kinds=METRICS)


class TinyTextBench(Bench):
    """Four tasks, one of each metric, of 24 random rows."""

    def __init__(self) -> None:
        self.suite = Suite(
            name="tiny-text",
            version=1,
            title="tiny",
            domain="text",
            scale="mini",
            tasks=list(TASKS),
            backbones=["bert"],
            families=["random"],
            batch_size=10,
            methods=["ties"],
        )
        self.backbone, self.family = "bert", "random"
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.checkpoints, self.data = {"base": "0" * 64}, {n: "1" * 64 for n in TASKS}
        self.tasks = {n: Task(n, METRICS[n], n) for n in TASKS}

    def experts(self) -> Experts:
        return experts()

    def fingerprint(self, content: str, split: str) -> str:
        return self.data[content]

    def source(self, task: str, split: str, dtype: torch.dtype = torch.float32) -> TextSource:
        seed = 10 * list(TASKS).index(task) + ["train", "val", "test"].index(split)
        return TextSource(tokens(seed, classes=TASKS[task]), self.device)

    def meter(self, task: str) -> TextMeter:
        return meter(task, task, TASKS[task])
