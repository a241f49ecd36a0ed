"""A text encoder of a user's and its heads, built from ``config.json`` by transformers' own classes, never by code that
came with it.

The library's classification model is run with nothing in the place of its head, so that features are what it hands to
that: pooled ones (BERT), the tokens' own (RoBERTa), the last token's (Llama).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.common.errors import UserError, some
from benchmark.domains.vision.encoders.huggingface import (
    file_names,
    library,
    quietly,
    read_config,
    read_tokenizer,
)
from benchmark.domains.vision.encoders.names import Renamed, aligned

LONGEST = 512


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder that is ready to be run.

    Attributes:
        module: batches of a tokenizer to features; its state dict has the names of the checkpoint.
        head: the library's name of the head, such as ``classifier``.
        tokenizer: the model's own.
        library_names: ``{the library's own name of a tensor: the checkpoint's}``.
    """

    module: nn.Module
    head: str
    tokenizer: Any
    library_names: Mapping[str, str]


def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


def open_text_encoder(source: Path, stored: Mapping[str, Any]) -> TextEncoder:
    """The encoder and tokenizer of a model's folder.

    Args:
        stored: ``{tensor: shape}`` of the checkpoint.

    Raises :class:`UserError` for no text model, one whose head is in several parts, tensors that are missing.
    """
    transformers = library()
    config = read_config(source, transformers)
    if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{source}: transformers has no sequence classification model for {config.model_type}",
            "Expected a text encoder such as BERT, RoBERTa, DistilBERT or DeBERTa.",
        )
    with quietly(transformers):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        head, _ = _head_of(model, source)
        setattr(model, head, nn.Identity())
        names = file_names(model)
    pairs = aligned(names.values(), stored)
    if not pairs and (spared := {n: there for n, there in names.items() if ".pooler." not in f".{there}"}):
        names, pairs = spared, aligned(spared.values(), stored)
    if not pairs:
        missing = sorted(set(names.values()) - set(stored)) or list(names)
        raise UserError(
            f"{source} is no {type(model).__name__}, which its config.json says: it lacks {some(missing)}; it has "
            f"{some(stored)}",
            "Give the encoder that the experts were fine-tuned from, as the library saves it.",
        )
    ours = {name: pairs[there] for name, there in names.items()}
    module = Renamed(model.eval().requires_grad_(False), ours, _logits)
    return TextEncoder(module, head, read_tokenizer(source, transformers), ours)


def _head_of(model: nn.Module, source: Path) -> tuple[str, nn.Module]:
    """The one part beside the backbone that has parameters."""
    backbone = str(getattr(model, "base_model_prefix", ""))
    parts = [
        (name, part)
        for name, part in model.named_children()
        if name != backbone and next(part.parameters(), None) is not None
    ]
    if len(parts) != 1:
        raise UserError(
            f"{source}: {type(model).__name__} has {len(parts)} parts beside its encoder "
            f"({', '.join(name for name, _ in parts) or 'none'}); one head is expected",
            "Such a model can be merged by methods that need no data.",
        )
    return parts[0]


def text_head(source: Path, expert: Path, own: Mapping[str, Tensor], name: str) -> tuple[nn.Module, str]:
    """An expert's head with its weights, and what stands before them in the expert.

    Args:
        source: the base's folder, whose configuration is taken where the expert's says nothing.
        own: the expert's own tensors.
        name: the library's name of the head.

    Raises :class:`UserError` where the expert has no such tensors.
    """
    transformers = library()
    place = expert if (expert / "config.json").is_file() else source
    config = copy.deepcopy(read_config(place, transformers))
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): value.float() for key, value in own.items() if key.startswith(prefix)}
    last = [value for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    if not last:
        raise UserError(f"{expert} has no head {name!r}; it has {some(own)}", "Give an expert with its classifier.")
    config.num_labels = min(len(value) for value in last)
    with quietly(transformers), torch.device("meta"):
        _, part = _head_of(transformers.AutoModelForSequenceClassification.from_config(config), place)
    head = part.to_empty(device="cpu")
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{expert}: its head is not {name}: {' '.join(str(error).split())[:200]}", "Mend it.") from None
    return head.eval(), name


class TextRows:
    """Texts as a source: a batch is tokenised and padded to its longest when it is asked for; no labels."""

    def __init__(self, texts: Sequence[str | tuple[str, str]], tokenizer: Any) -> None:
        self.texts, self.tokenizer = list(texts), tokenizer
        self.longest = min(LONGEST, int(getattr(tokenizer, "model_max_length", LONGEST)))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Tensor) -> tuple[dict[str, Tensor], None]:
        rows = [self.texts[i] for i in index.tolist()]
        pairs = isinstance(rows[0], tuple)
        words = [list(column) for column in zip(*rows, strict=True)] if pairs else [rows]
        made = self.tokenizer(*words, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        return dict(made), None
