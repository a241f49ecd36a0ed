"""How sharp experts' predictions are: the diagonal of the Fisher information, from samples without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.core.experts import Experts
from methods.core.stream import Stream
from methods.tools.activations import CHUNK, samples

SAMPLE_GRADIENTS = 1 << 25


def fisher_information(experts: Experts, stream: Stream, examples: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For each task the diagonal of the Fisher information, mean over samples, per tensor.

    The expectation over the expert's own predictions needs no labels, and a backward pass for every class; with signs e
    it is the mean of ``(d/dtheta sum_c e_c sqrt(p_c) log p_c)^2``, one pass. Signs are rows of a Hadamard matrix, a
    new one for each sample, so that what classes have in common cancels over the samples.
    """
    together = max(1, min(CHUNK, SAMPLE_GRADIENTS // experts.numel()))
    for task in experts.tasks:
        state = experts.state(task)
        leaves = {n: state[n].detach() for n in experts.names}
        head = experts.copy_head(task).eval().requires_grad_(False)
        score = partial(_score, experts, task, state, head)
        totals = {n: torch.zeros_like(t) for n, t in leaves.items()}
        count = 0
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels cannot be batched
            for batch in samples(stream, task, examples, chunk=together):
                stream.check_time()
                numbers = torch.arange(count, count + len(batch.index), device=experts.device)
                for gradients in _gradients(score, leaves, batch.inputs, numbers, together):
                    for name, total in totals.items():
                        total += gradients[name].square().sum(0)
                count += len(numbers)
        yield task, {n: total.div_(count) for n, total in totals.items()}


def _score(
    experts: Experts,
    task: str,
    state: Mapping[str, Tensor],
    head: nn.Module,
    leaves: Mapping[str, Tensor],
    inputs: Any,
    number: Tensor,
) -> Tensor:
    """What is differentiated for sample ``number``: classes (of every pixel), or real values of unit variance."""
    output = head(experts.forward({**state, **leaves}, task, _map(inputs, lambda t: t[None]))).float()
    if experts.kind(task) in ("classification", "segmentation"):
        log_p = output.log_softmax(1)
        output = log_p * (0.5 * log_p.detach()).exp()
    return (output.reshape(-1) * signs(number, output.numel())).sum()


def signs(number: Tensor, count: int) -> Tensor:
    """Row ``number`` of a Hadamard matrix, 1 and -1, ``[count]``; 2^k rows in a row are orthogonal in 2^k entries."""
    bits = torch.arange(count, device=number.device) & ((number * 0x9E3779B1) & 0x7FFFFFFF)
    for shift in (16, 8, 4, 2, 1):
        bits = bits ^ (bits >> shift)
    return 1 - 2 * (bits & 1)


def _gradients(
    score: Callable[..., Tensor], leaves: dict[str, Tensor], inputs: Any, numbers: Tensor, together: int
) -> Iterator[dict[str, Tensor]]:
    """Gradients of each sample's score ``{name: [samples, *shape]}``, ``together`` samples at most at a time."""
    for start in range(0, len(numbers), together):
        part = slice(start, start + together)
        try:
            each = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0, 0))
            yield each(leaves, _part(inputs, part), numbers[part])
        except RuntimeError:  # an encoder with an operation that cannot be batched: one sample at a time
            for i in range(start, min(start + together, len(numbers))):
                gradients = torch.func.grad(score)(leaves, _part(inputs, i), numbers[i])
                yield {n: t[None] for n, t in gradients.items()}


def _part(inputs: Any, part: slice | int) -> Any:
    """Some samples of a batch, or one without the batch dimension."""
    return _map(inputs, lambda t: t[part])


def _map(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {k: _map(v, change) for k, v in inputs.items()}
    return type(inputs)(_map(v, change) for v in inputs)
