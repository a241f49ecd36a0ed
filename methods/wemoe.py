"""WEMoE: static task arithmetic outside the MLPs; inside them, weights are merged anew for every sample by a router.

Merging Multi-Task Models via Weight-Ensembling Mixture of Experts. Tang et al., ICML 2024, arXiv:2402.00433.

    MLP weights for a sample:  theta0 + sum_k g_k tau_k,    g = mean over tokens of gate(h),  h the MLP's input [T, d]
    gate(h) = W2 relu(W1 h + b1) + b2;     min over the gates of  sum_k E_x H( softmax(h_k(f(x))) ),  x unlabelled

References: tanganke/weight-ensembling_MoE and FusionBench models/we_moe.py. We follow them: hidden width d, weights
from N(0, 0.01^2), b1 = 0, b2 = ``scale``, so that it starts as task arithmetic; no clamp and no softmax; one batch of
16 of every task a step, Adam 1e-4, 1,000 steps. The code averages g over the batch as well, so that a prediction
depends on the samples beside it; ours routes every sample by itself, ``batch_reduce=True`` is the code's form. It needs
MLPs with open_clip's names (``mlp.c_fc``, ``mlp.c_proj``). Stored: the merged model, the K experts' MLPs, the gates; no
task id.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.adamerging import class_entropy
from methods.api import (
    UNLABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    NotApplicable,
    Stream,
    TaskModel,
    method,
)
from methods.tools.adaptation import adapt

LINEAR = ("c_fc", "c_proj")
# The most numbers that merged weights of several samples may take at once: 256 MiB in float32.
AT_ONCE = 1 << 26


@method(
    title="WEMoE",
    paper="arXiv:2402.00433",
    access=Access(test=UNLABELLED),
    needs=("classes",),
    footprint=Footprint(adapting=(2.6667, 0.6667), workspace=0.75, serves=(1, 0.6667)),
)
def wemoe(
    experts: Experts,
    stream: Stream,
    *,
    scale: float = 0.3,
    steps: Natural = 1000,
    lr: NonNegative = 1e-4,
    batch_size: Count = 16,
    batch_reduce: bool = False,
    seed: int = 0,
) -> Merged:
    """Merge the MLPs per sample, by gates learned from the entropy of the predictions.

    Args:
        scale: coefficient of task arithmetic outside the MLPs, and of every expert inside them at the start.
        steps: Adam steps; each sees one batch of ``batch_size`` of every task.
        batch_reduce: one mixture for the whole batch, as the authors' code.
        seed: the stream's seed, and that of the gates.
    """
    widths = mlps(experts)
    inside = {f"{name}.{part}.{leaf}" for name in widths for part in LINEAR for leaf in ("weight", "bias")}
    shared = {}
    for name in experts.names:
        shared[name] = experts.base_tensor(name)
        if name not in inside:
            shared[name] = shared[name] + scale * experts.task_vectors(name).sum(0)
    generator = torch.Generator().manual_seed(seed)
    gates = {name: gate(width, len(experts), scale, generator) for name, width in widths.items()}
    merged = Merged(experts, shared, extra=_pack(gates), options={"batch_reduce": batch_reduce})
    plain: Any = merged.model(experts.tasks[0])
    encoder = routed(merged, plain.encoder)
    heads = {task: experts.copy_head(task).eval().requires_grad_(False) for task in experts.tasks}
    routers = {name: encoder.get_submodule(name).gate.requires_grad_(True) for name in widths}

    def loss(task: str, batch: Batch) -> Tensor:
        return class_entropy(heads[task](encoder(batch.inputs)))

    trained = [p for router in routers.values() for p in router.parameters()]
    trace = adapt(stream, trained, loss, steps=steps, lr=lr, batch_size=batch_size, joint=True, split="test")
    declared = 4 * len(experts) * sum(experts.base[n].numel() for n in inside)
    return Merged(
        experts,
        shared,
        extra=_pack(routers),
        wrap=route,
        declared=declared,
        trace=trace,
        options={"batch_reduce": batch_reduce},
    )


def mlps(experts: Experts) -> dict[str, int]:
    """The encoder's open_clip MLPs and their input widths. Raises :class:`NotApplicable` where there are none."""
    if experts.encoder is None:
        raise MergingError("wemoe runs the encoder and none was given; make the Experts with encoder=module")
    widths = {}
    for name, module in experts.encoder.named_modules():
        parts = dict(module.named_children())
        if all(isinstance(parts.get(p), nn.Linear) and f"{name}.{p}.bias" in experts.names for p in LINEAR):
            widths[name] = experts.base[f"{name}.c_fc.weight"].shape[1]
    if not widths:
        raise NotApplicable(
            "wemoe routes the MLPs of open_clip transformers (mlp.c_fc, mlp.c_proj); this encoder has none"
        )
    return widths


