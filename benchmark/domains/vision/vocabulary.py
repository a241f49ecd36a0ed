"""A tiny CLIP's text side: a compact vocabulary over open_clip's BPE, and the CLIP that joins both towers.

open_clip's tokenizer knows 49,408 tokens; the prompts of the mini suites use a few hundred. The base keeps the list
of those, so that its token embedding has as many rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from open_clip import CLIP, SimpleTokenizer

from benchmark.domains.vision.backbones import Backbone

VOCABULARY = "tokenizer.ids"


class CompactTokenizer:
    """open_clip's ``SimpleTokenizer`` with its ids renumbered to the sorted list ``ids``.

    Sorting keeps the end-of-text token the highest number, which CLIP's text pooling relies on, and 0 the padding.
    """

    def __init__(self, ids: Iterable[int], context_length: int) -> None:
        self.full = SimpleTokenizer(context_length=context_length)
        self.context_length = context_length
        self.ids = sorted({0, *self.full.all_special_ids, *(int(i) for i in ids)})
        self._rank = {token: rank for rank, token in enumerate(self.ids)}

    @classmethod
    def of(cls, prompts: Iterable[str], context_length: int) -> CompactTokenizer:
        """The tokenizer whose vocabulary is what these prompts use. Raises ``ValueError`` for a prompt too long."""
        full = SimpleTokenizer(context_length=context_length)
        used: set[int] = set()
        for prompt in prompts:
            tokens = full.encode(prompt)
            if len(tokens) + 2 > context_length:
                raise ValueError(f"prompt {prompt!r} has {len(tokens)} tokens; at most {context_length - 2} fit")
            used.update(tokens)
        return cls(used, context_length)

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Prompts -> int64 token ids ``[len(texts), context_length]``. Raises ``ValueError`` for an unknown token."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = self.full(texts).tolist()
        for text, row in zip(texts, rows, strict=True):
            unknown = [t for t in row if t not in self._rank]
            if unknown:
                words = ", ".join(repr(self.full.decode([t]).strip()) for t in unknown)
                raise ValueError(
                    f"prompt {text!r} uses {words}, which this base's vocabulary of {len(self)} tokens "
                    "lacks; reword it, or train the base again with it (--retrain --base)"
                )
        return torch.tensor([[self._rank[t] for t in row] for row in rows], dtype=torch.long).reshape(len(texts), -1)


def create_clip(backbone: Backbone, vocabulary: int) -> CLIP:
    """Both towers of ``backbone`` with fresh weights (torch's global seed), ``vocabulary`` tokens on the text side."""
    return CLIP(
        backbone.embed_dim,
        dict(backbone.vision_cfg),
        {**backbone.text_cfg, "vocab_size": vocabulary},
        quick_gelu=backbone.quick_gelu,
    )


def split_towers(clip: CLIP, tokenizer: CompactTokenizer) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A CLIP's state as (image tower ``visual.*``, text side with its vocabulary under ``tokenizer.ids``)."""
    state = {k: v.detach().clone() for k, v in clip.state_dict().items()}
    visual = {k: v for k, v in state.items() if k.startswith("visual.")}
    text = {k: v for k, v in state.items() if not k.startswith("visual.")}
    text[VOCABULARY] = torch.tensor(tokenizer.ids, dtype=torch.int64)
    return visual, text


def join_towers(
    backbone: Backbone, visual: dict[str, torch.Tensor], text: dict[str, torch.Tensor]
) -> tuple[CLIP, CompactTokenizer]:
    """The inverse of :func:`split_towers`, in float32: ``(clip, tokenizer)``."""
    text = dict(text)
    tokenizer = CompactTokenizer(text.pop(VOCABULARY).tolist(), backbone.text_cfg["context_length"])
    clip = create_clip(dataclasses.replace(backbone), len(tokenizer))
    clip.load_state_dict({k: v.float() for k, v in {**visual, **text}.items()}, strict=True)
    return clip.eval(), tokenizer
