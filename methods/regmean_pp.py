"""RegMean++: RegMean, whose layer inputs come from the merged blocks below and not from the experts alone.

RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for Model Merging. Nguyen, Dang, Suzuki,
Nguyen, TMLR 2026, arXiv:2508.03121.

    W^T = (sum_k G_k)^-1 sum_k G_k W_k^T,    G_k = X_k^T X_k / n, off-diagonal entries times "reduce"
    X_k: a layer's inputs when expert k's block runs on what the merged blocks below make of task k's samples

Reference: nthehai01/RegMean-plusplus fusion_bench/method/regmean_plusplus, which we follow: what comes before the first
block (embeddings, the norm before it) and what is no linear weight in a block is the mean; what comes after the last
block (its norm, the projection) stays the base's. Query, key and value see the same input, so that a packed projection
is one regression. reduce=0.95 and 256 samples are the code's; it searches reduce in 0.1 .. 1.0. Departure: the same
regression is solved for task vectors, in float64, with a pseudo-inverse, so that directions that no sample has stay the
base's where the code fails. Padding of texts does not count. Nothing is stored per task.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, Portion, Stream, method
from methods.tools.activations import layers, least_squares, samples
from methods.tools.interference import BLOCK
from methods.tools.progression import Blocks, each
from methods.tools.spectral import mean_vector
from methods.tools.vectors import fraction

_STEM = re.compile(r"embed|conv1|patch|ln_pre|pre_layrnorm|cls_token", re.IGNORECASE)


@method(
    title="RegMean++",
    paper="arXiv:2508.03121",
    access=Access(train=UNLABELLED),
    needs=("matrices",),
    grids={"reduce": (0.1, 1.0, 19)},
    footprint=Footprint(statistics="grams"),
)
def regmean_pp(experts: Experts, stream: Stream, *, reduce: Portion = 0.95, examples: Count = 256) -> Merged:
    """Merge one block after the other by regression on what the merged blocks below give.

    Args:
        reduce: factor of the Gram matrices' off-diagonal entries, in [0, 1].
        examples: unlabelled training samples per task.
    """
    fraction("reduce", reduce, zero=True)
    blocks = Blocks(experts)
    linear = {*layers(experts, "linear"), *layers(experts, "projection")}
    batches = {task: list(samples(stream, task, examples)) for task in experts.tasks}
    first = next(iter(experts.tasks))
    merged = {}
    for name in blocks.stem(first, batches[first][0]):
        merged[name] = mean_vector(experts, name).add_(experts.base_tensor(name))
    with torch.no_grad():
        state = {**experts.state(), **merged}
        calls = {task: [blocks.enter(state, task, batch) for batch in drawn] for task, drawn in batches.items()}
        for number in range(len(blocks)):
            names = blocks.names(number)
            grams = {}
            for task in experts.tasks:
                weights, rows = blocks.expert(number, task), 0
                sums: dict[str, Tensor] = {}
                for call in calls[task]:
                    seen, _ = blocks.inputs(number, weights, call, linear.intersection(names))
                    for name, inputs in seen.items():
                        inputs = (inputs if call.real is None else inputs[call.real]).double()
                        sums[name] = inputs.T @ inputs + sums.get(name, 0.0)
                    rows += len(inputs)
                grams[task] = {name: gram / rows for name, gram in sums.items()}
            fitted = least_squares(experts, grams, reduce)
            for name in names:
                vector = fitted[name] if name in fitted else mean_vector(experts, name)
                merged[name] = experts.base_tensor(name) + vector
            each(blocks, number, dict.fromkeys(experts.tasks, merged), calls)
    return Merged(experts, merged)


def from_grams(experts: Experts, grams: Any, reduce: float = 0.95, stem: Collection[str] | None = None) -> Merged:
    """RegMean++ from Gram matrices computed elsewhere, block by block.

    Args:
        grams: ``{task: {module or tensor name: X^T X / n [in, in]}}``, or a list of the inner mappings in the order of
            tasks.
        stem: the tensors before the first block, which are the mean; by default those whose names say embedding, patch
            or a norm before the blocks.
    """
    fitted = least_squares(experts, grams, fraction("reduce", reduce, zero=True))
    before = {n for n in experts.names if not BLOCK.search(n) and _STEM.search(n)} if stem is None else set(stem)
    merged = {}
    for name in experts.names:
        if name in fitted:
            merged[name] = fitted.pop(name).add_(experts.base_tensor(name))
        elif name in before or BLOCK.search(name):
            merged[name] = mean_vector(experts, name).add_(experts.base_tensor(name))
    return Merged(experts, merged)
