"""The channel spaces of a plain convolutional encoder: which layers read and write which channels.

Traced with torch.fx. A space is a set of channels that must be merged in one way: what a convolution or linear map
writes, whatever is then done channel by channel (norms, activations, pooling), and everything added to it (a residual
stage is one space). Used by ZipIt.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from methods.core.errors import NotApplicable

MIXING = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORM = nn.modules.batchnorm._BatchNorm
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)
BY_CHANNEL = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
    nn.ELU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
)
ADD = (operator.add, operator.iadd, torch.add)
POOL_FUNCTIONS = (torch.flatten, F.adaptive_avg_pool2d, F.avg_pool2d, F.max_pool2d, torch.mean)
CHANNEL_FUNCTIONS = (F.relu, torch.relu, F.gelu, F.silu, F.leaky_relu, F.dropout)
POOL_CALLS = ("flatten", "mean", "view", "reshape", "squeeze")
CHANNEL_CALLS = ("relu", "relu_", "contiguous", "clone")
IMAGE = "image"


@dataclass
class Layer:
    """A module with weights: ``reads`` and ``writes`` are spaces; a norm reads what it writes."""

    name: str
    reads: str
    writes: str
    mixes: bool


@dataclass
class Channels:
    """Layers in order; per space its width and the node whose output shows its features; the space of the result."""

    graph: fx.GraphModule
    layers: list[Layer] = field(default_factory=list)
    width: dict[str, int] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    result: str = IMAGE

    def features(self, module: fx.GraphModule, inputs: Tensor) -> dict[str, Tensor]:
        """The features ``[N, width]`` of every space, one row per sample and position."""
        features: dict[str, Tensor] = {}
        wanted = {node: space for space, node in self.shown.items()}

        class Watch(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                if n.name in wanted:
                    rows = value.movedim(1, -1) if value.ndim > 2 else value
                    features[wanted[n.name]] = rows.reshape(-1, rows.shape[-1]).float().clone()
                return value

        Watch(module).run(inputs)
        return features


def trace(encoder: nn.Module, example: Tensor) -> Channels:
    """The channel spaces of the encoder. Raises :class:`NotApplicable`, in one line, for other nets."""
    for name, module in encoder.named_modules():
        if isinstance(module, (nn.MultiheadAttention, nn.LayerNorm, nn.Embedding, nn.GroupNorm)):
            raise _unfit(f"{name} is a {type(module).__name__}")
    try:
        graph = fx.symbolic_trace(encoder)
        ShapeProp(graph).propagate(example)
    except Exception as error:  # fx has no common base for what it cannot follow
        raise _unfit(f"torch.fx cannot follow the encoder ({type(error).__name__})") from None
    channels = Channels(graph)
    modules = dict(graph.named_modules())
    space: dict[fx.Node, str] = {}
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    def shape(node: fx.Node) -> torch.Size:
        sizes: Any = getattr(node.meta.get("tensor_meta"), "shape", None)
        if sizes is None:
            raise _unfit(f"{node.name} gives no single tensor")
        return sizes

    for node in graph.graph.nodes:
        sources = [a for a in node.all_input_nodes]
        pooling = False
        if node.op == "placeholder":
            space[node] = IMAGE
            continue
        if node.op == "output":
            if len(sources) != 1 or not isinstance(node.args[0], fx.Node):
                raise _unfit("it gives several outputs")
            channels.result = root(space[sources[0]])
            if shape(sources[0])[1] != channels.width.get(channels.result):
                raise _unfit("its features are no channels of a layer")
            break
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, MIXING):
            if getattr(module, "groups", 1) != 1 or any(layer.name == str(node.target) for layer in channels.layers):
                raise _unfit(f"{node.target} is a grouped convolution or is used twice")
            space[node] = node.name
            channels.layers.append(Layer(str(node.target), space[sources[0]], node.name, True))
            channels.width[node.name] = module.weight.shape[0]
        elif isinstance(module, NORM):
            space[node] = space[sources[0]]
            channels.layers.append(Layer(str(node.target), space[node], space[node], False))
        elif node.op == "call_function" and node.target in ADD and len(sources) == 2:
            first, second = (root(space[s]) for s in sources)
            if shape(sources[0])[1] != shape(sources[1])[1] or IMAGE in (first, second):
                raise _unfit(f"{node.name} adds tensors of different channels")
            parent[second] = first
            space[node] = first
        elif len(sources) == 1:
            pooling = isinstance(module, POOLING) or node.target in POOL_FUNCTIONS or node.target in POOL_CALLS
            plain = isinstance(module, BY_CHANNEL) or node.target in (*CHANNEL_FUNCTIONS, *ADD, *CHANNEL_CALLS)
            if not pooling and not plain:
                raise _unfit(f"it has no rule for {node.target}")
            if pooling and shape(node)[0] != shape(sources[0])[0]:
                raise _unfit(f"{node.name} changes the number of samples")
            space[node] = space[sources[0]]
        else:
            raise _unfit(f"it has no rule for {node.target}")
        if not pooling and root(space[node]) != IMAGE:
            channels.shown[root(space[node])] = node.name
    for layer in channels.layers:
        layer.reads, layer.writes = root(layer.reads), root(layer.writes)
    channels.width = {s: w for s, w in channels.width.items() if root(s) == s}
    channels.shown = {s: node for s, node in channels.shown.items() if root(s) == s}
    if channels.result == IMAGE or any(layer.writes == IMAGE for layer in channels.layers):
        raise _unfit("a norm or the output works on the image itself")
    return channels


def _unfit(why: str) -> NotApplicable:
    return NotApplicable(
        f"zipit merges plain convolutional encoders (convolutions, batch norms, linear maps, sums): {why}"
    )
