"""An encoder block by block: what enters its first block, and single blocks under any weights.

For methods that fit one block after the other, each to what the blocks before it give. A block is run as the module
that it is, with the arguments that the encoder calls it with; its result becomes the next one's first argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.core.encoders import evaluating
from methods.core.errors import MergingError, NotApplicable
from methods.core.experts import Experts
from methods.core.stream import Batch
from methods.tools.activations import watch


@dataclass(frozen=True)
class Call:
    """What a block is called with; ``real`` says which rows of its input, flattened, are no padding (``None``: all)."""

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    real: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """The block's input, ``[B, T, d]`` or ``[T, B, d]``."""
        found: Tensor = self.arguments[0] if self.arguments else next(iter(self.keywords.values()))
        return found

    def next(self, hidden: Tensor) -> Call:
        """The following block's call."""
        if self.arguments:
            return replace(self, arguments=(hidden, *self.arguments[1:]))
        return replace(self, keywords={**self.keywords, next(iter(self.keywords)): hidden})


class Reached(Exception):
    """Ends a run of the encoder at its first block; no error."""


class Blocks:
    """The numbered blocks of an encoder.

    Attributes:
        paths: their module names, in the order in which they run.
        batch_first: whether their inputs are ``[B, T, d]``.

    Raises :class:`NotApplicable` where the encoder has no list of blocks with linear layers.
    """

    def __init__(self, experts: Experts) -> None:
        if experts.encoder is None:
            raise MergingError("this method runs the encoder and none was given; make the Experts with encoder=module")
        self.experts = experts
        merged = set(experts.names)
        towers = []
        for path, module in experts.encoder.named_modules():
            if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module):
                paths = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
                sizes = [_linear_size(f"{p}.", part, merged) for p, part in zip(paths, module, strict=True)]
                if all(sizes):
                    towers.append((sum(sizes), paths))
        if not towers:
            raise NotApplicable(
                "fits one block of linear layers after the other, as transformers have; this encoder has no such list"
            )
        self.paths = max(towers, key=lambda tower: tower[0])[1]
        self.modules = [experts.encoder.get_submodule(path) for path in self.paths]
        attention = [m for block in self.modules for m in block.modules() if isinstance(m, nn.MultiheadAttention)]
        self.batch_first = all(m.batch_first for m in attention)
        self._fixed = experts.buffers()

    def __len__(self) -> int:
        return len(self.paths)

    def names(self, number: int) -> tuple[str, ...]:
        """The merged tensors of a block."""
        return tuple(n for n in self.experts.names if n.startswith(f"{self.paths[number]}."))

    def expert(self, number: int, task: str) -> dict[str, Tensor]:
        """A block's weights in an expert."""
        return {n: self.experts.expert_tensor(n, task).to(self.experts.device) for n in self.names(number)}

    def enter(self, state: Mapping[str, Tensor], task: str, batch: Batch) -> Call:
        """The call of the first block when the encoder runs with ``state``."""
        reached: list[Call] = []
        inputs = batch.inputs
        masked = isinstance(inputs, Mapping) and "attention_mask" in inputs
        real = inputs["attention_mask"].reshape(-1).bool() if masked else None

        def stop(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            reached.append(Call(arguments, keywords))
            raise Reached

        handle = self.modules[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.experts.forward(state, task, inputs)
        except Reached:
            pass
        finally:
            handle.remove()
        if not reached:
            raise NotApplicable("fits one block after the other; this encoder does not run its blocks as modules")
        call = reached[0]
        rows = call.hidden.numel() // call.hidden.shape[-1]
        return replace(call, real=real if real is not None and len(real) == rows else None)

    def run(self, number: int, state: Mapping[str, Tensor], call: Call) -> Call:
        """One block with ``state`` (by full names); the next block's call."""
        prefix = f"{self.paths[number]}."
        tensors = {n.removeprefix(prefix): t for n, t in self._fixed.items() if n.startswith(prefix)}
        tensors |= {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        with evaluating(self.modules[number]):
            result = torch.func.functional_call(
                self.modules[number], tensors, call.arguments, dict(call.keywords), tie_weights=False
            )
        return call.next(result[0] if isinstance(result, tuple) else result)

    def inputs(
        self, number: int, state: Mapping[str, Tensor], call: Call, wanted: Iterable[str]
    ) -> tuple[dict[str, Tensor], Call]:
        """What each wanted layer of a block is given, ``[rows, in]`` (norms: normalised), and the next block's call."""
        seen: dict[str, Tensor] = {}
        with watch(self.experts, set(wanted), seen.__setitem__):
            after = self.run(number, state, call)
        return seen, after

    def stem(self, task: str, batch: Batch) -> tuple[str, ...]:
        """The merged tensors that what enters the first block depends on."""
        inside = {n for number in range(len(self)) for n in self.names(number)}
        state = self.experts.state()
        leaves = {n: state[n].detach().float().requires_grad_(True) for n in self.experts.names if n not in inside}
        if not leaves:
            return ()
        with torch.enable_grad():
            total = self.enter({**state, **leaves}, task, batch).hidden.float().sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return tuple(n for n, gradient in zip(leaves, gradients, strict=True) if gradient is not None)


def weights_of_rows(call: Call, batch_first: bool, others: float = 1.0) -> Tensor:
    """A weight for each row of a block's flattened input: 1 for first tokens, ``others`` for others, 0 for padding."""
    first, second = call.hidden.shape[:2] if call.hidden.ndim > 2 else (len(call.hidden), 1)
    weights = torch.full((first, second), others, device=call.hidden.device)
    (weights[:, :1] if batch_first else weights[:1]).fill_(1.0)
    weights = weights.reshape(-1)
    return weights if call.real is None else weights * call.real.to(weights.dtype)


def each(blocks: Blocks, number: int, states: Mapping[str, Mapping[str, Tensor]], calls: dict[str, list[Call]]) -> None:
    """Every task's calls through a block, in place."""
    for task, state in states.items():
        calls[task] = [blocks.run(number, state, call) for call in calls[task]]


def _linear_size(prefix: str, module: nn.Module, merged: set[str]) -> int:
    """How many merged weights a block has in layers of its own that are linear."""
    size = 0
    for path, part in module.named_modules():
        for leaf in ("weight", "in_proj_weight"):
            name = f"{prefix}{path}.{leaf}"
            if path and isinstance(part, (nn.Linear, nn.MultiheadAttention)) and name in merged:
                size += getattr(part, leaf).numel()
    return size