def gate(width: int, count: int, start: float, generator: torch.Generator | None = None) -> nn.Sequential:
    """The router of one MLP: ``[..., width] -> [..., count]``, ``start`` everywhere at first but for small noise."""
    first, second = nn.Linear(width, width), nn.Linear(width, count)
    for layer, bias in ((first, 0.0), (second, start)):
        nn.init.normal_(layer.weight, std=0.01, generator=generator)
        nn.init.constant_(layer.bias, bias)
    return nn.Sequential(first, nn.ReLU(), second)


class RoutedMLP(nn.Module):
    """An MLP whose linear maps are merged per sample: ``[B, T, d] -> [B, T, d]`` (``[T, B, d]`` unless batch_first)."""

    def __init__(self, mlp: nn.Module, router: nn.Module, experts: Experts, name: str, batch_first: bool, reduce: bool):
        super().__init__()
        self.mlp, self.gate, self.batch_first, self.reduce = mlp, router, batch_first, reduce
        tensors = {(p, leaf): f"{name}.{p}.{leaf}" for p in LINEAR for leaf in ("weight", "bias")}
        self.base = {key: experts.base_tensor(full) for key, full in tensors.items()}
        self.vectors = {key: experts.task_vectors(full).flatten(1) for key, full in tensors.items()}

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden if self.batch_first else hidden.transpose(0, 1)
        weights = self.gate(rows).mean(1)
        if self.reduce:
            weights = weights.mean(0, keepdim=True).expand_as(weights)
        size = max(1, AT_ONCE // self.base["c_fc", "weight"].numel())
        pairs = zip(rows.split(size), weights.split(size), strict=True)
        # The samples' weights are merged again in the backward pass instead of being kept.
        keep = torch.is_grad_enabled()
        parts = [checkpoint(self.run, *pair, use_reentrant=False) if keep else self.run(*pair) for pair in pairs]
        out = torch.cat(parts)
        return out if self.batch_first else out.transpose(0, 1)

    def run(self, rows: Tensor, weights: Tensor) -> Tensor:
        """The MLP of ``rows`` [b, T, d] under mixtures ``weights`` [b, K]."""
        for part, module in self.mlp.named_children():
            rows = self.linear(part, rows, weights) if part in LINEAR else module(rows)
        return rows

    def linear(self, part: str, rows: Tensor, weights: Tensor) -> Tensor:
        one = weights[:1] if self.reduce else weights
        matrix, bias = (
            (self.base[key].flatten() + one.to(torch.float32) @ self.vectors[key]).view(-1, *self.base[key].shape)
            for key in ((part, "weight"), (part, "bias"))
        )
        if self.reduce:
            return F.linear(rows, matrix[0].to(rows.dtype), bias[0].to(rows.dtype))
        return torch.baddbmm(bias.unsqueeze(1).to(rows.dtype), rows, matrix.transpose(1, 2).to(rows.dtype))


def routed(merged: Merged, encoder: nn.Module) -> Any:
    """A copy of the encoder with routed MLPs, the gates as the merge holds them."""
    network = copy.deepcopy(encoder)
    experts, reduce = merged.experts, bool(merged.options["batch_reduce"])
    for name, width in mlps(experts).items():
        router = gate(width, len(experts), 0.0)
        router.load_state_dict(
            {n.rpartition("/")[2]: t for n, t in merged.extra.items() if n.startswith(f"gate/{name}/")}
        )
        parent = network.get_submodule(name.rpartition(".")[0])
        mlp = network.get_submodule(name)
        first = any(getattr(m, "batch_first", False) for m in parent.modules())
        setattr(
            parent, name.rpartition(".")[2], RoutedMLP(mlp, router.to(experts.device), experts, name, first, reduce)
        )
    return network.eval()


def route(merged: Merged, task: str, model: nn.Module) -> nn.Module:
    """The task's model with routed MLPs."""
    task_model: Any = model
    return TaskModel(routed(merged, task_model.encoder), task_model.head)


def _pack(gates: dict[str, Any]) -> dict[str, Tensor]:
    return {f"gate/{name}/{n}": t for name, router in gates.items() for n, t in router.state_dict().items()}
