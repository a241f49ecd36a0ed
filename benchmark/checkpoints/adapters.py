"""LoRA adapters in files, and experts that are given by such files, by whole or packed fine-tunings, or by both.

A file holds `<module>.lora_A.weight [r, in]` and `<module>.lora_B.weight [out, r]`, and the factor of `B @ A` under
`lora_scale`, or under `<module>.lora_scale` where modules differ. `<module>` is the weight's name without `.weight`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark.checkpoints.families import regular, save_state
from methods.api import Experts
from methods.core.packed import open_state
from methods.core.states import LowRankState, StateFile

Adapters = dict[str, tuple[Tensor, Tensor, float]]
"""`{weight: (A [r, in], B [out, r], scale)}`."""
PARTS = ("lora_A.weight", "lora_B.weight")
SCALE = "lora_scale"


def adapter_tensors(adapters: Adapters) -> dict[str, Tensor]:
    """What a file of these adapters holds."""
    tensors: dict[str, Tensor] = {}
    scales = {scale for _, _, scale in adapters.values()}
    for name, (a, b, scale) in adapters.items():
        module = name.removesuffix(".weight")
        tensors[f"{module}.{PARTS[0]}"], tensors[f"{module}.{PARTS[1]}"] = a, b
        tensors[SCALE if len(scales) == 1 else f"{module}.{SCALE}"] = torch.tensor(scale, dtype=torch.float64)
    return tensors


def save_adapters(path: Path, adapters: Adapters, metadata: dict[str, str] | None = None) -> None:
    """Write the adapters of one expert in float16, atomically."""
    save_state(path, adapter_tensors(adapters), torch.float16, metadata)


def load_adapters(path: Path, base: Container[str] = ()) -> Adapters:
    """The adapters of a file, in float32. A name that `base` holds is a weight; of others `.weight` is."""
    regular(path, "Expected a file of factors")
    tensors = load_file(path)
    adapters = {}
    for module in (name.removesuffix(f".{PARTS[0]}") for name in tensors if name.endswith(f".{PARTS[0]}")):
        a, b = (tensors[f"{module}.{part}"].float() for part in PARTS)
        own = f"{module}.{SCALE}"
        scale = float(tensors[own if own in tensors else SCALE])
        adapters[module if module in base else f"{module}.weight"] = (a, b, scale)
    return adapters


def open_experts(base: Path, experts: Mapping[str, Path], **keywords: Any) -> Experts:
    """The experts of these files; `keywords` are those of `Experts`.

    Where all are adapters their factors can be merged as such (`Experts.lora`); beside whole fine-tunings they are task
    vectors `scale * B @ A`.
    """
    for path in (base, *experts.values()):
        regular(path, "Expected a safetensors file")
    first = StateFile(base)
    opened = {task: open_state(path, first) for task, path in experts.items()}
    tasks = [t for t, state in opened.items() if any(name.endswith(f".{PARTS[0]}") for name in state)]
    adapters = {task: load_adapters(experts[task], first) for task in tasks}
    if adapters and len(adapters) == len(experts):
        return Experts.from_lora(first, adapters, **keywords)
    states = {t: LowRankState(first, adapters[t]) if t in adapters else state for t, state in opened.items()}
    return Experts.from_state_dicts(first, states, **keywords)
