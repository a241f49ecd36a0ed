"""What of a user's data cannot be used, and how it is said: everything in one message, each by its name."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.common.errors import UserError

# A run's message names no more; a check's names all.
MOST_IN_A_RUN = 1000


class Damage(Exception):
    """Why a sample, or the rest of a file, cannot be used."""


def message(place: str, lines: Sequence[str], what: str = "sample", most: int | None = None) -> str:
    """``lines``, one a damaged ``what``, below a first one that counts them; ``most``: of them, and how many more."""
    said = list(lines[:most])
    if len(lines) > len(said):
        said.append(f"and {len(lines) - len(said):,} more")
    return "\n    ".join([f"{place}: {len(lines):,} damaged {what}{'s' if len(lines) > 1 else ''}", *said])


def error(place: str, lines: Sequence[str], hint: str, what: str = "sample") -> UserError:
    """The error of a run that met damage."""
    return UserError(message(place, lines, what, MOST_IN_A_RUN), hint)
