"""Twin-Merging: a shared merge, what each expert adds to it, compressed, and a router that mixes them for every sample.

Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging. Lu et al., NeurIPS 2024, arXiv:2406.15479.

    theta(x) = theta* + sum_k w_k(x) v_k,   theta* = theta0 + scale sum_k tau_k,   v_k = SVD_r(theta_k - theta*)
    w(x) = softmax(R(f(x; theta*))),   R trained to name the task a validation sample comes from

Reference: LZY-the-boys/Twin-Merging discriminative/{twin_merge,router,sparsify}.py. We follow it: every sample gets a
model of its own (``rank`` is the share of singular values kept; tensors with one dimension are not compressed), R has
two hidden layers of twice the features' width, leaky ReLU, rate 5e-4. Ours departs in R's norm (a layer norm of the
input for its batch norms, no dropout) and in its input, the features of the shared encoder (the code averages the last
hidden states over tokens; feature maps are averaged over positions). The task a sample comes from is the only label
used. Stored: the shared model, K sets of factors, R; no task id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.api import (
    LABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    Natural,
    NonNegative,
    NotApplicable,
    Share,
    Stream,
    TaskModel,
    method,
)
from methods.tools.adaptation import ExpertOutputs, adapt
from methods.tools.spectral import leading
from methods.tools.vectors import fraction, per_tensor

# The most numbers that the models of several samples may take at once: 256 MiB in float32.
AT_ONCE = 1 << 26


@method(
    title="Twin-Merging",
    paper="arXiv:2406.15479",
    access=Access(val=LABELLED),
    footprint=Footprint(teacher=True, frozen=True, decompositions=(2, 0), factors=True, serves=(1, 1)),
)
def twin(
    experts: Experts,
    stream: Stream,
    *,
    scale: float = 0.3,
    rank: Share = 0.1,
    steps: Natural = 500,
    lr: NonNegative = 5e-4,
    batch_size: Count = 32,
    seed: int = 0,
) -> Merged:
    """Mix compressed expert differences for every sample, by a router trained on validation samples.

    Args:
        scale: coefficient of the shared merge (task arithmetic).
        rank: share of the singular values of each difference that are kept (at least one).
        steps: rounds of the router's training, one Adam update each on ``batch_size`` samples of every task.
        seed: the stream's seed, and that of the router.
    """
    fraction("rank", rank)
    if experts.statistics:
        raise NotApplicable("twin makes a model for every sample; statistics cannot be estimated for each")
    shared = per_tensor(experts, lambda vectors: scale * vectors.sum(0))
    extra: dict[str, Tensor] = {}
    for name, value in shared.items():
        differences = experts.task_vectors(name) - (value - experts.base_tensor(name))
        extra.update(compressed(name, differences, rank))
    plain = Merged(experts, shared)

    def encoder(task: str) -> Any:
        task_model: Any = plain.model(task)
        return lambda inputs: pooled(task_model.encoder(inputs))

    features = ExpertOutputs(experts, stream, steps=steps, batch_size=batch_size, split="val", run=encoder)
    first = stream.fetch(stream.tasks[0], torch.zeros(1, dtype=torch.int64), "val").inputs
    with torch.no_grad():
        width = encoder(stream.tasks[0])(first).shape[-1]
    router = make_router(width, len(experts), torch.Generator().manual_seed(seed)).to(experts.device)

    def loss(task: str, batch: Batch) -> Tensor:
        logits = router(features(task, batch))
        return F.cross_entropy(logits, torch.full((len(logits),), experts.tasks.index(task), device=logits.device))

    trace = adapt(stream, router.parameters(), loss, steps=steps, lr=lr, batch_size=batch_size, joint=True, split="val")
    extra.update({f"router/{n}": t for n, t in router.state_dict().items()})
    return Merged(experts, shared, extra=extra, wrap=mixed, trace=trace)


def compressed(name: str, differences: Tensor, rank: float) -> dict[str, Tensor]:
    """What is stored of ``differences`` [K, *shape]: factors [K, m, r], [K, r, n]; all of them below two dimensions."""
    if differences.ndim < 3 or differences.numel() == 0:
        return {f"whole/{name}": differences}
    matrices = differences.flatten(2)
    count = max(1, int(rank * min(matrices.shape[1:])))
    triplets = [leading(m, count) for m in matrices]
    return {
        f"left/{name}": torch.stack([u * s for u, s, _ in triplets]),
        f"right/{name}": torch.stack([v for *_, v in triplets]),
    }


def restored(merged: Merged) -> dict[str, Tensor]:
    """The differences ``{name: [K, *shape]}`` on the experts' device."""
    vectors, device = {}, merged.experts.device
    for key, value in merged.extra.items():
        part, _, name = key.partition("/")
        if part == "whole":
            vectors[name] = value.to(device)
        elif part == "left":
            product = value.to(device) @ merged.extra[f"right/{name}"].to(device)
            vectors[name] = product.view(len(product), *merged.experts.base[name].shape)
    return vectors


