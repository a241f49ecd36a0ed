"""Streamed arithmetic over task vectors: one parameter across experts at a time, never a K x P matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from methods.core.errors import MergingError
from methods.core.experts import Experts

_BINS = 1 << 16


def per_tensor(experts: Experts, combine: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """``{name: base + combine(task_vectors)}`` for every merged tensor, ``combine``: ``[K, *shape] -> [*shape]``."""
    return {n: experts.base_tensor(n) + combine(experts.task_vectors(n)) for n in experts.names}


def fraction(name: str, value: float, *, zero: bool = False) -> float:
    """``value`` if it is a number in (0, 1] (or [0, 1]); else an error that names the keyword."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not (0 <= value <= 1)
        or (value == 0 and not zero)
    ):
        raise MergingError(
            f"{name} is {value!r}; expected a fraction in {'[0' if zero else '(0'}, 1], such as {name}=0.2"
        )
    return float(value)


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """``value`` if it is one of ``allowed``; else an error that lists them."""
    if value not in allowed:
        raise MergingError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
    return value


def ceiling(value: float) -> int:
    """The next whole number, where a product of decimals may lie a rounding above it.

    >>> ceiling(0.55 * 100)
    55
    """
    return math.ceil(value * (1 - 1e-12))


def magnitudes(experts: Experts, task: str, names: Sequence[str] | None = None) -> Iterator[Tensor]:
    """``|tau_k|`` of one task, tensor by tensor (all of them, or ``names``), flat."""
    for name in experts.names if names is None else names:
        yield experts.task_vector(name, task).abs_().reshape(-1)


def order_statistic(parts: list[Tensor], k: int, *, magnitude: bool = False) -> float:
    """The ``k``-th smallest (from 1) of all entries of ``parts`` (float32 tensors), or of their magnitudes.

    Floats sort as their bit patterns do, those of negative numbers in reverse: a histogram of the upper 16 bits finds
    the bin, and only that bin's entries are sorted. Exact, and nothing of the size of ``parts`` is copied.
    """
    counts = torch.zeros(_BINS, dtype=torch.int64, device=parts[0].device)
    for chunk in _chunks(parts, magnitude):
        counts += torch.bincount(_bins(chunk), minlength=_BINS)
    below = counts.cumsum(0)
    bin_ = int(torch.searchsorted(below, k))
    rank = k - (int(below[bin_ - 1]) if bin_ else 0)
    inside = torch.cat([chunk[_bins(chunk) == bin_] for chunk in _chunks(parts, magnitude)])
    return float(inside.kthvalue(rank).values)


def _bins(chunk: Tensor) -> Tensor:
    """The upper 16 bits of each float as a number in [0, 2^16) that grows with the float."""
    bits = chunk.view(torch.int32) >> 16
    return bits.bitwise_xor_((bits >> 31).bitwise_and_(_BINS // 2 - 1)).add_(_BINS // 2)


def _chunks(parts: list[Tensor], magnitude: bool = False) -> Iterator[Tensor]:
    for part in parts:
        for (chunk,) in slices(part.reshape(-1)):
            yield chunk.abs() if magnitude else chunk


def slices(*tensors: Tensor, size: int = 1 << 18) -> Iterator[tuple[Tensor, ...]]:
    """Flat views of the same entries of contiguous tensors of one shape, a MiB of each at a time.

    What is computed from such a piece stays in the processor's cache, and in memory that is used again.
    """
    yield from zip(*(t.view(-1).split(size) for t in tensors), strict=True)


def thresholds(experts: Experts, keep: float, names: Sequence[str] | None = None) -> Tensor:
    """One magnitude per task above which (inclusive) the largest ``keep`` share of all its entries lies, ``[K]``.

    The ``d - int(d * keep)``-th smallest magnitude over all tensors (or ``names``) together; with ``keep=1`` it is 0.
    Reads every expert once and holds the magnitudes of one task at a time.
    """
    limits = []
    for task in experts.tasks:
        parts = list(magnitudes(experts, task, names))
        total = sum(p.numel() for p in parts)
        k = total - int(total * keep)
        limits.append(order_statistic(parts, k) if k > 0 else 0.0)
        del parts
    return torch.tensor(limits, device=experts.device)


def trim(vectors: Tensor, threshold: Tensor) -> Tensor:
    """Entries of ``vectors`` ``[K, *shape]`` of a magnitude below their task's threshold ``[K]`` become 0, in place."""
    limit = threshold.view(-1, *[1] * (vectors.ndim - 1))
    return vectors.masked_fill_(vectors.abs() < limit, 0.0)


def total(vectors: Tensor) -> Tensor:
    """Sum over tasks in float64, so that the order of tasks does not decide a sign."""
    return vectors.sum(0, dtype=torch.float64)


def agreeing(vectors: Tensor, positive: Tensor) -> Tensor:
    """The entries of ``vectors`` ``[K, *shape]`` with the elected sign (``positive`` bool ``[*shape]``); others 0."""
    return torch.where(positive, vectors.clamp(min=0), vectors.clamp(max=0))


def elect(experts: Experts, keep: float, merge: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """TIES' trim and elect, streamed: ``{name: merge(agreeing vectors [K, *shape], sign [*shape])}``.

    ``sign`` is -1, 0 or 1. An entry whose trimmed vectors cancel exactly takes the majority sign of the whole model
    (the sign of the sum of all signs), which is known only at the end, so such tensors are done again. Where that is 0
    as well the negative entries agree, and ``sign`` is 0.
    """
    limits = thresholds(experts, keep)
    votes, undecided, merged = 0, [], {}
    for name in experts.names:
        vectors = trim(experts.task_vectors(name), limits)
        sign = total(vectors).sign_()
        votes += int(sign.sum())
        if bool(((sign == 0) & (vectors != 0).any(0)).any()):
            undecided.append(name)
        merged[name] = merge(agreeing(vectors, sign > 0), sign)
    for name in undecided if votes else ():
        vectors = trim(experts.task_vectors(name), limits)
        sign = total(vectors).sign_()
        sign[sign == 0] = 1 if votes > 0 else -1
        merged[name] = merge(agreeing(vectors, sign > 0), sign)
    return merged


def is_matrix(name: str, shape: tuple[int, ...] | torch.Size) -> bool:
    """What the spectral methods decompose: 2-D tensors that are no text projection."""
    return len(shape) == 2 and "text_projection" not in name and math.prod(shape) > 0
