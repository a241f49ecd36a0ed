"""A head made of the names of its classes, by the text tower of a CLIP: open_clip's, or one of transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.common.errors import UserError, shown, some
from benchmark.domains.vision.encoders import described, library_of
from benchmark.domains.vision.encoders.names import aligned
from benchmark.domains.vision.heads import LinearHead, zero_shot_head
from benchmark.domains.vision.own.weights import Checkpoint, Found
from benchmark.suites.own import Head

#: Tokens of CLIP's own vocabulary, which open_clip's tokenizer has.
VOCABULARY = 49408
#: One of these lies beside a model that has a tokenizer. Without, transformers makes an empty one.
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def text_head(task: str, said: Head, classes: Sequence[str], text: Checkpoint, encoder: str | None) -> Found:
    """The zero-shot head of the classes.

    Args:
        text: the checkpoint of the CLIP at ``said.text``.
        encoder: ``open_clip/NAME`` where nothing beside the weights says what they are.

    Raises :class:`UserError` for a checkpoint without a text tower, or one whose tokenizer is not there.
    """
    words = [said.words.get(name, name.replace("_", " ")) for name in classes]
    place = text.place
    library, name = library_of(place, None if described(place) else encoder)
    if library not in ("transformers", "open_clip"):
        raise UserError(f"{task}: {shown(place)} is of {library}, which has no text towers", "Give a CLIP.")
    with torch.random.fork_rng(devices=[]):
        clip, tokenizer = _transformers(place) if library == "transformers" else _open_clip(text, name)
        made = zero_shot_head(clip, tokenizer, words, said.templates)
    head = made if said.normalise is not False else LinearHead(made.weight, made.bias)
    about = json.dumps([text.sha256, words, said.templates, said.normalise])
    return Found(head, list(classes), hashlib.sha256(about.encode()).hexdigest())


class _Text(nn.Module):
    """transformers' text tower as open_clip's: tokens to features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = model.get_parameter("logit_scale").detach().reshape(())

    def encode_text(self, tokens: Any) -> Tensor:
        model: Any = self.model
        features: Any = model.get_text_features(**tokens)
        return features if isinstance(features, Tensor) else features.pooler_output


class _Tokens(dict):  # type: ignore[type-arg]
    """What a tokenizer of transformers gives, which goes to a device as one."""

    def to(self, device: torch.device) -> _Tokens:
        return _Tokens({name: value.to(device) for name, value in self.items()})


def _transformers(place: Path) -> tuple[nn.Module, Callable[[list[str]], Any]]:
    from benchmark.domains.vision.encoders.huggingface import library, quietly, read_tokenizer

    transformers = library()
    with quietly(transformers):
        try:
            model = transformers.AutoModel.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise UserError(f"{shown(place)}: {' '.join(str(error).split())[:300]}", "Give a CLIP's folder.") from None
        if not hasattr(model, "get_text_features") or not hasattr(model, "logit_scale"):
            raise UserError(
                f"{shown(place)} is a {type(model).__name__}, without a text tower", "Give a CLIP's folder."
            )
        length = int(model.config.text_config.max_position_embeddings)
        if not any((place / name).is_file() for name in TOKENIZERS):
            if model.config.text_config.vocab_size != VOCABULARY or model.config.model_type != "clip":
                raise UserError(f"{shown(place)} has no tokenizer", "Put its tokenizer.json there.")
            return _Text(model.eval()), _of_open_clip(length)
        tokenizer = read_tokenizer(place, transformers)

    def tokens(prompts: list[str]) -> _Tokens:
        return _Tokens(
            tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        )

    return _Text(model.eval()), tokens


def _of_open_clip(length: int) -> Callable[[list[str]], _Tokens]:
    """CLIP's own tokenizer, which open_clip brings; its padding is told apart by where a text ends."""
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=length)

    def tokens(prompts: list[str]) -> _Tokens:
        ids = tokenizer(prompts)
        last = ids.argmax(dim=-1, keepdim=True)
        return _Tokens({"input_ids": ids, "attention_mask": (torch.arange(length) <= last).long()})

    return tokens


def _open_clip(text: Checkpoint, name: str) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer

    from benchmark.domains.vision.encoders.towers import open_clip_settings

    settings, _ = open_clip_settings(text.place, name)
    about = dict(settings.get("text_cfg") or {})
    if about.get("hf_model_name") or about.get("hf_tokenizer_name"):
        raise UserError(
            f"{shown(text.place)}: its text tower is {about.get('hf_model_name') or about['hf_tokenizer_name']}, which "
            "is not in it",
            "Write head: FILE.safetensors, made where that tower is.",
        )
    known = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias"}
    options = {key: value for key, value in settings.items() if key in known}
    clip: nn.Module = (CustomTextCLIP if settings.get("custom_text") else CLIP)(**options)
    wanted = [each for each in clip.state_dict() if not each.startswith("visual.")]
    pairs = aligned(wanted, text.shapes)
    if not pairs:
        missing = sorted(set(wanted) - set(text.shapes))
        raise UserError(f"{shown(text.place)} has no text tower: it lacks {some(missing)}", "Give a whole CLIP.")
    try:
        clip.load_state_dict({ours: text.tensors[there].float() for ours, there in pairs.items()}, strict=False)
    except RuntimeError as error:
        raise UserError(f"{shown(text.place)}: {str(error).splitlines()[-1].strip()}", "Mend its text_cfg.") from None
    return clip.eval(), SimpleTokenizer(context_length=int(about.get("context_length", 77)))
