"""A text encoder of a user's and its heads, built from ``config.json`` by transformers' own classes, never by code that
came with it.

The library's classification model is run with nothing in the place of its head, so that features are what it hands to
that: pooled ones (BERT), the tokens' own (RoBERTa), the last token's (Llama). Where a head is in several parts with a
rule of the model's own between them (DistilBERT, DeBERTa), features are the tokens' last hidden states, and the head is
all that the model does with these.
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
        heads: the library's names of the head's parts, such as ``classifier``.
        tokenizer: the model's own.
        library_names: ``{the library's own name of a tensor: the checkpoint's}``.
    """

    module: nn.Module
    heads: tuple[str, ...]
    tokenizer: Any
    library_names: Mapping[str, str]


def _hidden(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    backbone = getattr(model, str(getattr(model, "base_model_prefix", "")))
    hidden: Tensor = backbone(**batch)[0]
    return hidden


def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


def open_text_encoder(source: Path, stored: Mapping[str, Any]) -> TextEncoder:
    """The encoder and tokenizer of a model's folder.

    Args:
        stored: ``{tensor: shape}`` of the checkpoint.

    Raises :class:`UserError` for no text model, tensors that are missing.
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
        heads = _heads_of(model, source)
        for head in heads:
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
    module = Renamed(model.eval().requires_grad_(False), ours, _logits if len(heads) == 1 else _hidden)
    return TextEncoder(module, heads, read_tokenizer(source, transformers), ours)


def _heads_of(model: nn.Module, source: Path) -> tuple[str, ...]:
    """The parts beside the backbone that have parameters."""
    backbone = str(getattr(model, "base_model_prefix", ""))
    parts = [
        name for name, part in model.named_children() if name != backbone and next(part.parameters(), None) is not None
    ]
    if not parts:
        raise UserError(
            f"{source}: {type(model).__name__} has nothing beside its encoder; a head is expected",
            "Such a model can be merged by methods that need no data.",
        )
    return tuple(parts)


class _Given(nn.Module):
    """In the place of a backbone: gives what it is set to."""

    hidden: Tensor

    def forward(self, *inputs: Any, **more: Any) -> Any:
        return library().modeling_outputs.BaseModelOutput(last_hidden_state=self.hidden)


class Parts(nn.Module):
    """A head in several parts: all that a classification model does with the last hidden states ``[B, L, D]``.

    Its tensors have the model's own names, such as ``pre_classifier.weight``.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        setattr(model, str(getattr(model, "base_model_prefix", "")), _Given())
        for name in names:
            self.add_module(name, getattr(model, name))
        # Beside the parts, which it shares; it is no part itself, so that no tensor has two names.
        self.__dict__["model"] = model

    def forward(self, features: Tensor) -> Tensor:
        """The logits ``[B, C]``."""
        model: nn.Module = self.__dict__["model"]
        backbone = getattr(model, str(getattr(model, "base_model_prefix", "")))
        backbone.hidden = features
        logits: Tensor = model().logits
        return logits

    def train(self, mode: bool = True) -> Parts:
        """As any module; no dropout where it is evaluated."""
        self.__dict__["model"].train(mode)
        return super().train(mode)


def text_head(source: Path, expert: Path, own: Mapping[str, Tensor], heads: Sequence[str]) -> tuple[nn.Module, str]:
    """An expert's head with its weights, and what stands before them in the expert, nothing of one in several parts.

    Args:
        source: the base's folder, whose configuration is taken where the expert's says nothing.
        own: the expert's own tensors.
        heads: the library's names of the head's parts.

    Raises :class:`UserError` where the expert has no such tensors.
    """
    transformers = library()
    place = expert if (expert / "config.json").is_file() else source
    config = copy.deepcopy(read_config(place, transformers))
    prefix, said = (f"{heads[0]}.", heads[0]) if len(heads) == 1 else ("", " and ".join(heads))
    parts = {k: value.float() for k, value in own.items() if k.partition(".")[0] in heads}
    weights = {key.removeprefix(prefix): value for key, value in parts.items()}
    matrices = [value for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    if not matrices or {key.partition(".")[0] for key in parts} != set(heads):
        raise UserError(f"{expert} has no head {said!r}; it has {some(own)}", "Give an expert with its classifier.")
    config.num_labels = min(len(value) for value in matrices)
    with quietly(transformers), torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    head = getattr(model, heads[0]) if len(heads) == 1 else Parts(model, heads)
    head = head.to_empty(device="cpu")
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{expert}: its head is not {said}: {' '.join(str(error).split())[:200]}", "Mend it.") from None
    return head.eval(), heads[0] if len(heads) == 1 else ""


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
