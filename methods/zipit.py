"""ZipIt!: channels of all experts are paired by how they correlate, within a model as well, and averaged.

ZipIt! Merging Models from Different Tasks without Training. Stoica et al., ICLR 2024, arXiv:2305.03053.

    W' = sum_k M_out,k W_k U_in,k,     the pair of the highest correlation is grouped until D of K D are left
    f = [f_1; ..; f_K] the experts' features of one layer;  M f averages each group of channels,  U copies it back

Reference: gstoica27/ZipIt matching_functions.py, model_merger.py, graphs/resnet_graph.py. We follow it: after a group
is made its correlations are the smaller of the two, times ``a``; ``b`` of a model's removals may be within that model;
M divides by the size + 1e-5; features are taken after the activation and, of a residual stage, from its end; batch
norms are merged channel by channel and their statistics taken anew from the images. Its a <= 0 (a group is not grouped
again with the models it has) addresses models by position in the shrinking matrix, as do we; where no pair is left it
drops a channel, ours groups the first two. Ours departs in the graph: spaces of channels are traced (``channels.py``)
where the code has one class per architecture; the result's channels are grouped too, and each task's head reads them
through its U (the code leaves the heads apart by a partial zip, which is not offered). ``reduction`` is how far: 1
leaves D channels of K D, 0 all, between the two the net is wider than one expert. Plain convolutional encoders only.
Every expert's tensors are merged; stored per task: which group holds each result channel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.api import (
    UNLABELLED,
    Access,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    NotApplicable,
    Portion,
    Stream,
    TaskModel,
    method,
)
from methods.tools.channels import IMAGE, NORM, Channels, Layer, trace
from methods.tools.vectors import fraction

Groups = dict[str, tuple[Tensor, Tensor]]
# Rows of features that are turned to float64 at once.
CHUNK = 1 << 15


@method(title="ZipIt!", paper="arXiv:2305.03053", access=Access(train=UNLABELLED), footprint=Footprint(holds=(2, 1)))
def zipit(
    experts: Experts,
    stream: Stream,
    *,
    reduction: Portion = 1.0,
    a: float = 0.3,
    b: Portion = 0.125,
    examples: Count = 256,
    batch_size: Count = 16,
    seed: int = 0,
) -> Merged:
    """Group the experts' channels by correlation and average them.

    Args:
        reduction: 1 merges each layer to the width of one expert, 0 puts the experts side by side.
        a: what a group's correlations are multiplied with; 0 and below: groups are not grouped again.
        b: share of a model's removed channels that may be grouped with others of the same model.
        examples: training images of every task that correlations and batch norms are computed from.
        seed: the stream's seed.
    """
    fraction("reduction", reduction, zero=True)
    if experts.encoder is None:
        raise MergingError("zipit follows the encoder's graph and none was given; make the Experts with encoder=module")
    batches = _images(stream, examples, batch_size)
    encoder = copy.deepcopy(experts.encoder).eval().to(experts.device, torch.float32).requires_grad_(False)
    channels = trace(encoder, batches[0])
    states = [experts.state(task) for task in experts.tasks]
    groups: Groups = {}
    for space, covariance in _covariances(channels, states, batches).items():
        width, count = channels.width[space], len(experts)
        keep = width * count - round(reduction * width * (count - 1))
        groups[space] = match(covariance.float(), count, keep, a, b)
    merged = {n: torch.stack([state[n] for state in states]).mean(0) for n in experts.names}
    for layer in channels.layers:
        merged.update(_zip(layer, states, groups))
    _recalibrate(encoder, merged, batches)
    holders = groups[channels.result][1].argmax(1).to(torch.int32).chunk(len(experts))
    extra = {f"group/{task}": held for task, held in zip(experts.tasks, holders, strict=True)}
    wide = {f"wide/{n}": t for n, t in merged.items() if t.shape != experts.base[n].shape}
    same = {n: t for n, t in merged.items() if f"wide/{n}" not in wide}
    counts = {"channels": {s: len(m) for s, (m, _) in groups.items()}, "images": sum(map(len, batches))}
    return Merged(
        experts,
        same,
        extra={**extra, **wide},
        state=_narrow if wide else None,
        wrap=unzip,
        needs_task=True,
        trace=counts,
    )


def match(covariance: Tensor, models: int, keep: int, a: float = 0.3, b: float = 0.125) -> tuple[Tensor, Tensor]:
    """Group the channels of all models, greedily by correlation, until ``keep`` groups are left.

    Args:
        covariance: ``[K * D, K * D]`` of the features of ``models`` = K models side by side.

    Returns:
        merge ``[keep, K * D]``, whose rows average a group, and unmerge ``[K * D, keep]``, which copies it back.
    """
    total, width = len(covariance), len(covariance) // models
    if not 1 <= keep <= total or total % models:
        raise MergingError(f"keep is {keep} of {total} channels of {models} models; allowed: 1 .. {total}")
    spread = covariance.diagonal().sqrt()
    near = covariance / torch.outer(spread, spread).clamp(min=1e-7)
    near = near.nan_to_num(0.0).fill_diagonal_(-torch.inf)
    owner = torch.arange(total, device=near.device) // width
    holder, alive = torch.arange(total), torch.ones(total, dtype=torch.bool, device=near.device)
    budget = [int((total - keep) // models * b + 1e-4)] * models
    partner = near.argmax(1)
    best = near.gather(1, partner[:, None])[:, 0]
    for _ in range(total - keep):
        row = int(best.argmax())
        if best[row] == -torch.inf:
            row, other = alive.nonzero()[:2, 0].tolist()
        else:
            other = int(partner[row])
        first, second = min(row, other), max(row, other)
        holder[holder == second] = first
        column, line = torch.minimum(near[:, first], near[:, second]), torch.minimum(near[first], near[second])
        origins = int(owner[first]), int(owner[second])
        before = alive.nonzero()[:, 0]
        alive[second] = False
        if a > 0:
            column, line = column * a, line * a
        else:
            after = alive.nonzero()[:, 0]
            for origin in origins:
                column[before[origin * width : (origin + 1) * width]] = -torch.inf
                line[after[origin * width : (origin + 1) * width]] = -torch.inf
        near[:, first], near[first] = column, line
        near[first, first] = -torch.inf
        near[:, second], near[second] = -torch.inf, -torch.inf
        stale = alive & ((partner == first) | (partner == second))
        stale[first] = True
        closer = alive & ((column > best) | ((column == best) & (partner > first))) & ~stale
        best[closer], partner[closer] = column[closer], first
        if origins[0] == origins[1]:
            budget[origins[0]] -= 1
            if budget[origins[0]] <= 0:
                own = owner == origins[0]
                near[own[:, None] & own[None, :]] = -torch.inf
                stale |= own & alive
        rows = stale.nonzero()[:, 0]
        partner[rows] = near[rows].argmax(1)
        best[rows] = near[rows].gather(1, partner[rows, None])[:, 0]
        best[second] = -torch.inf
    holders = holder.unique()
    unmerge = (holder[:, None] == holders[None, :]).to(covariance)
    return (unmerge / (unmerge.sum(0) + 1e-5)).T.contiguous(), unmerge


def _images(stream: Stream, examples: int, batch_size: int) -> list[Tensor]:
    """Training images of all tasks, in batches."""
    batches = []
    for task in stream.tasks:
        seen = 0
        while seen < examples:
            inputs = stream.draw(task, min(batch_size, examples - seen), split="train").inputs
            if not isinstance(inputs, Tensor):
                raise NotApplicable(
                    f"zipit takes images [B, C, H, W]; the stream of {task} gives {type(inputs).__name__}"
                )
            batches.append(inputs)
            seen += len(inputs)
    return batches


@torch.no_grad()
def _covariances(channels: Channels, states: list[dict[str, Tensor]], batches: list[Tensor]) -> dict[str, Tensor]:
    """Covariance ``[K * D, K * D]`` of the experts' features side by side, per space, accumulated in float64."""
    nets = []
    for state in states:
        net = copy.deepcopy(channels.graph)
        net.load_state_dict({n: t for n, t in state.items() if n in net.state_dict()}, strict=False)
        nets.append(net.eval())
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    rows = dict.fromkeys(channels.shown, 0)
    for batch in batches:
        activations = [channels.features(net, batch.float()) for net in nets]
        for space in channels.shown:
            for parts in zip(*(features[space].split(CHUNK) for features in activations), strict=True):
                joint = torch.cat(parts, 1).double()
                rows[space] += len(joint)
                sums[space] = sums.get(space, 0) + joint.sum(0)
                squares[space] = squares.get(space, 0) + joint.T @ joint
    means = {s: total / rows[s] for s, total in sums.items()}
    return {s: squares[s] / rows[s] - torch.outer(mean, mean) for s, mean in means.items()}


