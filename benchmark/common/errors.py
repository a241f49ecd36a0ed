"""Errors that a user can mend. Everything else is a defect and keeps its traceback."""

from __future__ import annotations

import contextlib
import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

#: A record is JSON, where a larger one may lose its last digits.
LARGEST_SEED = 2**53


class UserError(Exception):
    """What failed, the value seen and the values allowed (`message`), and what to type or do next (`hint`)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class Missing(UserError):
    """Something that is not there at all, and so is neither damaged nor of another kind: it is yet to be fetched."""


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def line_in(path: Path, error: BaseException) -> str:
    """The innermost line of the file that an error passed through, or one that it came of; empty where it did not.

    E.g. `methods/mine.py, line 12, in combine`: of a method that raises, this is the line its author must look at.
    """
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        if own := [frame for frame in frames if Path(frame.filename).resolve() == path.resolve()]:
            return f"{path.parent.name}/{path.name}, line {own[-1].lineno}, in {own[-1].name}"
        cause = cause.__cause__ or cause.__context__
    return ""


def nearest(name: str, known: Iterable[str], count: int = 3, likeness: float = 0.6) -> list[str]:
    """Up to ``count`` of the known names that are like this one, whatever their case, the likest first.

    >>> nearest("symerg", ["ties", "SyMerge"])
    ['SyMerge']
    """
    by_lower = {each.lower(): each for each in known}
    return [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=likeness)]


def check_range(option: str, value: float | None, least: float, most: float, *, open_below: bool = False) -> None:
    """Raise :class:`UserError` for an option's number below ``least`` or above ``most``, or that is none.

    ``open_below``: ``least`` itself is refused too. None, an option that was not typed, passes.

    >>> check_range("--memory", float("nan"), 0, 100)
    Traceback (most recent call last):
    benchmark.common.errors.UserError: --memory is nan; a number from 0 to 100 is wanted
    """
    if value is None or (least <= value <= most and not (open_below and value == least)):
        return
    said = f"{value}" if isinstance(value, float) or abs(value) < 1 << 64 else "a number of many digits"
    wanted = f"above {least:g} and" if open_below else f"from {least:,}"
    raise UserError(f"{option} is {said}; a number {wanted} {'up ' * open_below}to {most:,} is wanted")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise :class:`UserError` for seeds that are not different whole numbers from 0 on."""
    if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) > LARGEST_SEED:
        said = " ".join(map(str, seeds)) if max(map(abs, seeds)) <= LARGEST_SEED else "a number of many digits"
        raise UserError(
            f"--seeds {said}: different whole numbers from 0 to {LARGEST_SEED:,} are wanted",
            "Type e.g. --seeds 0 1 2 3 4",
        )


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of the names, and how many more.

    >>> some(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def unknown(kind: str, word: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that does not exist, with the nearest that do.

    >>> unknown("method", "symerg", ["symerge", "ties"]).message
    "unknown method 'symerg'; did you mean symerge?"
    """
    names = list(allowed)
    message = f"unknown {kind} {word!r}"
    if near := nearest(word, names):
        message += f"; did you mean {' or '.join(near)}?"
    listed = f"known: {', '.join(names) if names else 'none'}"
    return UserError(message, f"{hint}\n  {listed}" if hint else listed)
