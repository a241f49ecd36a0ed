"""One expert's encoder for every task: what cross-task performance is measured on."""

from __future__ import annotations

from typing import Any

from methods.api import Experts, Merged


def expert_encoder(experts: Experts, stream: Any = None, *, encoder: str) -> Merged:
    """The encoder of expert ``encoder``, as it is, shared by all tasks under their own heads."""
    state = experts.expert(encoder)
    return Merged(experts, {name: state[name].float() for name in experts.names})