def _zip(layer: Layer, states: list[dict[str, Tensor]], groups: Groups) -> dict[str, Tensor]:
    """The merged tensors of one layer."""
    merges = groups[layer.writes][0].chunk(len(states), 1)
    unmerges = groups[layer.reads][1].chunk(len(states)) if layer.reads != IMAGE else None
    tensors: dict[str, Tensor] = {}
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        name = f"{layer.name}.{leaf}"
        if name not in states[0]:
            continue
        parts = []
        for k, state in enumerate(states):
            value = torch.tensordot(merges[k], state[name], 1)
            if leaf == "weight" and layer.mixes and unmerges is not None:
                # A linear map after a flattened map reads each channel at several positions.
                apart = value.reshape(len(value), len(unmerges[k]), -1)
                value = torch.einsum("pcr,cq->pqr", apart, unmerges[k]).reshape(len(value), -1, *value.shape[2:])
            parts.append(value)
        tensors[name] = torch.stack(parts).sum(0)
    return tensors


@torch.no_grad()
def _recalibrate(encoder: nn.Module, merged: dict[str, Tensor], batches: list[Tensor]) -> None:
    """Running statistics of the merged net's batch norms, averaged over the images, written into ``merged``."""
    modules: dict[str, Any] = {n: m for n, m in encoder.named_modules() if isinstance(m, NORM)}
    norms = {n: m for n, m in modules.items() if m.running_mean is not None}
    _put(encoder, merged)
    for module in norms.values():
        module.running_mean.zero_()
        module.running_var.fill_(1.0)
        module.num_batches_tracked.zero_()
        module.momentum = None
        module.train()
    for batch in batches if norms else ():
        encoder(batch.float())
    for name, module in norms.items():
        merged.update({f"{name}.{leaf}": getattr(module, leaf).clone() for leaf in ("running_mean", "running_var")})


