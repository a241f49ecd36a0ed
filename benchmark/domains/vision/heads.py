"""Classification heads: linear ones, and those built from prompts with any open_clip model and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class ClassificationHead(nn.Module):
    """``logits = weight @ f/||f|| + bias`` with ``weight`` ``[C, D]`` and ``bias`` ``[C]``.

    This is the head that AdaMerging and SyMerge use: ``weight`` starts as the zero-shot text embeddings times CLIP's
    logit scale, ``bias`` as zero.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ValueError(
                f"head weight {list(weight.shape)} and bias {None if bias is None else list(bias.shape)}; "
                "expected [classes, features] and [classes]"
            )
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]`` (any length) -> logits ``[B, C]``."""
        return F.linear(F.normalize(features, dim=-1), self.weight, self.bias)


class LinearHead(nn.Module):
    """``logits = weight @ f + bias`` with ``weight`` ``[C, D]`` and ``bias`` ``[C]``: a classifier's last layer."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]`` -> logits ``[B, C]``."""
        return F.linear(features, self.weight, self.bias)


def prompts_of(name: str, templates: Sequence[str | Callable[[str], str]]) -> list[str]:
    """Every template filled with a class name; a template is ``"a photo of a {}"`` or a function."""
    return [t(name) if callable(t) else t.format(name) for t in templates]


@torch.no_grad()
def zero_shot_head(
    clip: nn.Module,
    tokenizer: Callable[[list[str]], torch.Tensor],
    classes: Sequence[str],
    templates: Sequence[str | Callable[[str], str]],
) -> ClassificationHead:
    """The head whose row for a class is ``logit_scale.exp()`` times its unit prompt embedding.

    The prompts of a class (one per template) are embedded, normalised, averaged and normalised again, as in CLIP.

    Args:
        clip: an open_clip model: ``encode_text(tokens) -> [n, D]`` and ``logit_scale`` (a logarithm).
        tokenizer: prompts to token ids ``[n, context]``.
        classes: C class names.
        templates: at least one.

    Returns:
        A float32 head on the CPU, ``weight`` ``[C, D]``, ``bias`` zero.
    """
    if not classes or not templates:
        raise ValueError(f"a head needs classes and templates; got {len(classes)} classes, {len(templates)} templates")
    model: Any = clip
    device = model.logit_scale.device
    rows = []
    for name in classes:
        embedded = F.normalize(model.encode_text(tokenizer(prompts_of(name, templates)).to(device)).float(), dim=-1)
        rows.append(F.normalize(embedded.mean(dim=0), dim=0))
    return ClassificationHead((torch.stack(rows) * model.logit_scale.float().exp()).cpu())
