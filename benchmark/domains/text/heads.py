"""Heads of text tasks: features in, logits or one real number out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LinearHead(nn.Linear):
    """`features [B, D] -> [B, C]`; for a regression C is 1."""

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> LinearHead:
        """From `weight [C, D]` and `bias [C]`, in float32."""
        head = cls(state["weight"].shape[1], state["weight"].shape[0])
        head.load_state_dict({n: t.float() for n, t in state.items()})
        return head


class ClassificationHead(nn.Module):
    """RoBERTa's: `out_proj(tanh(dense(features)))`, under the names that transformers gives it."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.dense, self.out_proj = nn.Linear(width, width), nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Features of `<s>`, `[B, D] -> [B, C]`."""
        logits: Tensor = self.out_proj(torch.tanh(self.dense(features)))
        return logits

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> ClassificationHead:
        """From `dense.*` and `out_proj.*`, in float32."""
        head = cls(state["dense.weight"].shape[1], state["out_proj.weight"].shape[0])
        head.load_state_dict({n: t.float() for n, t in state.items()})
        return head
