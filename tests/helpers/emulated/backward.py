"""The backward pass in Python: torch's engine waits on the streams of a device, and an emulated one has none.

It does what the engine does with plain gradients: nodes in order of their dependencies, sums of what several give,
each gradient in the shape and dtype of what it belongs to. Hooks on nodes are not called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

Slot = tuple[Any, int]
#: What a node remembers of ``set_materialize_grads``, which torch does not tell.
MATERIALIZE = "_emulated_materialize"


def set_materialize_grads(ctx: Any, value: bool) -> None:
    """In place of ``FunctionCtx.set_materialize_grads``: what it does, noted."""
    ctx.materialize_grads = value
    setattr(ctx, MATERIALIZE, value)


def run_backward(
    outputs: Sequence[Tensor | GradientEdge],
    gradients: Sequence[Tensor | None],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor | GradientEdge] = (),
    allow_unreachable: bool = False,
    accumulate_grad: bool = False,
) -> tuple[Tensor | None, ...]:
    """In place of ``Variable._execution_engine.run_backward``, with its arguments."""
    roots = [_slot(each) for each in outputs]
    wanted = [_slot(each) for each in inputs]
    order = _order([node for node, _ in roots], {node for node, _ in wanted})
    grads: dict[Any, dict[int, Tensor]] = {}
    caught: dict[Slot, Tensor] = {}
    for slot, output, gradient in zip(roots, outputs, gradients, strict=True):
        _add(grads, slot, torch.ones_like(output) if gradient is None else gradient)
    with torch.set_grad_enabled(create_graph):
        for node in order:
            given = grads.pop(node, None)
            if given is None:
                continue
            caught.update({slot: given[slot[1]] for slot in wanted if slot[0] is node and slot[1] in given})
            if not node.next_functions and (inputs and not accumulate_grad):
                continue
            results = _run(node, [given.get(i) for i in range(len(node._input_metadata))])
            for slot, result in zip(node.next_functions, results, strict=True):
                if slot[0] is not None and result is not None:
                    _add(grads, slot, _fitted(result, *slot))
    found = [caught.get(slot) for slot in wanted]
    if inputs and accumulate_grad:
        return ()
    if not allow_unreachable and any(value is None for value in found):
        raise RuntimeError(
            "One of the differentiated Tensors appears to not have been used in the graph. "
            "Set allow_unused=True if this is the desired behavior."
        )
    return tuple(found)


def _slot(of: Tensor | GradientEdge) -> Slot:
    edge = of if isinstance(of, GradientEdge) else get_gradient_edge(of)
    return edge.node, edge.output_nr


def _order(roots: Sequence[Any], wanted: set[Any]) -> list[Any]:
    """The nodes behind these, each after all that give it gradients; of those, what leads to the ``wanted``, if any."""
    uses: Counter[Any] = Counter()
    seen, waiting = set(roots), list(dict.fromkeys(roots))
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is None:
                continue
            uses[following] += 1
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    order, ready = [], [node for node in dict.fromkeys(roots) if not uses[node]]
    while ready:
        # As the engine: what was made last goes first.
        ready.sort(key=lambda node: node._sequence_nr())
        node = ready.pop()
        order.append(node)
        for following, _ in node.next_functions:
            if following is not None:
                uses[following] -= 1
                if not uses[following]:
                    ready.append(following)
    if not wanted:
        return order
    leading = set(wanted)
    for node in reversed(order):
        if any(following in leading for following, _ in node.next_functions):
            leading.add(node)
    return [node for node in order if node in leading]


def _run(node: Any, given: list[Tensor | None]) -> Sequence[Tensor | None]:
    """What a node makes of its gradients: one for each of its ``next_functions``."""
    if not isinstance(node, BackwardCFunction):
        results = node(*given)
        return results if isinstance(results, tuple) else () if results is None else (results,)
    if getattr(node, MATERIALIZE, True):
        about = node._input_metadata
        given = [
            torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device) if grad is None else grad
            for grad, meta in zip(given, about, strict=True)
        ]
    results = node.apply(*given)
    results = results if isinstance(results, tuple) else (results,)
    needed = iter([result for result, needs in zip(results, node.needs_input_grad, strict=True) if needs])
    return [None if following is None else next(needed) for following, _ in node.next_functions]


def _add(grads: dict[Any, dict[int, Tensor]], slot: Slot, value: Tensor) -> None:
    node, number = slot
    held = grads.setdefault(node, {})
    held[number] = value if number not in held else held[number] + value


def _fitted(value: Tensor, node: Any, number: int) -> Tensor:
    """The gradient of a broadcast input summed over its copies, in the input's dtype."""
    about = node._input_metadata[number]
    if value.shape != about.shape:
        value = value.sum_to_size(about.shape)
    if value.device != about.device and value.ndim:
        raise RuntimeError(f"a gradient on {value.device} for a tensor on {about.device}")
    return value if value.dtype == about.dtype else value.to(about.dtype)
