"""Gradients of adaptation in float16, kept from underflow: what a run does beside its autocast, for every method.

Float16 ends at 6e-8, and gradients of activations lie below that. So a loss is differentiated times a scale, and the
gradients of what it hangs on, which are float32, are divided by it before anyone sees them: methods, hooks between two
backward passes and optimisers find the gradients that they would find without. The scale is a power of two, which
changes no digit.

A pass whose gradients overflow is dropped as a whole, the scale is halved, and the update that follows is skipped; the
scale is doubled after many passes without overflow (as ``torch.amp.GradScaler`` does it). Before the first update of an
optimiser, and in methods that have none, nothing could be skipped: there the pass is repeated at half the scale until
it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

START, LEAST = 2.0**16, 2.0**-16
#: Passes without overflow after which the scale is doubled.
PATIENCE = 2000


class ScaledGradients(TorchFunctionMode):
    """Within this, ``loss.backward()`` and ``torch.autograd.grad(loss, ...)`` are scaled, and overflows no update.

    A backward pass that is handed gradients (of what is no loss) is left as it is.

    Attributes:
        scale: at present.
        dropped: passes that overflowed and whose update was skipped.
    """

    def __init__(self, scale: float = START) -> None:
        super().__init__()
        self.scale, self.dropped = scale, 0
        self._stepping = self._skip = self._skipped = False
        self._passes = 0
        self._ever = False

    def __enter__(self) -> Self:
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        self._hook.remove()
        super().__exit__(kind, error, trail)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.backward, torch.autograd.backward):
            return self._backward(func, *args, **(kwargs or {}))
        if func is torch.autograd.grad:
            return self._grad(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def summary(self) -> dict[str, float]:
        """For a trace; nothing where nothing was differentiated."""
        return {"gradient_scale": self.scale, "dropped_passes": self.dropped} if self._ever else {}

    def _before_step(self, optimiser: torch.optim.Optimizer, *arguments: Any) -> None:
        """An optimiser is about to step: after an overflow without gradients, so that it leaves everything as it is."""
        self._stepping = True
        if self._skip:
            self._skipped = True
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _backward(
        self,
        plain: Callable[..., None],
        roots: Tensor | Sequence[Tensor],
        *,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
        **gradients: Any,
    ) -> None:
        losses = [roots] if isinstance(roots, Tensor) else list(roots)
        leaves = [inputs] if isinstance(inputs, Tensor) else list(_leaves(losses) if inputs is None else inputs)
        if any(given is not None for given in gradients.values()) or not all(map(_is_loss, losses)) or not leaves:
            plain(roots, retain_graph=retain_graph, create_graph=create_graph, inputs=inputs, **gradients)
            return
        values = self._differentiated(
            losses, leaves, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
        )
        for leaf, value in zip(leaves, values or (), strict=values is not None):
            if value is None:
                continue
            if leaf.grad is None:
                leaf.grad = value
            elif create_graph:
                leaf.grad = leaf.grad + value
            else:
                leaf.grad.add_(value)

    def _grad(
        self, plain: Callable[..., Any], outputs: Any, inputs: Any, *, grad_outputs: Any = None, **keywords: Any
    ) -> Any:
        losses = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if grad_outputs is not None or not all(map(_is_loss, losses)):
            return plain(outputs, inputs, grad_outputs=grad_outputs, **keywords)
        values = self._differentiated(losses, wanted, **keywords)
        return tuple(torch.zeros_like(t) for t in wanted) if values is None else values

    def _differentiated(
        self, losses: Sequence[Tensor], inputs: Sequence[Any], *, retain_graph: bool | None = None, **keywords: Any
    ) -> tuple[Tensor | None, ...] | None:
        """The gradients; None where they overflow, and the next update is to be skipped."""
        if self._skipped:
            self._skip = self._skipped = False
        self._ever = True
        keep = bool(retain_graph or keywords.get("create_graph")) or not self._stepping
        while True:
            scaled = [loss * self.scale for loss in losses]
            values = list(torch.autograd.grad(scaled, inputs, retain_graph=keep, **keywords))
            del scaled
            if _finite(values):
                for i, value in enumerate(values):
                    # One by one: both forms of all gradients would be twice their memory.
                    values[i] = None if value is None else value / self.scale
                self._passes += 1
                if self._passes % PATIENCE == 0:
                    self.scale *= 2
                return tuple(values)
            del values
            self._passes = 0
            hopeless = self.scale <= LEAST or not _finite(losses)
            self.scale = max(LEAST, self.scale / 2)
            if self._stepping or hopeless:
                self.dropped += 1
                self._skip = True
                return None


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad and not value.is_complex()


def _finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all numbers are; the host waits once."""
    each = [tensor.isfinite().all() for tensor in tensors if tensor is not None]
    return bool(torch.stack(each).all()) if each else True


def _leaves(losses: Iterable[Tensor]) -> Iterator[Tensor]:
    """What a backward pass from these would give gradients to."""
    waiting = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    yield from (loss for loss in losses if loss.grad_fn is None)
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
