"""ProDistill: coefficients of every weight, learned block by block so that the merge has the experts' features.

Scalable Model Merging with Progressive Layer-wise Distillation. Xu, Li, Zhang, ICML 2025, arXiv:2502.12706.

    theta_l = theta0_l + sum_k a_kl * tau_kl,   min over a_l of  sum_k,x |f_l(h_k(x); theta_l) - f_l(e_k(x); theta_k)|^2
    h_k(x), e_k(x): what enters block l in the merge, its blocks below trained, and in expert k itself

Reference: JingXuTHU/Scalable_Model_Merging_with_Progressive_Layerwise_Distillation Vision/main_prodistill.py, which we
follow: a coefficient for every entry and task (granularity="layer": for every tensor and task), all 0.3 at first and
not clamped; a new Adam for each block; the loss is a sum over samples, tokens and features; what is outside the blocks
is task arithmetic at 0.3. Defaults are the code's: 64 samples a task, 100 epochs, batches of 128 over all tasks. A
batch has as many samples of each task and keeps them, and batches come in a new order in each epoch (the code deals the
samples anew). An expert's block runs on its own samples alone, where the code runs all on all. The released script
writes a layer's result where it does not look for it; ours does what it means. The gradient of a key's bias is 0 but
for rounding, which Adam turns into full steps: without effect on the output. Padding of texts has no loss. Nothing is
stored per task.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import Tensor, nn

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, Natural, NonNegative, Stream, method
from methods.tools.activations import samples
from methods.tools.progression import Blocks, Call, each
from methods.tools.vectors import choice, per_tensor


@method(
    title="ProDistill",
    paper="arXiv:2502.12706",
    access=Access(train=UNLABELLED),
    footprint=Footprint(steps="epochs", batch="examples", batches=1, adapting=(3, 1)),
)
def prodistill(
    experts: Experts,
    stream: Stream,
    *,
    granularity: Literal["element", "layer"] = "element",
    examples: Count = 64,
    epochs: Natural = 100,
    lr: NonNegative = 0.01,
    prior: float = 0.3,
    batch_size: Count = 128,
    seed: int = 0,
) -> Merged:
    """Distil the experts' blocks into the merge's, one after the other.

    Args:
        granularity: ``"element"`` (a coefficient for every entry and task) or ``"layer"`` (for every tensor and task).
        examples: unlabelled training samples per task.
        epochs: passes over them for each block.
        lr: of Adam.
        prior: where coefficients start, and task arithmetic's outside the blocks.
        batch_size: samples of all tasks together in one update.
        seed: the stream's seed, and that of the order of batches.
    """
    choice("granularity", granularity, ("element", "layer"))
    blocks = Blocks(experts)
    merged = per_tensor(experts, lambda vectors: prior * vectors.sum(0))
    size = max(1, batch_size // len(experts))
    batches = {task: list(samples(stream, task, examples, size)) for task in experts.tasks}
    began, losses, trainable = time.perf_counter(), [], 0
    ours: dict[str, list[Call]] = {}
    theirs: dict[str, list[Call]] = {}
    with torch.no_grad():
        start = {**experts.state(), **merged}
        for task, drawn in batches.items():
            ours[task] = [blocks.enter(start, task, batch) for batch in drawn]
            state = experts.state(task)
            theirs[task] = [blocks.enter(state, task, batch) for batch in drawn]
    generator = torch.Generator().manual_seed(seed)
    rounds = iter(stream.rounds(epochs * len(blocks), "distilling"))
    for number in range(len(blocks)):
        with torch.no_grad():
            each(blocks, number, {task: blocks.expert(number, task) for task in experts.tasks}, theirs)
        layer = Layer(experts, blocks.names(number), prior, granularity == "element")
        optimiser = torch.optim.Adam(layer.parameters(), lr=lr)
        trainable += sum(p.numel() for p in layer.parameters())
        most = max(map(len, ours.values()))
        for _ in range(epochs):
            next(rounds)
            order = torch.randperm(most, generator=generator).tolist() if stream.shuffle else range(most)
            losses.append(sum(update(blocks, number, layer, optimiser, ours, theirs, place) for place in order))
        with torch.no_grad():
            merged |= layer()
            each(blocks, number, dict.fromkeys(experts.tasks, merged), ours)
    trace = {"losses": torch.tensor(losses), "adapt_seconds": time.perf_counter() - began, "trainable": trainable}
    return Merged(experts, merged, trace=trace)


class Layer(nn.Module):
    """The tensors of one block, merged by trainable coefficients."""

    def __init__(self, experts: Experts, names: tuple[str, ...], prior: float, element: bool) -> None:
        super().__init__()
        self.names = names
        self.base = [experts.base_tensor(n) for n in names]
        self.vectors = [experts.task_vectors(n) for n in names]
        shapes = [v.shape if element else (len(v), *[1] * (v.ndim - 1)) for v in self.vectors]
        self.coefficients = nn.ParameterList(
            nn.Parameter(torch.full(tuple(shape), float(prior), device=experts.device)) for shape in shapes
        )

    def forward(self) -> dict[str, Tensor]:
        """The merged tensors, differentiable in the coefficients."""
        parts = zip(self.names, self.base, self.coefficients, self.vectors, strict=True)
        return {name: base + (weight * vectors).sum(0) for name, base, weight, vectors in parts}


def update(
    blocks: Blocks,
    number: int,
    layer: Layer,
    optimiser: torch.optim.Optimizer,
    ours: dict[str, list[Call]],
    theirs: dict[str, list[Call]],
    place: int,
) -> float:
    """One step on the batches at ``place`` of all tasks; its loss. ``theirs`` are past the block already."""
    optimiser.zero_grad(set_to_none=True)
    weights = layer()
    total = torch.zeros((), device=weights[layer.names[0]].device)
    for task, calls in ours.items():
        if place < len(calls):
            found = blocks.run(number, weights, calls[place]).hidden
            gap = (found.float() - theirs[task][place].hidden.float()).square().flatten(0, -2).sum(-1)
            real = calls[place].real
            total = total + (gap if real is None else gap[real]).sum()
    total.backward()
    optimiser.step()
    return float(total.detach())
