"""Tokenised texts: computed once, kept in a safetensors file, handed out as padded batches.

Rows are kept in the order of their length, so that batches in order hold texts of like length and little padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.common.cache import CacheError, cache_dir, written
from benchmark.common.errors import UserError
from benchmark.common.files import check_regular, replacing
from benchmark.suites.bench import from_host


@dataclass(frozen=True)
class Texts:
    """Rows of one split: first and second texts (`second` is None for single texts), labels `[N]`."""

    first: Sequence[str]
    second: Sequence[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def sha256(self) -> str:
        """Hash of texts and labels in their order."""
        digest = hashlib.sha256()
        for i, text in enumerate(self.first):
            pair = self.second[i] if self.second is not None else ""
            digest.update(f"{text}\x1f{pair}\x1f{float(self.labels[i])!r}\x1e".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Tokens:
    """Token ids of all rows one after the other.

    Attributes:
        ids: int32 `[total]`; row i is `ids[offsets[i]:offsets[i + 1]]`.
        offsets: int64 `[N + 1]`.
        second: int32 `[N]`, where in its row the second text's segment begins (the row's length where there is none).
        labels: int64 `[N]` classes, or float32 `[N]` targets.
        rows: int64 `[N]`, each row's number in the split as it came.
        padding: the id that fills up a batch.
        segments: whether the model is told which text a token belongs to.
    """

    ids: Tensor
    offsets: Tensor
    second: Tensor
    labels: Tensor
    rows: Tensor
    padding: int
    segments: bool

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (and `token_type_ids`) of these rows, int64 `[n, longest of them]`."""
        starts, lengths = self.offsets[index], self.offsets[index + 1] - self.offsets[index]
        columns = torch.arange(int(lengths.max()) if len(index) else 0)
        valid = columns < lengths[:, None]
        places = (starts[:, None] + columns).clamp(max=len(self.ids) - 1)
        ids = torch.where(valid, self.ids[places].long(), self.padding)
        inputs = {"input_ids": ids, "attention_mask": valid.long()}
        if self.segments:
            inputs["token_type_ids"] = ((columns >= self.second[index][:, None]) & valid).long()
        return inputs


def tokenise(tokenizer: Any, texts: Texts, longest: int, *, classes: int) -> Tokens:
    """Texts through a transformers tokenizer, truncated to `longest` tokens, rows by length.

    Args:
        classes: number of classes; 0 keeps labels as float32 targets.
    """
    pairs = [list(texts.second)] if texts.second is not None else []
    coded = tokenizer(list(texts.first), *pairs, truncation=True, max_length=longest, return_token_type_ids=True)
    rows, types = coded["input_ids"], coded["token_type_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    lengths = torch.tensor([len(rows[i]) for i in order], dtype=torch.int64)
    return Tokens(
        ids=torch.tensor([t for i in order for t in rows[i]], dtype=torch.int32),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        second=torch.tensor([len(rows[i]) - sum(types[i]) for i in order], dtype=torch.int32),
        labels=torch.tensor(np.asarray(texts.labels)[order], dtype=torch.int64 if classes else torch.float32),
        rows=torch.tensor(order, dtype=torch.int64),
        padding=int(tokenizer.pad_token_id),
        segments="token_type_ids" in tokenizer.model_input_names,
    )


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of what the tokenizer does: its vocabulary and rules."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def cached(name: str, key: dict[str, Any], make: Callable[[], Tokens]) -> Tokens:
    """The tokens of this name and key from the cache folder, made and stored where they are not there whole.

    Raises UserError where the cache folder cannot be written.

    Args:
        name: begins the file's name.
        key: JSON values that decide the content (hashes of texts and tokenizer, the longest row).
    """
    text = json.dumps(key, sort_keys=True)
    path = cache_dir() / "glue" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.safetensors"
    tokens = _read(path, text)
    if tokens is None:
        fresh = make()
        parts = {n: getattr(fresh, n) for n in ("ids", "offsets", "second", "labels", "rows")}
        about = {"key": text, "padding": str(fresh.padding), "segments": str(int(fresh.segments))}
        try:
            with written(), replacing(path) as temporary:
                save_file(parts, temporary, metadata=about)
        except CacheError as error:
            raise UserError(str(error)) from None
        tokens = fresh
    return tokens


def _read(path: Path, key: str) -> Tokens | None:
    """What the file holds; None where it is missing, cut short or of another key."""
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("key") != key:
                return None
            parts = {n: file.get_tensor(n) for n in file.keys()}
    except (OSError, SafetensorError):
        return None
    return Tokens(**parts, padding=int(about["padding"]), segments=about["segments"] == "1")


class TextSource:
    """One split as a source: tokenised rows, padded to the longest of each batch."""

    def __init__(self, tokens: Tokens, device: torch.device) -> None:
        self.tokens, self.device = tokens, device
        self.labels = tokens.labels

    def __len__(self) -> int:
        return len(self.tokens)

    def stored(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens and labels, on the CPU."""
        return self.tokens.batch(index), self.labels[index]

    def __getitem__(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels = self.stored(index)
        return {n: from_host(t, self.device) for n, t in inputs.items()}, labels
