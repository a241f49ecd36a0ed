"""Experts as a method's process is handed them: the skeleton with its start, every tensor as a place in a file.

Files that are there already stay where they are; what lies in memory is written to safetensors files once. Nothing is
unpickled from a file.
"""

from __future__ import annotations

import copy
import copyreg
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.checkpoints.models import LazyState
from benchmark.checkpoints.views import FileView, place_of
from methods.api import Experts
from methods.core.packed import PackedState
from methods.core.states import LowRankState, StateFile

#: What an :class:`Experts` works out of itself and keeps.
KEPT = ("_known", "_modules", "_tied", "_unmerged")


def _file(state: StateFile) -> tuple[type[StateFile], tuple[Path]]:
    return StateFile, (state.path.absolute(),)


def _packed(state: PackedState) -> tuple[type[PackedState], tuple[Path, Mapping[str, Tensor]]]:
    return PackedState, (state.path.absolute(), state.base)


# A state dict in a file is that file, whoever writes it down.
copyreg.pickle(StateFile, _file)
copyreg.pickle(PackedState, _packed)


@dataclass(eq=False)
class Stored:
    """In place of a tensor; in the other process it is that tensor, mapped from its file."""

    path: Path
    name: str
    dtype: torch.dtype
    trained: bool | None = None
    """Of a parameter whether it requires a gradient; None: no parameter."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, (self.path, self.name, self.dtype, self.trained)


def _mapped(path: Path, name: str, dtype: torch.dtype, trained: bool | None) -> Tensor:
    value = _opened(path)[name].to(dtype)
    return value if trained is None else nn.Parameter(value, trained)


@functools.lru_cache
def _opened(path: Path) -> StateFile:
    return StateFile(path)


class Folder:
    """Where tensors that lie in memory are written; a tensor with several names once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def write(self, tensors: Mapping[str, Tensor]) -> Path:
        """A new file with these tensors."""
        self.count += 1
        path = self.folder / f"experts-{self.count}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
        return path

    def state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict that is in a file, or of adapters that are."""
        if isinstance(state, LazyState):
            return FileView.of(state) or StateFile(self.write(state))
        if isinstance(state, StateFile):
            return state
        if isinstance(state, LowRankState):
            return LowRankState(self.state(state.base), self.adapters(state.adapters))
        return StateFile(self.write(state))

    def adapters(self, adapters: Mapping[str, tuple[Tensor, Tensor, float]]) -> dict[str, Any]:
        """Adapters whose factors are in a file."""
        factors = {f"0/{n}": a for n, (a, _, _) in adapters.items()} | {
            f"1/{n}": b for n, (_, b, _) in adapters.items()
        }
        path = self.write(factors)
        return {
            n: (Stored(path, f"0/{n}", a.dtype), Stored(path, f"1/{n}", b.dtype), scale)
            for n, (a, b, scale) in adapters.items()
        }

    def module(self, module: nn.Module, base: StateFile | None = None) -> nn.Module:
        """A copy whose tensors are in a file, those that the base has in its own. What is one tensor stays one."""
        own: dict[str, Tensor] = {}
        places: dict[int, object] = {}
        path = self.folder / f"experts-{self.count + 1}.safetensors"
        for name, tensor in (
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ):
            trained = tensor.requires_grad if isinstance(tensor, nn.Parameter) else None
            if base is not None and name in base:
                places[id(tensor)] = Stored(*place_of(base, name), tensor.dtype, trained)
            elif id(tensor) not in places:
                own[name] = tensor
                places[id(tensor)] = Stored(path, name, tensor.dtype, trained)
        if own:
            self.write(own)
        return copy.deepcopy(module, places)


def pack(experts: Experts, folder: Path) -> Experts:
    """The experts without a tensor in memory, to be handed to another process. Writes to the folder what was in it."""
    files, light = Folder(folder), copy.copy(experts)
    for name in KEPT:
        light.__dict__.pop(name, None)
    light._checked, light.device = set(), torch.device("cpu")
    base = files.state(experts.base)
    assert isinstance(base, StateFile)
    light.base = base
    light._experts = {task: _over(files, state, experts, base) for task, state in experts._experts.items()}
    if experts._lora is not None:
        states = light._experts
        light._lora = {task: state.adapters for task, state in states.items() if isinstance(state, LowRankState)}
    if experts.encoder is not None:
        light.encoder = files.module(experts.encoder, base)
    light.heads = {task: files.module(head) for task, head in experts.heads.items()}
    return light


def _over(files: Folder, state: Mapping[str, Tensor], experts: Experts, base: StateFile) -> Mapping[str, Tensor]:
    """An expert's state; one of adapters, or of a task vector, over the experts' own base shares that."""
    if isinstance(state, LowRankState) and state.base is experts.base:
        return LowRankState(base, files.adapters(state.adapters))
    if isinstance(state, PackedState) and state.base is experts.base:
        return PackedState(state.path, base)
    return files.state(state)


def placed(experts: Experts, device: torch.device) -> Experts:
    """What :func:`pack` made, in the process that was handed it, on the device."""
    experts.device = device
    if experts.encoder is not None:
        experts.encoder.to(device)
    experts.heads = {task: head.to(device) for task, head in experts.heads.items()}
    return experts
