"""The two reference rows: the base as it is, and each task on its own expert.

    Pretrained:  theta = theta0
    Individual:  theta(k) = theta_k, K models

CLIP zero-shot: Radford et al., arXiv:2103.00020. No merging takes place.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from methods.api import Experts, Footprint, Merged, method


@method(title="Pretrained (zero-shot)", paper="arXiv:2103.00020", footprint=Footprint(keeps=(0, 0)))
def pretrained(experts: Experts) -> Merged:
    """The base model with every task's head."""
    return Merged(experts)


@method(title="Individual experts", paper="arXiv:2103.00020", footprint=Footprint(keeps=(0, 0), serves=(2, 0)))
def individual(experts: Experts) -> Merged:
    """Each task with its own fine-tuned expert: the upper reference, K models."""
    return Merged(experts, state=expert_state, declared=len(experts) * experts.nbytes(), needs_task=True)


def expert_state(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The expert of ``task``, read from its file."""
    return merged.experts.expert(task)
