"""What goes wrong with a merge, and the nearest name to one that is unknown."""

from __future__ import annotations

import difflib


class MergingError(ValueError):
    """A merge that cannot be done as asked. The message says what was found, what is allowed, and what to type."""


class NotApplicable(MergingError):
    """The method does not fit these experts (say, LoRA adapters are needed); the message says why in one line."""


class UnknownName(MergingError, KeyError):
    """No such method or keyword; the nearest names are offered."""

    def __str__(self) -> str:
        return str(self.args[0])


def nearest(kind: str, name: str, names: list[str], hint: str = "") -> UnknownName:
    """The error for an unknown ``name`` of this ``kind``, with the closest known names."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    offer = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(sorted(names)) or 'none'}."
    return UnknownName(f"unknown {kind} {name!r}. {offer}{' ' + hint if hint else ''}")


def some(names: set[str], most: int = 4) -> str:
    """The first of these names, and how many more there are."""
    shown = sorted(names)[:most]
    return (", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")) or "none"
