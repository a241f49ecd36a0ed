"""The differentiable merge: ``theta_l = theta0_l + sum_k c_lk tau_lk``, with its fused backward.

Task vectors are frozen buffers ``[K, n]`` per tensor, in float32 or as :func:`vectors_in` says. Forward is one
matrix-vector product per tensor; backward is ``dL/dc_lk = <dL/dtheta_l, tau_lk>``, another one. No gradient is kept for
a weight and autograd records one node for many tensors.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.core.errors import MergingError
from methods.core.experts import Experts

_SMALL = 4096
# Entries of the tensors that share a part: a gradient is kept until those of its whole part are there.
_TOGETHER = 1 << 20

_HELD: contextvars.ContextVar[torch.dtype] = contextvars.ContextVar("dtype of task vectors", default=torch.float32)


@contextlib.contextmanager
def vectors_in(dtype: torch.dtype) -> Iterator[None]:
    """Merges made within hold their task vectors in ``dtype``: half the memory for half the bits of a task vector.

    They are rounded once and read as float32 tensor by tensor: base, coefficients, sums and gradients stay float32, and
    so do small tensors (biases, normalisations).
    """
    token = _HELD.set(dtype)
    try:
        yield
    finally:
        _HELD.reset(token)


def _exact(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Float32 whatever the run's autocast says: a coefficient's step is finer than half precision."""
    kind = device.type
    if not torch.amp.autocast_mode.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


class _Part:
    """Some of the tensors, merged and differentiated in one piece: a step of autograd costs more than a small product.

    Attributes:
        names: of the tensors, in the order of the results.
    """

    names: tuple[str, ...]

    def combine(self, coefficients: Tensor, again: bool = False) -> list[Tensor]:
        """The merged tensors, from ``[S, K]``; ``again``: in the memory of the last time, where there is any."""
        raise NotImplementedError

    def gradient(self, grads: tuple[Tensor | None, ...]) -> Tensor:
        """``<grads[s], vectors[s]>``, ``[S, K]``; None counts as 0."""
        raise NotImplementedError


class _Loose(_Part):
    """Tensors as they are, one matrix-vector product each, written side by side."""

    def __init__(self, names: Sequence[str], base: Sequence[Tensor], vectors: Sequence[Tensor]) -> None:
        self.names = tuple(names)
        self.shapes, self.sizes = [b.shape for b in base], [b.numel() for b in base]
        self.base, self.vectors = [b.reshape(-1) for b in base], list(vectors)
        self._buffer: Tensor | None = None

    def combine(self, coefficients: Tensor, again: bool = False) -> list[Tensor]:
        kind = self.base[0].dtype
        buffer = self._buffer if again else None
        if buffer is None:
            buffer = torch.empty(sum(self.sizes), dtype=kind, device=coefficients.device)
            if again:
                self._buffer = buffer
        out = buffer.split(self.sizes)
        for into, base, vectors, row in zip(out, self.base, self.vectors, coefficients.to(kind).unbind(0), strict=True):
            torch.addmv(base, vectors.to(kind).t(), row, out=into)
        return [piece.view(shape) for piece, shape in zip(out, self.shapes, strict=True)]

    def gradient(self, grads: tuple[Tensor | None, ...]) -> Tensor:
        kind = self.base[0].dtype
        products = self.base[0].new_zeros(len(self.names), len(self.vectors[0]))
        for into, vectors, grad in zip(products.unbind(0), self.vectors, grads, strict=True):
            if grad is not None:
                torch.mv(vectors.to(kind), grad.reshape(-1).to(kind), out=into)
        return products


class _Small(_Part):
    """Small tensors: those of one size in one batched product, ``base`` ``[S, 1, n]`` and ``vectors`` ``[S, K, n]``."""

    def __init__(self, names: Sequence[str], base: Sequence[Tensor], vectors: Sequence[Tensor]) -> None:
        of_size: dict[int, list[int]] = {}
        for i, tensor in enumerate(base):
            of_size.setdefault(tensor.numel(), []).append(i)
        order = [i for group in of_size.values() for i in group]
        self.names, self.shapes = tuple(names[i] for i in order), [base[i].shape for i in order]
        self.base = [torch.stack([base[i].reshape(1, -1) for i in group]) for group in of_size.values()]
        self.vectors = [torch.stack([vectors[i] for i in group]) for group in of_size.values()]

    def combine(self, coefficients: Tensor, again: bool = False) -> list[Tensor]:
        rows = coefficients.unsqueeze(1).split([len(base) for base in self.base])
        groups = [
            torch.baddbmm(*group).squeeze(1).unbind(0) for group in zip(self.base, rows, self.vectors, strict=True)
        ]
        flat = (tensor for group in groups for tensor in group)
        return [tensor.view(shape) for tensor, shape in zip(flat, self.shapes, strict=True)]

    def gradient(self, grads: tuple[Tensor | None, ...]) -> Tensor:
        products, rest = [], grads
        for base, vectors in zip(self.base, self.vectors, strict=True):
            group, rest = rest[: len(base)], rest[len(base) :]
            flat = [base.new_zeros(base.shape[2]) if g is None else g.reshape(-1) for g in group]
            products.append(torch.bmm(vectors, torch.stack(flat).unsqueeze(1).mT).squeeze(2))
        return torch.cat(products)


