"""Which tensors a rule treats, where the authors' code goes by the names of CLIP's transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from methods.core.experts import Experts
from methods.core.states import shapes_of
from methods.tools.interference import BLOCK, block_weights

_NORM = re.compile(r"(^|[._])(ln|bn)(\d|[._]|$)|norm", re.IGNORECASE)


def named(experts: Experts, words: Sequence[str], without: Sequence[str] = ()) -> tuple[str, ...]:
    """The tensors whose name holds one of ``words`` and none of ``without``."""
    return tuple(n for n in experts.names if any(w in n for w in words) and not any(w in n for w in without))


def attention_and_mlp(experts: Experts) -> tuple[str, ...]:
    """Weights and biases of attention and MLP: of names that hold ``attn`` or ``mlp`` as CLIP's do.

    Where no name does, the tensors of numbered blocks that are no norms; without such blocks all that are no norms.
    """
    if names := named(experts, ("attn", "mlp")):
        return names
    inside = [n for n in experts.names if BLOCK.search(n)] or experts.names
    return tuple(n for n in inside if not _NORM.search(n))


def attention_and_mlp_weights(experts: Experts) -> tuple[str, ...]:
    """The matrices of :func:`attention_and_mlp`: without names that hold ``ln`` or ``bias``, and of two dimensions.

    Where no name is CLIP's, the matrices of numbered blocks; without such blocks every matrix.
    """
    shapes = shapes_of(experts.base)
    if named(experts, ("attn", "mlp")):
        names = named(experts, ("attn", "mlp"), without=("ln", "bias"))
    else:
        names = block_weights(experts) or experts.names
    return tuple(n for n in names if len(shapes[n]) == 2 and 0 not in shapes[n])
