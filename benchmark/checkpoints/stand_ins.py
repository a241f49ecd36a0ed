"""What stands on an unpickler's stack in the place of a checkpoint's objects: nothing of it can be run or changed.

A module becomes an :class:`Inert` object that keeps its state, a tensor a :class:`TensorRef` that says where its bytes
lie, a function of PyTorch's one of this package's own (:class:`Function`).
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import torch

#: Of a tensor, as torch has them.
MOST_AXES = 64


class _Frozen:
    """An object on the unpickler's stack that no pickle can change: no attributes to set, no state to take."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"refused to set {name} of {type(self).__name__}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class StorageType(_Frozen):
    """``torch.FloatStorage`` and its like: a dtype."""

    __slots__ = ("dtype",)
    dtype: torch.dtype

    def __init__(self, dtype: torch.dtype) -> None:
        self._set("dtype", dtype)


class TensorType(_Frozen):
    """``torch.Tensor`` where a pickle says what a rebuilt tensor is: a name, which cannot be called."""

    __slots__ = ()


class Storage(_Frozen):
    """The bytes of one storage: ``numel`` values under ``key`` of the file, or already read (``data``)."""

    __slots__ = ("dtype", "key", "numel", "data")
    dtype: torch.dtype
    key: str
    numel: int
    data: bytes | None

    def __init__(self, dtype: torch.dtype, key: str, numel: int, data: bytes | None = None) -> None:
        for name, value in zip(self.__slots__, (dtype, key, numel, data), strict=True):
            self._set(name, value)


class TensorRef(_Frozen):
    """A view of a storage: ``size`` and ``stride`` from ``offset`` on, all in values."""

    __slots__ = ("storage", "offset", "size", "stride")
    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __init__(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        shaped = type(size) in (tuple, list) and type(stride) in (tuple, list) and len(size) == len(stride) <= MOST_AXES
        if not shaped or not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor whose size and stride are not of one length makes no sense")
        numbers = (offset, *size, *stride)
        if not all(type(n) is int and -(1 << 63) <= n < 1 << 63 for n in numbers):
            raise pickle.UnpicklingError("a tensor whose size, stride and offset are no numbers makes no sense")
        if min(numbers) < 0:
            raise pickle.UnpicklingError(f"a tensor of size {size}, stride {stride} and offset {offset} makes no sense")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if 0 not in size and last > storage.numel:
            raise pickle.UnpicklingError(f"a tensor of size {size} reaches past its storage of {storage.numel} values")
        for name, value in zip(self.__slots__, (storage, offset, tuple(size), tuple(stride)), strict=True):
            self._set(name, value)

    @property
    def bytes(self) -> int:
        """What it takes once it lies on its own, whatever it shares with others or with itself (a stride of 0)."""
        return math.prod(self.size) * self.storage.dtype.itemsize


class Function(_Frozen):
    """A callable of this file's own that stands for one of PyTorch's."""

    __slots__ = ("call",)
    call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        self._set("call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class Inert:
    """Stands for an object of a class that is not imported: what it was made of, and its state.

    The class itself cannot be given a state: unpickling calls ``__setstate__`` of it, which then lacks an argument.
    """

    __slots__ = ("arguments", "state")
    of: ClassVar[str] = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **keywords: Any) -> Inert:
        """Keeps the arguments; runs nothing."""
        stand_in = object.__new__(cls)
        stand_in.arguments, stand_in.state = arguments, {}
        return stand_in

    def __setstate__(self, state: Any) -> None:
        self.state = state
