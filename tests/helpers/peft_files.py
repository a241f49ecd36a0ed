"""Adapters as PEFT stores them: adapter_config.json beside adapter_model.safetensors, by its checkpoint format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# What PEFT 0.17 writes for a plain LoRA.
CONFIG: dict[str, Any] = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "roberta-base", "bias": "none",
    "corda_config": None, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": 6, "lora_bias": False, "lora_dropout": 0.1, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "qalora_group_size": 16, "r": 3,
    "rank_pattern": {}, "revision": None, "target_modules": ["query", "value"], "target_parameters": None,
    "task_type": "SEQ_CLS", "trainable_token_indices": None, "use_dora": False, "use_qalora": False,
    "use_rslora": False,
}  # fmt: skip


def write_adapter(
    folder: Path,
    model: nn.Module,
    modules: Sequence[str],
    *,
    rank: int = 3,
    whole: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    drop: str = "",
    **settings: Any,
) -> dict[str, tuple[Tensor, Tensor]]:
    """A random adapter of some modules of ``model``: ``{module: (A [r, in], B [out, r])}`` as stored.

    Args:
        whole: tensors of modules that were trained whole, by their names in the model.
        drop: leave out tensors with this in their names.
        settings: changes of :data:`CONFIG`.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = dict(model.named_modules())
    tensors = {f"base_model.model.{name}": value.detach().clone() for name, value in (whole or {}).items()}
    made = {}
    for name in modules:
        weight = parts[name].weight
        a = 0.3 * torch.randn(rank, weight[0].numel(), generator=generator)
        b = 0.3 * torch.randn(len(weight), rank, generator=generator)
        made[name] = (a, b)
        if isinstance(parts[name], nn.Embedding):  # stored turned, as parameters without a module of their own
            stored = {"lora_embedding_A": b.T, "lora_embedding_B": a.T}
        elif isinstance(parts[name], nn.Conv2d):
            stored = {"lora_A.weight": a.view(rank, *weight.shape[1:]), "lora_B.weight": b.view(-1, rank, 1, 1)}
        else:
            stored = {"lora_A.weight": a, "lora_B.weight": b}
        tensors |= {f"base_model.model.{name}.{end}": value.contiguous() for end, value in stored.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t for n, t in tensors.items() if not drop or drop not in n}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "r": rank, **settings}))
    return made


@torch.no_grad()
def merge(model: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]], scale: float | Mapping[str, float]) -> None:
    """Add an adapter to the weights that it adapts."""
    parts = dict(model.named_modules())
    for name, (a, b) in factors.items():
        weight = parts[name].weight
        weight += (scale if isinstance(scale, float) else scale[name]) * (b @ a).view_as(weight)
