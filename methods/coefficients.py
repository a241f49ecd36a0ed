"""The differentiable merge: ``theta_l = theta0_l + sum_k c_lk tau_lk``, with its fused backward.

Task vectors are frozen buffers ``[K, n]`` per tensor. Forward is one matrix-vector product per tensor; backward is
``dL/dc_lk = <dL/dtheta_l, tau_lk>``, another one. No gradient is kept for a weight and autograd records nothing inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.experts import Experts
from methods.registry import MergingError

_SMALL = 4096


def _exact(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Float32 whatever the run's autocast says: a coefficient's step is finer than half precision."""
    if not torch.amp.autocast_mode.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


class _Combine(torch.autograd.Function):
    """``base + coefficients @ vectors`` for one tensor."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, base: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(vectors)
        with _exact(base.device):
            return torch.addmv(base.reshape(-1), vectors.t(), coefficients.to(vectors.dtype)).view(base.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (vectors,) = ctx.saved_tensors
        with _exact(vectors.device):
            return torch.mv(vectors, grads[0].reshape(-1).to(vectors.dtype)), None, None


class _CombineMany(torch.autograd.Function):
    """The same for many small tensors at once: one batched product in place of dozens of tiny ones."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, group: _Group) -> tuple[Tensor, ...]:
        ctx.group = group
        ctx.set_materialize_grads(False)
        with _exact(group.base.device):
            rows = torch.baddbmm(group.base, coefficients.unsqueeze(1), group.vectors).squeeze(1)
        return tuple(rows[i, :n].view(shape) for i, (n, shape) in enumerate(group.layout))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None]:
        group = ctx.group
        padded = torch.zeros_like(group.base)
        for i, (grad, (n, _)) in enumerate(zip(grads, group.layout, strict=True)):
            if grad is not None:
                padded[i, 0, :n].copy_(grad.reshape(-1))
        with _exact(group.base.device):
            return torch.bmm(group.vectors, padded.transpose(1, 2)).squeeze(2), None


class _Group:
    """Small tensors padded to one length: ``base`` ``[S, 1, m]``, ``vectors`` ``[S, K, m]``."""

    def __init__(self, base: list[Tensor], vectors: list[Tensor]) -> None:
        self.layout = [(b.numel(), b.shape) for b in base]
        longest = max(n for n, _ in self.layout)
        self.base = vectors[0].new_zeros(len(base), 1, longest)
        self.vectors = vectors[0].new_zeros(len(base), len(vectors[0]), longest)
        for i, (b, v) in enumerate(zip(base, vectors, strict=True)):
            self.base[i, 0, : b.numel()] = b.reshape(-1)
            self.vectors[i, :, : b.numel()] = v


def combine(coefficients: Tensor, base: Tensor, vectors: Tensor) -> Tensor:
    """``base + sum_k coefficients[k] * vectors[k]``, differentiable in the coefficients only.

    Args:
        coefficients: ``[K]`` float32.
        base: ``[*shape]`` float32.
        vectors: ``[K, n]`` float32, the flattened task vectors.
    """
    out: Tensor = _Combine.apply(coefficients, base, vectors)
    return out


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
        self.base: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}
        small: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.names:
            base, stacked = experts.base_tensor(name), read(name).reshape(len(experts), -1).contiguous()
            if 0 < base.numel() <= _SMALL:
                small[name] = base, stacked
            else:
                self.base[name], self.vectors[name] = base, stacked
        self._small = tuple(small)
        self._rows = torch.tensor([self.names.index(n) for n in small], dtype=torch.int64, device=experts.device)
        self._group = _Group([b for b, _ in small.values()], [v for _, v in small.values()]) if small else None

    def coefficients(self) -> Tensor:
        """The effective coefficients, ``[L, K]`` (or ``[1, K]``), differentiable in ``raw``."""
        if self.transform is not None:
            return self.transform(self.raw)
        return unit_clamp(self.raw) if self.clamp else self.raw

    def forward(self) -> dict[str, Tensor]:
        """The merged tensors, differentiable in ``raw``."""
        effective = self.coefficients()
        effective = effective.expand(len(self.names), -1) if len(effective) == 1 else effective
        found: dict[str, Tensor] = {}
        if self._group is not None:
            made = _CombineMany.apply(effective.index_select(0, self._rows), self._group)
            found.update(zip(self._small, made, strict=True))
        for name, row in zip(self.names, effective.unbind(0), strict=True):
            if name in self.base:
                found[name] = combine(row, self.base[name], self.vectors[name])
        return {name: found[name] for name in self.names}

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """The merged tensors as they stand, without a graph."""
        return self.forward()


class Leaves:
    """Merged tensors cut from their graph, so that several backward passes add up before one goes through the merge.

    The activations of one batch are freed before the next is computed; memory is that of one training step.
    """

    def __init__(self, merged: Mapping[str, Tensor]) -> None:
        self._graph = {n: t for n, t in merged.items() if t.requires_grad}
        self.state = {n: t.detach().requires_grad_(n in self._graph) for n, t in merged.items()}

    def backward(self) -> None:
        """Send the gradients gathered in the leaves through the merge."""
        reached = [(self._graph[n], t.grad) for n, t in self.state.items() if n in self._graph and t.grad is not None]
        if reached:
            torch.autograd.backward([t for t, _ in reached], [g for _, g in reached])
