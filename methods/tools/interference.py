"""The interference of a merged matrix with each task's inputs, as one quadratic; and which tensors such methods treat.

    L(M) = sum_k || (M - T_k) L_k^T ||_F^2 / || tau_k ||_F^2,      gradient 2 ((M - M0) C + R),
    C = sum_k L_k^T L_k / || tau_k ||^2  [n, n],      R = sum_k (M0 - T_k) L_k^T L_k / || tau_k ||^2  [m, n]

C and R are computed once, so that a step of an optimiser costs one product instead of 2 K and its gradients (fewer:
`quadratic`); rounding aside, it is the same step. Measured from the start M0, a start without interference has the
gradient 0 exactly, which Adam would otherwise blow up from rounding noise. A zero task vector has no term.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from methods.core.experts import Experts
from methods.tools.spectral import mean_vector

BLOCK = re.compile(r"(^|\.)(resblocks|layers|layer|blocks|block|h)\.\d+\.")
_LEFT = re.compile(r"(^|[._])(ln|bn)(\d|[._]|$)|norm|bias|embed|lm_head", re.IGNORECASE)
Moments = tuple[Tensor, Tensor]
Term = tuple[Tensor, Tensor, Tensor]


def merge_parts(experts: Experts, tensors: str, scale: float, solve: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """``base + scale * vector`` for the tensors a rule treats; the others are absent, so that the base's stay.

    Args:
        tensors: ``"blocks"``: ``solve`` gives the linear weights of numbered blocks (attention and MLP), nothing else
            is merged. ``"weights"``: ``solve`` gives every 2-D tensor and the mean every other one, but norms, biases,
            embeddings and language-model heads stay the base's. ``"matrices"``: ``solve`` gives every 2-D tensor, the
            mean every other one. Without numbered blocks ``"blocks"`` means ``"matrices"``.
        solve: name of a 2-D tensor to its merged vector ``[m, n]``.
    """
    blocks = block_weights(experts) if tensors == "blocks" else ()
    merged = {}
    for name in experts.names:
        if (blocks and name not in blocks) or (tensors == "weights" and _LEFT.search(name)):
            continue
        base = experts.base_tensor(name)
        vector = solve(name) if base.ndim == 2 and base.numel() else mean_vector(experts, name)
        merged[name] = vector.mul_(scale).add_(base)
    return merged


def block_weights(experts: Experts) -> tuple[str, ...]:
    """The 2-D weights in numbered blocks that are no norm, bias or embedding: attention and MLP of a transformer."""
    return tuple(n for n in experts.names if experts.base[n].ndim == 2 and BLOCK.search(n) and not _LEFT.search(n))


def moments(start: Tensor, terms: Iterable[Term]) -> Moments:
    """``C [n, n]`` and ``R [m, n]`` at ``start`` from ``(tau_k [m, n], L_k [r, n], T_k [m, n])``, a task at a time."""
    c, r = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start)
    for vector, inputs, target in terms:
        weight = vector.square().sum()
        if float(weight) > 0:
            scaled = inputs / weight.sqrt()
            gram = scaled.T @ scaled
            c.add_(gram)
            # Whichever product comes first, the smaller matrix lies between.
            if len(scaled) > len(gram):
                r.addmm_(start - target, gram)
            else:
                r.addmm_((start - target) @ scaled.T, scaled)
    return c, r


def filtered(start: Tensor, interference: Moments, response: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a linear iteration on the quadratic ends: every eigenvector of C answers by itself.

    ``response(eigenvalues [n], falling)`` gives what R is multiplied by ``[n]``: 1 / eigenvalue where the iteration has
    converged, 0 where it does not act.
    """
    c, r = interference
    values, vectors = torch.linalg.eigh(c)
    weight = response(values.flip(0).clamp_(min=0))
    vectors = vectors.flip(1)
    return start - ((r @ vectors) * weight) @ vectors.T
