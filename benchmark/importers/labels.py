"""The order of a classifier's outputs: what its configuration names them, against the data's numbers of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.common.errors import UserError

_NUMBERED = re.compile(r"(?:label_?)?(\d+)")


@dataclass(frozen=True)
class Order:
    """Which output of a head is which class of the data.

    Attributes:
        rows: the output that predicts class 0, class 1, ... of the data.
        named: the names that the file gives its outputs, in their order; None where it gives none.
        assumed: whether the file says nothing of the order (no names, or numbers such as `LABEL_0`).
    """

    rows: tuple[int, ...]
    named: tuple[str, ...] | None
    assumed: bool

    @property
    def changed(self) -> bool:
        """Whether the outputs stand in another order than the data's classes."""
        return self.rows != tuple(range(len(self.rows)))


def order_of(config: Mapping[str, Any], classes: Sequence[str], path: Path) -> Order:
    """The order of outputs as `id2label` or `label2id` of a model's configuration gives it.

    Args:
        classes: the data's names, class 0 first. Names are compared without regard to case, spaces and hyphens.
        path: the configuration's file, for messages.

    Raises:
        UserError: names that are not the data's, that are fewer or more, or two tables that differ.
    """
    same = tuple(range(len(classes)))
    tables = [table for table in (_by_id(config, path), _by_name(config, path)) if table is not None]
    if wrong := [table for table in tables if len(table) != len(classes)]:
        raise UserError(
            f"{path} names {len(wrong[0])} classes ({', '.join(wrong[0])}), the task has {len(classes)}",
            _mend(path, classes),
        )
    telling = [table for table in tables if not _numbers(table)]
    if not telling:
        return Order(same, tuple(tables[0]) if tables else None, True)
    named = telling[0]
    if telling[-1] != named:
        raise UserError(
            f"{path}: id2label says {', '.join(named)}, label2id {', '.join(telling[-1])}", _mend(path, classes)
        )
    plain, wanted = [_plain(name) for name in named], [_plain(name) for name in classes]
    if sorted(plain) != sorted(wanted):
        raise UserError(
            f"{path} names the outputs {', '.join(named)}; the data's classes are {', '.join(classes)}",
            _mend(path, classes),
        )
    return Order(tuple(plain.index(name) for name in wanted), tuple(named), False)


def _numbers(table: Sequence[str]) -> bool:
    """Whether the names only count the outputs: `LABEL_0`, `LABEL_1`, ... or `0`, `1`, ..."""
    matches = [_NUMBERED.fullmatch(_plain(name)) for name in table]
    return [int(match[1]) for match in matches if match] == list(range(len(table)))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _by_id(config: Mapping[str, Any], path: Path) -> list[str] | None:
    table = config.get("id2label")
    if not table:
        return None
    pairs = list(table.items()) if isinstance(table, Mapping) else []
    return _ordered([(number, name) for number, name in pairs], "id2label", path)


def _by_name(config: Mapping[str, Any], path: Path) -> list[str] | None:
    table = config.get("label2id")
    if not table:
        return None
    pairs = list(table.items()) if isinstance(table, Mapping) else []
    return _ordered([(number, name) for name, number in pairs], "label2id", path)


def _ordered(pairs: Sequence[tuple[Any, Any]], key: str, path: Path) -> list[str]:
    """The names by number. Raises :class:`UserError` unless the numbers are 0, 1, ... each once."""
    names = {int(n): name for n, name in pairs if re.fullmatch(r"\d{1,4}", str(n)) and isinstance(name, str)}
    if not pairs or len(names) != len(pairs) or sorted(names) != list(range(len(pairs))):
        raise UserError(
            f"{path}: {key} does not number its names 0, 1, ..., each once",
            'Write {"0": "NAME", ...} in the order of the head\'s outputs, or leave id2label and label2id out.',
        )
    return [names[number] for number in range(len(names))]


def _mend(path: Path, classes: Sequence[str]) -> str:
    return (
        f"Is it the expert of another task? If not, write in {path.name}, in the order of the head's outputs, "
        f"id2label with the data's names ({', '.join(classes)}), and leave label2id out."
    )
