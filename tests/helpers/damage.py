"""Damage for tests: bytes altered at random, and JSON whose parts are missing or of another kind."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD: tuple[Any, ...] = (None, True, -1, 0, 1 << 70, 1.5, "", "x", [], [1], {}, {"a": None})


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """``data`` with a bit, a byte, a block, its end or its order changed; never ``data`` itself."""
    while True:
        made = _altered(data, rng)
        if made != data:
            return made


def _altered(data: bytes, rng: random.Random) -> bytes:
    kind, at = rng.randrange(8), rng.randrange(len(data))
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 512)))
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([rng.choice((0, 1, 0x2E, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if kind == 4:
        return data[:at] + data[end:]
    if kind == 5:
        return data[:at] + data[at:end] * 2 + data[end:]
    if kind == 6:
        other = rng.randrange(len(data))
        return data[:at] + data[other : other + end - at] + data[end:]
    many = bytearray(data)
    for _ in range(rng.randrange(2, 12)):
        many[rng.randrange(len(many))] = rng.randrange(256)
    return bytes(many)


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a JSON value below its top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, part in inner for path in [(*prefix, key), *places(part, (*prefix, key))]]


def json_of(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """A copy of ``value`` with ``odd`` in the place of ``path``; without that part where ``odd`` is ``...``."""
    made = copy.deepcopy(value)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    if odd is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = odd
    return made
