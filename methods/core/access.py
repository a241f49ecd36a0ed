"""The data that a method is handed: for each split none, its inputs, or its labels too."""

from __future__ import annotations

from dataclasses import dataclass

from methods.core.errors import MergingError

LABELLED = "labelled"
UNLABELLED = "unlabelled"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Access:
    """The data a method is handed: for each split ``LABELLED``, ``UNLABELLED`` or ``None``."""

    train: str | None = None
    val: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        for split, level in self.items():
            if level not in (LABELLED, UNLABELLED):
                raise MergingError(f"access to {split} is {level!r}; allowed: {LABELLED!r}, {UNLABELLED!r} or None")

    def items(self) -> list[tuple[str, str]]:
        """The granted ``(split, level)`` pairs, in the order train, val, test."""
        return [(s, getattr(self, s)) for s in SPLITS if getattr(self, s) is not None]

    def __bool__(self) -> bool:
        return bool(self.items())

    def __or__(self, other: Access) -> Access:
        """The higher of two levels, split by split."""
        rank = {None: 0, UNLABELLED: 1, LABELLED: 2}
        return Access(**{s: max(getattr(self, s), getattr(other, s), key=rank.__getitem__) for s in SPLITS})

    def labelled(self, split: str) -> bool:
        """Whether the labels of a split are handed out."""
        return getattr(self, split) == LABELLED

    @property
    def level(self) -> str | None:
        """The highest level of all splits."""
        levels = {level for _, level in self.items()}
        return LABELLED if LABELLED in levels else UNLABELLED if levels else None

    def describe(self) -> str:
        """``"unlabelled test"``, ``"labelled val + unlabelled test"`` or ``"none"``."""
        return " + ".join(f"{level} {split}" for split, level in self.items()) or "none"
