"""Where a tensor stands in its encoder: numbered blocks and their parts, found from names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_NUMBERED = re.compile(r"^(.*?\b(?:resblocks|layers?|blocks?|stages?|h))(\d*)\.(\d+)\.(.+)$")
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Place(NamedTuple):
    """``tower`` holds the blocks, ``number`` counts them (two numbers in ``layer2.3``), ``rest`` is the name within."""

    tower: str
    number: tuple[int, int]
    rest: str


def block_of(name: str) -> Place | None:
    """The numbered block of a tensor (``...resblocks.3.mlp.c_fc.weight``); ``None`` outside such blocks."""
    match = _NUMBERED.match(name)
    return Place(match[1], (int(match[2] or 0), int(match[3])), match[4]) if match else None


def last_block(names: Sequence[str]) -> tuple[str, ...]:
    """The tensors of the highest-numbered block (``...resblocks.11...``, ``layer4.2...``); empty without such."""
    places = {n: at for n in names if (at := block_of(n)) is not None}
    if not places:
        return ()
    top = max((at.tower, at.number) for at in places.values())
    return tuple(n for n, at in places.items() if (at.tower, at.number) == top)


def depths(names: Sequence[str]) -> dict[str, float]:
    """``l / (L - 1)`` of every tensor in a numbered block: 0 in the first of its tower's L blocks, 1 in the last."""
    places = {n: p for n in names if (p := block_of(n)) is not None}
    towers = {p.tower for p in places.values()}
    order = {t: sorted({p.number for p in places.values() if p.tower == t}) for t in towers}
    return {n: order[p.tower].index(p.number) / max(1, len(order[p.tower]) - 1) for n, p in places.items()}


def parts(names: Sequence[str]) -> dict[str, list[str]]:
    """Tensors grouped by part, last part of the encoder first.

    In a numbered block a part is the next component of the name (``resblocks.3.attn``), with its number where one
    follows (``block.3.layer.1``); outside it is a module (``ln_post``) or a tensor by itself (``class_embedding``).
    """
    groups: dict[str, list[str]] = {}
    for name in reversed(names):
        groups.setdefault(_part(name), []).append(name)
    return {part: group[::-1] for part, group in groups.items()}


def _part(name: str) -> str:
    at = block_of(name)
    if at is None:
        module, _, leaf = name.rpartition(".")
        return module if module and leaf in _LEAVES else name
    head, _, tail = at.rest.partition(".")
    number = tail.partition(".")[0]
    return name.removesuffix(at.rest) + (f"{head}.{number}" if number.isdigit() else head)