def _put(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set tensors of any width in a module."""
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        module = encoder.get_submodule(owner)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value.clone(), requires_grad=False)
        elif leaf in module._buffers:
            module._buffers[leaf] = value.clone()


class Unzip(nn.Module):
    """Result channels of one expert from the merged ones: channel d is that of the group which holds it."""

    def __init__(self, encoder: nn.Module, held: Tensor) -> None:
        super().__init__()
        self.encoder, self.held = encoder, held.long()

    def forward(self, inputs: Any) -> Tensor:
        return self.encoder(inputs).index_select(1, self.held)


def _narrow(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The tensors that are as wide as in one expert; the others are put in place by :func:`unzip`."""
    return merged.shared


def unzip(merged: Merged, task: str, model: nn.Module) -> nn.Module:
    """The task's model: the merged encoder, and the task's head on its own channels of the result."""
    task_model: Any = model
    encoder = task_model.encoder
    wide = {
        n.removeprefix("wide/"): t.to(merged.experts.device) for n, t in merged.extra.items() if n.startswith("wide/")
    }
    if wide:
        encoder = copy.deepcopy(encoder)
        _put(encoder, {n: t.to(merged.experts.device) for n, t in wide.items()})
    return TaskModel(Unzip(encoder, merged.extra[f"group/{task}"].to(merged.experts.device)), task_model.head)
