"""Which tensors a rule treats, where the authors' code goes by the names of CLIP's transformers.

What a model is called is read from all names of the base, so that a few of its tensors are treated as in the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from methods.core.experts import Experts
from methods.core.states import shapes_of
from methods.tools.interference import BLOCK

_CLIP = ("attn", "mlp")
_NORM = re.compile(r"(^|[._])(ln|bn)(\d|[._]|$)|norm", re.IGNORECASE)
_NO_WEIGHT = re.compile(_NORM.pattern + "|bias|embed|lm_head", re.IGNORECASE)


def holds(name: str, words: Sequence[str]) -> bool:
    """Whether a name holds one of the words."""
    return any(word in name for word in words)


def attention_and_mlp(experts: Experts) -> tuple[str, ...]:
    """Weights and biases of attention and MLP: of names that hold ``attn`` or ``mlp`` as CLIP's do.

    Where no name of the base does, the tensors of numbered blocks that are no norms; without such blocks all that are
    no norms.
    """
    if any(holds(n, _CLIP) for n in experts.base):
        return tuple(n for n in experts.names if holds(n, _CLIP))
    blocks = any(BLOCK.search(n) for n in experts.base)
    return tuple(n for n in experts.names if not _NORM.search(n) and (not blocks or BLOCK.search(n)))


def attention_and_mlp_weights(experts: Experts) -> tuple[str, ...]:
    """The matrices of :func:`attention_and_mlp`: without names that hold ``ln`` or ``bias``, and of two dimensions.

    Where no name of the base is CLIP's, the linear weights of numbered blocks; without such weights every matrix.
    """
    shapes = shapes_of(experts.base)
    matrices = [n for n in experts.names if len(shapes[n]) == 2 and 0 not in shapes[n]]
    if any(holds(n, _CLIP) for n in experts.base):
        return tuple(n for n in matrices if holds(n, _CLIP) and not holds(n, ("ln", "bias")))
    inside = {n for n in experts.base if len(shapes[n]) == 2 and BLOCK.search(n) and not _NO_WEIGHT.search(n)}
    return tuple(n for n in matrices if not inside or n in inside)
