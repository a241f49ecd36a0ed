"""The data behind a run as its record says it, written and read here alone.

A part is ``LEVEL SPLIT``, or ``LEVEL SHARE of SPLIT`` where a study hands a method less than a split. What a suite
hands every row alike says what for in brackets, ``unlabelled train (statistics)``, and is no access of the method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from methods.core.access import LABELLED, SPLITS, UNLABELLED, Access

NONE = "none"
_JOINT = " + "


def parts(access: Access, reads: Mapping[str, str], protocol: Iterable[str] = ()) -> list[str]:
    """What a record says of a method's access.

    Args:
        reads: the data that stands for a split, such as ``{"test": "10 % of test"}``; others stand for themselves.
        protocol: what the suite hands every row.
    """
    return [*(f"{level} {reads.get(split, split)}" for split, level in access.items()), *protocol]


def text(said: Iterable[str]) -> str:
    """The parts as one cell of a table."""
    return _JOINT.join(said) or NONE


def own(said: str | Iterable[str]) -> list[str]:
    """The parts, or those of a cell, that are the method's, without what its suite hands every row."""
    return [part for part in _split(said) if not part.endswith(")")]


def protocol(said: str | Iterable[str]) -> list[str]:
    """The others: what the suite hands every row."""
    return [part for part in _split(said) if part.endswith(")")]


def read(said: str | Iterable[str]) -> Access:
    """The access of the method that a record's parts, or a cell, tell of; a share of a split counts as the split."""
    access = Access()
    for part in own(said):
        level, _, what = part.partition(" ")
        split = what.rpartition(" ")[2]
        if level in (LABELLED, UNLABELLED) and split in SPLITS:
            access = access | Access(**{split: level})
    return access


def _split(said: str | Iterable[str]) -> list[str]:
    if isinstance(said, str):
        said = said.split(_JOINT)
    return [part for part in said if part != NONE]
