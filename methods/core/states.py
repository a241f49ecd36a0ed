"""State dicts that are read lazily: files, a base with adapters, and an expert whose task vector is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from methods.core.errors import MergingError

if TYPE_CHECKING:
    from methods.core.experts import Experts

#: Another task vector ``[*shape]`` of a tensor's name, the task, and its task vector.
Edit = Callable[[str, str, Tensor], Tensor]


class StateFile(Mapping[str, Tensor]):
    """A safetensors file as a lazy mapping: a tensor is mapped from disk when it is asked for, and not kept."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._handle = safe_open(str(self.path), "pt")
            slices = {n: self._handle.get_slice(n) for n in self._handle.keys()}
        except (OSError, SafetensorError) as error:
            raise MergingError(
                f"cannot read {self.path.name}: {error}; expected a whole safetensors file. "
                "Restore it (git checkout, or import the checkpoint again)."
            ) from None
        self.shapes = {n: tuple(s.get_shape()) for n, s in slices.items()}
        self.floating = {n for n, s in slices.items() if s.get_dtype().startswith(("F", "BF"))}
        self.metadata: dict[str, str] = dict(self._handle.metadata() or {})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self._handle.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class LowRankState(Mapping[str, Tensor]):
    """An expert given by adapters: ``base[name] + scale * B @ A`` where an adapter exists, the base elsewhere."""

    def __init__(self, base: Mapping[str, Tensor], adapters: Mapping[str, tuple[Tensor, Tensor, float]]) -> None:
        self.base, self.adapters = base, dict(adapters)

    def __getitem__(self, name: str) -> Tensor:
        value = self.base[name]
        if name not in self.adapters:
            return value
        a, b, scale = self.adapters[name]
        return (value.float() + scale * (b.float() @ a.float()).reshape(value.shape)).to(torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


class EditedState(Mapping[str, Tensor]):
    """An expert whose task vector is replaced as it is read: ``base[name] + edit(name, task, task vector)``."""

    def __init__(self, experts: Experts, task: str, edit: Edit) -> None:
        self.experts, self.task, self.edit = experts, task, edit

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.experts.names:
            return self.experts.expert(self.task)[name]
        base = self.experts.base_tensor(name)
        return base + self.edit(name, self.task, self.experts.task_vector(name, self.task, base))

    def __iter__(self) -> Iterator[str]:
        return iter(self.experts.base)

    def __len__(self) -> int:
        return len(self.experts.base)


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor; of a file without reading it."""
    if isinstance(state, StateFile):
        return state.shapes
    return {n: tuple(t.shape) for n, t in state.items()}


def number_of(shape: tuple[int, ...]) -> int:
    """How many entries a tensor of this shape has."""
    total = 1
    for size in shape:
        total *= size
    return total


def is_floating(state: Mapping[str, Tensor], name: str) -> bool:
    """Whether a tensor holds floating numbers; of a file without reading it."""
    if isinstance(state, LowRankState):
        state = state.base
    if isinstance(state, StateFile):
        return name in state.floating
    return state[name].is_floating_point()


def not_finite(value: Tensor) -> int:
    """How many entries are NaN or Inf. Read once where all are finite; a sum that overflows is looked at by entry."""
    # In another precision the sum would copy the tensor.
    return 0 if torch.isfinite(value.sum()) else int((~torch.isfinite(value)).sum())