def pooled(features: Tensor) -> Tensor:
    """One vector a sample, ``[B, d]``."""
    return features.flatten(2).mean(-1) if features.ndim == 4 else features


def make_router(width: int, count: int, generator: torch.Generator | None = None) -> nn.Sequential:
    """``[B, width] -> [B, count]`` logits over tasks; weights from U(-1/sqrt(n), 1/sqrt(n)), n inputs, biases 0."""
    sizes = (width, 2 * width, 2 * width, count)
    layers: list[nn.Module] = [nn.LayerNorm(width, elementwise_affine=False)]
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(inputs, outputs)
        nn.init.uniform_(layer.weight, -(inputs**-0.5), inputs**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


class Mixture(nn.Module):
    """The encoder, under weights of its own for every sample."""

    def __init__(self, encoder: nn.Module, router: nn.Module, differences: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder, self.router = encoder, router
        self.differences = {n: d for n, d in differences.items() if n in encoder.state_dict()}

    def forward(self, inputs: Any) -> Tensor:
        weights = self.router(pooled(self.encoder(inputs)).float()).softmax(-1)
        shared = {**dict(self.encoder.named_parameters()), **dict(self.encoder.named_buffers())}
        size = AT_ONCE // max(1, sum(d[0].numel() for d in self.differences.values()))

        def one(mixture: Tensor, sample: Any) -> Tensor:
            state = {
                n: shared[n] + torch.tensordot(mixture, d, 1).to(shared[n].dtype) for n, d in self.differences.items()
            }
            return torch.func.functional_call(self.encoder, state, (alone(sample),)).squeeze(0)

        if size < 2 or not isinstance(inputs, Tensor):
            return torch.stack([one(w, sample(inputs, i)) for i, w in enumerate(weights)])
        # Neither the fast path of attention nor its fused kernels have a rule for a batch of weights.
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return torch.func.vmap(one, chunk_size=size)(weights, inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def sample(inputs: Any, i: int) -> Any:
    """The ``i``-th sample of a batch: a tensor, or tensors in a dictionary or list."""
    if isinstance(inputs, Tensor):
        return inputs[i]
    if isinstance(inputs, Mapping):
        return {k: sample(v, i) for k, v in inputs.items()}
    return type(inputs)(sample(v, i) for v in inputs)


def alone(one: Any) -> Any:
    """A sample as a batch of one."""
    if isinstance(one, Tensor):
        return one.unsqueeze(0)
    if isinstance(one, Mapping):
        return {k: alone(v) for k, v in one.items()}
    return type(one)(alone(v) for v in one)


def mixed(merged: Merged, task: str, model: nn.Module) -> nn.Module:
    """The task's model, its encoder mixed for every sample."""
    task_model: Any = model
    state = {n.removeprefix("router/"): t for n, t in merged.extra.items() if n.startswith("router/")}
    router = make_router(state["1.weight"].shape[1], len(merged.experts))
    router.load_state_dict(state)
    return TaskModel(Mixture(task_model.encoder, router.to(merged.experts.device), restored(merged)), task_model.head)