class _Combine(torch.autograd.Function):
    """``base + coefficients @ vectors`` for the tensors of one part."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, part: _Part, again: bool) -> tuple[Tensor, ...]:
        ctx.part, ctx.device = part, coefficients.device
        ctx.set_materialize_grads(False)
        with _exact(coefficients.device):
            return tuple(part.combine(coefficients, again))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        with _exact(ctx.device):
            return ctx.part.gradient(grads), None, None


def combine(coefficients: Tensor, base: Tensor, vectors: Tensor) -> Tensor:
    """``base + sum_k coefficients[k] * vectors[k]``, differentiable in the coefficients only.

    Args:
        coefficients: ``[K]`` float32.
        base: ``[*shape]`` float32.
        vectors: ``[K, n]`` float32, the flattened task vectors.
    """
    (out,) = _Combine.apply(coefficients.unsqueeze(0), _Loose([""], [base], [vectors]), False)
    return out  # type: ignore[no-any-return]


def unit_clamp(raw: Tensor) -> Tensor:
    """``raw`` clamped to [0, 1], with gradient 1 inside and on the bounds, 0 outside.

    Written out because ``torch.clamp`` passes 1 on a bound in some releases and 0 in others.
    """
    return torch.where((raw >= 0) & (raw <= 1), raw, raw.detach().clamp(0.0, 1.0))


class LayerwiseMerge(nn.Module):
    """Merging coefficients and the frozen task vectors they weigh.

    Args:
        experts: base and task vectors (read once).
        prior: the value every coefficient starts from.
        granularity: ``"layer"`` one coefficient per tensor and task (``raw`` is ``[L, K]``), ``"task"`` one per task
            (``[1, K]``).
        clamp: keep the effective coefficient in [0, 1]; the gradient is 1 inside and on the bounds, 0 outside.
        transform: instead of ``clamp``, any differentiable map from ``raw`` to the effective coefficients.
        vectors: ``{name: [K, *shape]}`` to use in place of the task vectors (trimmed ones, say).
        skip: tensors that get no coefficient and stay out of the result.

    ``raw`` has one row per name of ``names``.
    """

    def __init__(
        self,
        experts: Experts,
        *,
        prior: float = 0.3,
        granularity: str = "layer",
        clamp: bool = True,
        transform: Callable[[Tensor], Tensor] | None = None,
        vectors: Callable[[str], Tensor] | Mapping[str, Tensor] | None = None,
        skip: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if granularity not in ("layer", "task"):
            raise MergingError(f"granularity is {granularity!r}; allowed: 'layer', 'task'")
        self.names = tuple(n for n in experts.names if n not in set(skip))
        self.clamp, self.transform = clamp, transform
        rows = len(self.names) if granularity == "layer" else 1
        self.raw = nn.Parameter(torch.full((rows, len(experts)), float(prior), device=experts.device))
        read = vectors if callable(vectors) else (vectors.__getitem__ if vectors is not None else experts.task_vectors)
        self._parts: list[tuple[Tensor, _Part]] = []
        small: list[tuple[str, Tensor, Tensor]] = []
        together: list[tuple[str, Tensor, Tensor]] = []
        filled = 0
        for name in self.names:
            base, stacked = experts.base_tensor(name), read(name).reshape(len(experts), -1).contiguous()
            if 0 < base.numel() <= _SMALL:
                small.append((name, base, stacked))
                continue
            if together and filled + base.numel() > _TOGETHER:
                self._add(_Loose, together)
                together, filled = [], 0
            together.append((name, base, stacked.to(_HELD.get())))
            filled += base.numel()
        self._add(_Small, small)
        self._add(_Loose, together)

    def _add(self, kind: type[_Loose] | type[_Small], tensors: list[tuple[str, Tensor, Tensor]]) -> None:
        """A part of ``(name, base, vectors)``, with the rows of ``raw`` that it takes."""
        if tensors:
            part = kind(*zip(*tensors, strict=True))
            rows = [self.names.index(name) for name in part.names]
            self._parts.append((torch.tensor(rows, dtype=torch.int64, device=self.raw.device), part))

    def coefficients(self) -> Tensor:
        """The effective coefficients, ``[L, K]`` (or ``[1, K]``), differentiable in ``raw``."""
        if self.transform is not None:
            return self.transform(self.raw)
        return unit_clamp(self.raw) if self.clamp else self.raw

    def forward(self) -> dict[str, Tensor]:
        """The merged tensors, differentiable in ``raw``. The next call writes over them: fresh memory costs more than
        the sums. Using them after that raises torch's error about tensors modified in place."""
        return self._merge(again=True)

    def _merge(self, again: bool) -> dict[str, Tensor]:
        effective = self.coefficients()
        effective = effective.expand(len(self.names), -1) if len(effective) == 1 else effective
        state: dict[str, Tensor] = {}
        for rows, part in self._parts:
            state.update(zip(part.names, _Combine.apply(effective.index_select(0, rows), part, again), strict=True))
        return {name: state[name] for name in self.names}

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """The merged tensors as they stand, without a graph, in memory of their own."""
        return self._merge(again=False)


class Leaves:
    """Merged tensors cut from their graph, so that several backward passes add up before one goes through the merge.

    The activations of one batch are freed before the next is computed; memory is that of one training step. The sums of
    gradients lie in one piece: left where the first batch's are made, they break up what its activations leave free.
    """

    def __init__(self, merged: Mapping[str, Tensor]) -> None:
        self._graph = {n: t for n, t in merged.items() if t.requires_grad}
        self.state = {n: t.detach().requires_grad_(n in self._graph) for n, t in merged.items()}
        if self._graph:
            leaves = [self.state[n] for n in self._graph]
            sizes = [leaf.numel() for leaf in leaves]
            for leaf, part in zip(leaves, leaves[0].new_zeros(sum(sizes)).split(sizes), strict=True):
                leaf.grad = part.view_as(leaf)

    def backward(self) -> None:
        """Send the gradients gathered in the leaves through the merge."""
        if self._graph:
            torch.autograd.backward(list(self._graph.values()), [self.state[n].grad for n in self._graph])
