"""What the harness and a method's process say to each other: JSON and the bytes of tensors; nothing is unpickled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

#: Bytes of a message without its tensors.
HEAD = 1 << 20
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip


class BrokenMessage(Exception):
    """What came is no message of this form, or larger than there is room for."""


@dataclass(frozen=True)
class Message:
    """A word, plain values, and tensors, alone or in dictionaries and lists."""

    kind: str
    fields: Mapping[str, Any]
    tree: Any = None

    def __getitem__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise BrokenMessage(f"{self.kind} came without {name}") from None


class Channel:
    """Messages over a connection of two processes. ``EOFError`` and ``OSError`` where the other one is gone."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, kind: str, tree: Any = None, **fields: Any) -> None:
        """Send a message; ``tree`` holds tensors of any device."""
        buffers: list[memoryview] = []
        head = {"kind": kind, "fields": fields, "tree": _described(tree, buffers)}
        self.connection.send_bytes(json.dumps(head).encode("ascii"))
        for buffer in buffers:
            self.connection.send_bytes(buffer)

    def receive(self, room: float = math.inf) -> Message:
        """The next message. Raises :class:`BrokenMessage` where its tensors take more than ``room`` bytes."""
        try:
            head = json.loads(self.connection.recv_bytes(HEAD))
            kind, fields, tree = head["kind"], head["fields"], head["tree"]
            if not isinstance(kind, str) or not isinstance(fields, dict):
                raise TypeError("a message is a word and named values")
            leaves: list[tuple[torch.dtype, list[int]]] = []
            form = _form(tree, leaves)
            sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in leaves]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BrokenMessage(f"what came is no message: {type(error).__name__}: {error}") from None
        if sum(sizes) > room:
            raise BrokenMessage(f"{kind} has tensors of {sum(sizes):,} bytes; expected at most {int(room):,}")
        tensors = [self._tensor(size, *leaf) for size, leaf in zip(sizes, leaves, strict=True)]
        return Message(kind, fields, form(iter(tensors)))

    def _tensor(self, size: int, dtype: torch.dtype, shape: list[int]) -> Tensor:
        if not size:
            return torch.empty(shape, dtype=dtype)
        data = self.connection.recv_bytes(size)
        if len(data) != size:
            raise BrokenMessage(f"a tensor came with {len(data):,} bytes; expected {size:,}")
        return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


def _described(tree: Any, buffers: list[memoryview]) -> Any:
    """The form of ``tree`` as JSON; the bytes of its tensors are added to ``buffers``."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        flat = tree.detach().cpu().contiguous().view(-1)
        if flat.numel():
            buffers.append(flat.view(torch.uint8).numpy().data)
        return {"dtype": str(tree.dtype).removeprefix("torch."), "shape": list(tree.shape)}
    if isinstance(tree, Mapping):
        return {"named": [[str(name), _described(value, buffers)] for name, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"listed": [_described(value, buffers) for value in tree]}
    raise TypeError(f"a message carries tensors, in dictionaries and lists, and no {type(tree).__name__}")


def _form(described: Any, leaves: list[tuple[torch.dtype, list[int]]]) -> Any:
    """What puts tensors, in order, in the place of the ``leaves`` that are gathered here."""
    if described is None:
        return lambda tensors: None
    if "named" in described:
        parts = [(str(name), _form(value, leaves)) for name, value in described["named"]]
        return lambda tensors: {name: part(tensors) for name, part in parts}
    if "listed" in described:
        listed = [_form(value, leaves) for value in described["listed"]]
        return lambda tensors: [part(tensors) for part in listed]
    shape = described["shape"]
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"a shape of {shape}")
    leaves.append((DTYPES[described["dtype"]], shape))
    return next
