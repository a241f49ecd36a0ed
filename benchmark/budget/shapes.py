"""What one encoder costs, from its shapes alone: run on the meta device, where tensors have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Shapes:
    """Sizes of one encoder in float32; bytes are per sample unless they say otherwise."""

    parameters: int
    """Number of weights, P."""
    largest: int
    """Number of weights of the largest tensor."""
    matrices: tuple[tuple[int, int], ...]
    """Rows and columns of every 2-D weight."""
    linear: tuple[tuple[int, int], ...]
    """The same of the weights of linear layers, out and in."""
    flops: float
    """Of one forward pass."""
    inputs: float
    """Bytes of one sample."""
    forward: float
    """Peak bytes that one more sample adds to a forward pass without gradients, its input included."""
    training: float
    """The same for a forward and backward pass, gradients of weights left out."""

    @property
    def bytes(self) -> int:
        """Of all weights, M."""
        return 4 * self.parameters


class Live(TorchDispatchMode):
    """Counts the bytes of all storages made under it that are still alive; ``peak`` is their largest sum."""

    def __init__(self, known: Any = ()) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._known = {StorageWeakRef(t.untyped_storage()).cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                seen = StorageWeakRef(storage)
                if seen.cdata not in self._known:
                    self._live[seen.cdata] = seen, storage.nbytes()
        self._live = {key: pair for key, pair in self._live.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return out


def outline(
    encoder: nn.Module, inputs: Callable[[int], Any], merged: Callable[[str], bool] = lambda name: True
) -> Shapes:
    """The sizes of an encoder on the meta device.

    Args:
        encoder: samples to features, or to what a head makes of them; nothing is computed.
        inputs: a batch of so many samples, on the meta device.
        merged: whether a weight is one of the encoder that is merged, by its name; passes go through all.
    """
    weights = [weight for name, weight in encoder.named_parameters() if merged(name)]
    linear = []
    for path, module in encoder.named_modules():
        if not merged(f"{path}.weight"):
            continue
        if isinstance(module, nn.Linear):
            linear.append((module.out_features, module.in_features))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            linear.append((module.in_proj_weight.shape[0], module.in_proj_weight.shape[1]))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        encoder(inputs(1))
    return Shapes(
        parameters=sum(w.numel() for w in weights),
        largest=max(w.numel() for w in weights),
        matrices=tuple((w.shape[0], w.shape[1]) for w in weights if w.ndim == 2),
        linear=tuple(linear),
        flops=float(counted.get_total_flops()),
        inputs=float(sum(tensor.numel() * tensor.element_size() for tensor in tree_leaves(inputs(1)))),
        forward=_grows(encoder, inputs, training=False),
        training=_grows(encoder, inputs, training=True),
    )


def _grows(encoder: nn.Module, inputs: Callable[[int], Any], training: bool) -> float:
    few, many = (_peak(encoder, inputs, n, training) for n in (2, 10))
    return (many - few) / 8


def _peak(encoder: nn.Module, inputs: Callable[[int], Any], batch: int, training: bool) -> int:
    """Peak bytes of a pass over ``batch`` samples, weights and (in training) their gradients left out."""
    weights = list(encoder.parameters())
    hooks = [weight.register_post_accumulate_grad_hook(_forget) for weight in weights]
    try:
        with Live(known=weights) as live, torch.set_grad_enabled(training):
            out = encoder(inputs(batch))
            if training:
                out.sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    return live.peak


def _forget(weight: Tensor) -> None:
    weight.grad = None
