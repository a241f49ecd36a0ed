"""Experts with what breaks merges."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.api import Experts


def hard_experts(count: int, dtype: torch.dtype = torch.float32, idle: bool = True, width: int = 12) -> Experts:
    """Two blocks and what breaks merges: low rank, a task without a part, a scalar, a kernel, a buffer, strides."""
    generator = torch.Generator().manual_seed(count)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shapes = {
        "conv.weight": (4, 3, 3, 3),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "pos_embed": (1, width),
        "blocks.0.mlp.fc1.weight": (width, 2 * width),
        "blocks.1.mlp.fc1.weight": (width, 2 * width),
        "blocks.1.mlp.fc1.bias": (width,),
        "blocks.1.norm.weight": (width,),
        "tau": (),
        "still": (3, 4),
    }
    base = {n: noise(*s).to(dtype) for n, s in shapes.items()}
    base["blocks.1.mlp.fc1.weight"] = base["blocks.1.mlp.fc1.weight"].t().contiguous().t()
    tuned = {
        f"t{k}": {n: t + (n != "still") * 0.1 * noise(*t.shape).to(dtype) for n, t in base.items()}
        for k in range(count)
    }
    name = "blocks.0.mlp.fc1.weight"
    for k, state in enumerate(tuned.values()):
        state[name] = base[name] + (0.1 * noise(width, 1) @ noise(1, 2 * width)).to(dtype)
        state["tau"] = base["tau"] + 0.1 * (k + 1)  # two opposite numbers have no angle but the straight one
    if idle and count > 1:
        tuned["t0"]["blocks.1.mlp.fc1.weight"] = base["blocks.1.mlp.fc1.weight"]
    for k, state in enumerate([base, *tuned.values()]):
        state["steps"] = torch.tensor(k)
    return Experts.from_state_dicts(base, tuned)
