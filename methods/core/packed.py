"""Experts stored as their base and a task vector in few bits a weight.

Layout of the safetensors file, for a base of tensors ``NAME``::

    NAME          uint8 [bits * ceil(n / 8)]: the n codes in row order, eight codes to ``bits`` bytes, the first code in
                  the lowest bits of the first byte; the last group is filled up with zeros
    NAME.scale    float32 [rows]: the root mean square of each row of the task vector; ``NAME`` is cut into rows along
                  its first dimension, a tensor of one dimension is one row
    metadata      ``task-vector``: JSON with the number of ``bits``, the sha256 of the ``base``'s file, and more

The expert is *defined* as ``base[NAME] + scale * LEVELS[bits][code]`` in float32. The levels are those that a Gaussian
of deviation 1 is rounded to with the least squared error (Lloyd 1957, Max 1960).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.core.registry import MergingError
from methods.core.states import StateFile

FORMAT = "task-vector"
SCALE = ".scale"
GROUP = 8
#: The positive half of each symmetric set of levels, by bits (Max 1960, table I).
HALVES = {
    2: (0.4528, 1.510),
    3: (0.2451, 0.7560, 1.344, 2.152),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
}


def levels(bits: int) -> Tensor:
    """The ``2 ** bits`` levels in ascending order, float32. Raises :class:`MergingError` for another number of bits."""
    if bits not in HALVES:
        raise MergingError(f"task vectors in {bits} bits; known: {', '.join(map(str, HALVES))}")
    half = torch.tensor(HALVES[bits])
    return torch.cat([-half.flip(0), half])


def pack(base: Mapping[str, Tensor], expert: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The tensors of an expert's file; see the layout above. The metadata to go with them: :func:`metadata`."""
    steps = levels(bits)
    borders = (steps[1:] + steps[:-1]) / 2
    packed: dict[str, Tensor] = {}
    for name, start in base.items():
        rows = (expert[name].float() - start.float()).reshape(rows_of(start.shape), -1)
        scale = rows.square().mean(dim=1).sqrt()
        unit = rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        packed[name] = pack_codes(torch.bucketize(unit, borders).flatten(), bits)
        packed[name + SCALE] = scale
    return packed


def metadata(bits: int, base: str, **more: Any) -> dict[str, str]:
    """What tells the reader of a file that it holds a task vector; ``base`` is the sha256 of the base's file.

    It is one entry, since safetensors writes several in any order.
    """
    return {FORMAT: json.dumps({"bits": bits, "base": base, **more}, sort_keys=True)}


def described(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    """What the metadata of a file say of its task vector; ``None`` where it holds whole weights."""
    return json.loads(metadata[FORMAT]) if metadata and FORMAT in metadata else None


def rows_of(shape: tuple[int, ...] | torch.Size) -> int:
    """How many rows of their own scale a tensor of this shape has."""
    return shape[0] if len(shape) > 1 else 1


def layout(base: Mapping[str, tuple[int, ...]], bits: int) -> dict[str, tuple[int, ...]]:
    """The shapes of an expert's file over a base of these shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in base.items():
        shapes[name] = (bits * -(-math.prod(shape) // GROUP),)
        shapes[name + SCALE] = (rows_of(shape),)
    return shapes


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes ``[n]`` below ``2 ** bits`` as uint8 ``[bits * ceil(n / 8)]``."""
    groups = torch.zeros(-(-len(codes) // GROUP), GROUP, dtype=torch.int64)
    groups.view(-1)[: len(codes)] = codes
    words = (groups << bits * torch.arange(GROUP)).sum(dim=1)
    return (words[:, None] >> 8 * torch.arange(bits)).bitwise_and(255).to(torch.uint8).flatten()


def unpack_levels(packed: Tensor, bits: int, count: int) -> Tensor:
    """The levels of the first ``count`` codes, float32 ``[count]``.

    Half a group, four codes, is one index into a table of all combinations of four levels.
    """
    pieces = packed.view(-1, bits).to(torch.int32)
    words = pieces[:, 0].clone()
    for i in range(1, bits):
        words |= pieces[:, i] << 8 * i
    index = torch.stack([words, words >> 4 * bits], dim=1).bitwise_and_((1 << 4 * bits) - 1)
    return _quadruples(bits).index_select(0, index.flatten()).flatten()[:count]


@functools.lru_cache
def _quadruples(bits: int) -> Tensor:
    """The four levels behind every four codes, ``[2 ** (4 * bits), 4]``."""
    words = torch.arange(1 << 4 * bits)
    return levels(bits)[words[:, None] >> bits * torch.arange(4) & (1 << bits) - 1]


class PackedState(StateFile):
    """An expert's file over its base, as a lazy mapping: a tensor is unpacked when it is asked for, and not kept."""

    def __init__(self, path: str | Path, base: Mapping[str, Tensor]) -> None:
        super().__init__(path)
        self.base, self.bits = base, int(json.loads(self.metadata[FORMAT])["bits"])
        shapes = self.shapes
        self.shapes = dict(base.shapes) if isinstance(base, StateFile) else {n: tuple(t.shape) for n, t in base.items()}
        if shapes != layout(self.shapes, self.bits):
            raise MergingError(
                f"{self.path.name} holds a task vector of another base: its tensors do not fit in name or size. "
                "Restore it (git checkout, or make the expert again)."
            )
        self.floating = set(self.shapes)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        shape = self.shapes[name]
        scale = self._handle.get_tensor(name + SCALE)
        step = unpack_levels(self._handle.get_tensor(name), self.bits, math.prod(shape)).view(len(scale), -1)
        return step.mul_(scale[:, None]).view(shape).add_(self.base[name].to(step.device))


def open_state(path: str | Path, base: Mapping[str, Tensor]) -> StateFile:
    """A safetensors file of an expert, whole or as a task vector over ``base``."""
    state = StateFile(path)
    return PackedState(path, base) if FORMAT in state.metadata else state
