"""Plain text as a bystander: how well a merged language model still foretells text that no expert was trained on.

The texts stand in one file, a paragraph a line, without the chat format. Each is cut at `LONGEST` tokens, and every
token but its first is foretold from those before it; the perplexity is over all of them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.common.errors import UserError
from benchmark.common.files import read_regular
from benchmark.domains.text import embedded
from benchmark.domains.text.questions import FOLDER, tokens_sha256
from benchmark.domains.text.tokens import Texts, TextSource, Tokens, cached, tokenise, tokenizer_sha256
from benchmark.records import metrics
from benchmark.records.record import Array, TaskResult, Values
from benchmark.suites.bench import Bystander, Meter, check_outputs

#: The name of it in a suite's file, which is that of its metric.
NAME = "perplexity"
FILE = "plain.txt"
#: Tokens of a paragraph that are read.
LONGEST = 96


def paragraphs(folder: Path = FOLDER) -> list[str]:
    """The texts. Raises :class:`UserError` where the file is missing or not that of the manifest."""
    path, about = folder / FILE, info(folder)
    try:
        blob = read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", embedded.restore(folder)) from None
    if (digest := hashlib.sha256(blob).hexdigest()) != about["sha256"]:
        raise UserError(f"{path} has sha256 {digest}, the manifest says {about['sha256']}", embedded.restore(folder))
    return blob.decode("utf-8").splitlines()


def info(folder: Path = FOLDER) -> dict[str, Any]:
    """The manifest's entry of the texts. Raises :class:`UserError` where it has none."""
    entry = embedded.manifest(folder).get("bystanders", {}).get(NAME)
    if entry is None:
        raise UserError(f"{folder / 'manifest.json'} knows no plain text", embedded.restore(folder))
    about: dict[str, Any] = entry
    return about


def tokens_of(tokenizer: Any, folder: Path = FOLDER) -> Tokens:
    """The texts, tokenised, from the cache where they are there.

    Raises :class:`UserError` where the tokenizer is another one than the suite's.
    """
    about = info(folder)
    key = {"texts": about["sha256"], "tokenizer": tokenizer_sha256(tokenizer), "longest": LONGEST}

    def make() -> Tokens:
        texts = paragraphs(folder)
        return tokenise(tokenizer, Texts(texts, None, np.zeros(len(texts))), LONGEST, classes=1)

    tokens = cached("plain-text", key, make)
    if "tokens" in about and tokens_sha256(tokens) != about["tokens"]:
        raise UserError(
            "the plain text's tokens are not those of the manifest",
            "The tokenizer is another one: delete the base's folder in the cache, and try again",
        )
    return tokens


class Foretelling(nn.Module):
    """Of each text `[B, T]`: the negative log-likelihood of its tokens, summed, and how many were foretold, `[B, 2]`.

    The table of the model's embeddings is that of its outputs. Rows go through it one by one: logits of a whole batch
    over the vocabulary take more memory than the model.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        model: Any = self.encoder.model
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        table = model.get_input_embeddings().weight
        rows = []
        for row, states, length in zip(ids, hidden, mask.sum(1).tolist(), strict=True):
            logits = (states[: length - 1] @ table.T).float()
            lost = nn.functional.cross_entropy(logits, row[1:length], reduction="sum")
            rows.append(torch.stack([lost, torch.full_like(lost, length - 1)]))
        return torch.stack(rows)


def foretelling(model: nn.Module) -> nn.Module:
    """The view of a task's model that foretells text: its encoder, without its head."""
    encoder: Any = model.encoder
    return Foretelling(encoder)


class Perplexity(Meter):
    """Gathers sums and counts `[B, 2]`; see :class:`Foretelling`."""

    def __init__(self) -> None:
        self.gathered: list[Tensor] = []

    def update(self, outputs: Any, labels: Tensor) -> None:
        self.gathered.append(check_outputs(outputs, (len(labels), 2), "plain text").cpu())

    def result(self) -> TaskResult:
        lost, count = torch.cat(self.gathered).double().T
        statistics = Values(
            arrays={
                "nll_sum": Array.of(lost.float().numpy()),
                "count": Array.of(count.to(torch.int32).numpy()),
            }
        )
        value = metrics.score(NAME, statistics)
        return TaskResult(metric=NAME, value=value, higher_is_better=False, n=len(lost), statistics=statistics)


def bystander(tokenizer: Any, device: torch.device, folder: Path = FOLDER) -> Bystander:
    """The perplexity of these texts. Raises :class:`UserError` where they are missing or damaged."""
    return Bystander(TextSource(tokens_of(tokenizer, folder), device), Perplexity, foretelling, info(folder)["sha256"])
