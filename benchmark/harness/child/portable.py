"""Experts as a file that a method's process reads: weights stay where they are and are mapped again."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.common.files import replacing
from methods.api import Experts
from methods.core.packed import PackedState
from methods.core.states import StateFile

#: What an :class:`Experts` works out of itself and keeps.
KEPT = ("_known", "_modules", "_tied", "_unmerged")


def _file(state: StateFile) -> tuple[type[StateFile], tuple[Path]]:
    return StateFile, (state.path.absolute(),)


def _packed(state: PackedState) -> tuple[type[PackedState], tuple[Path, Mapping[str, Tensor]]]:
    return PackedState, (state.path.absolute(), state.base)


# A state dict in a file is that file, whoever writes it down.
copyreg.pickle(StateFile, _file)
copyreg.pickle(PackedState, _packed)


def pack(experts: Experts, path: Path) -> None:
    """Write the experts to a new file: paths of files, and tensors where they lie in memory.

    Of the encoder the tensors that the base has are left out; they are the base's once it is read.
    """
    light = copy.copy(experts)
    for name in KEPT:
        light.__dict__.pop(name, None)
    light._checked, light.device = set(), torch.device("cpu")
    if experts.encoder is not None:
        light.encoder = _copy(experts.encoder, left_out=set(experts.base))
    light.heads = {task: _copy(head) for task, head in experts.heads.items()}
    with replacing(path) as unfinished:
        torch.save(light, unfinished)
        unfinished.chmod(0o400)


def unpack(path: Path, device: torch.device) -> Experts:
    """What :func:`pack` wrote; tensors are mapped, and written to by nobody else."""
    # The harness wrote this file itself, a moment ago, where only this user may write.
    experts: Experts = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    experts.device = device
    if experts.encoder is not None:
        _fill(experts.encoder, experts)
        experts.encoder.to(device)
    experts.heads = {task: head.to(device) for task, head in experts.heads.items()}
    return experts


def _copy(module: nn.Module, left_out: set[str] = frozenset()) -> nn.Module:  # type: ignore[assignment]
    """A copy on the CPU, whose tensors of these names hold nothing; what is one tensor stays one."""
    memo: dict[int, object] = {}
    for name, tensor in _tensors(module):
        value = torch.empty_like(tensor, device="meta") if name in left_out else tensor.detach().cpu()
        if id(tensor) not in memo or name in left_out:
            memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if _is_parameter(tensor) else value
    return copy.deepcopy(module, memo)


def _fill(encoder: nn.Module, experts: Experts) -> None:
    """The base's tensors in the place of those that hold nothing."""
    whole: dict[int, Tensor] = {}
    for name, tensor in _tensors(encoder):
        if tensor.is_meta and name in experts.base and id(tensor) not in whole:
            value = experts.base[name].to(tensor.dtype)
            whole[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if _is_parameter(tensor) else value
    for part in encoder.modules():
        for store in (part._parameters, part._buffers):
            for name in store:
                if id(store[name]) in whole:
                    store[name] = whole[id(store[name])]  # type: ignore[assignment]


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)
