"""Texts that hold computed numbers, compared as numbers: their last digits depend on the processor."""

from __future__ import annotations

import re

NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d+\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?!\.?\d)")
#: Digits behind the point up to which a number was rounded to be read; with more it is a float as it is.
ROUNDED = 6
CLOSE = 1e-9


def assert_same_but_for_rounding(made: str, stored: str, hint: str) -> None:
    """The same words, and the same numbers: rounded ones to one unit of their last digit, others to 1e-9.

    Whole numbers are words; so is how far a column is padded.
    """
    words, theirs = (re.sub(r"[ -]{2,}", " ", NUMBER.sub("#", text)) for text in (made, stored))
    if words != theirs:
        lines = zip(words.splitlines(), theirs.splitlines(), strict=False)
        first = next((pair for pair in lines if pair[0] != pair[1]), ("more or fewer lines", ""))
        start = max(0, next((i for i, (a, b) in enumerate(zip(*first, strict=False)) if a != b), 0) - 80)
        one, other = (text[start : start + 240] for text in first)
        raise AssertionError(f"{one!r} is not {other!r}; {hint}") from None
    for one, other in zip(NUMBER.findall(made), NUMBER.findall(stored), strict=True):
        same = one == other or abs(value(one) - value(other)) <= allowed(one, other)
        assert same, f"{one} is not {other}; {hint}"


def value(text: str) -> float:
    """The number of a text, whose minus may be the typographer's."""
    return float(text.replace("\u2212", "-"))


def allowed(*texts: str) -> float:
    """How far apart two texts of one number may be."""
    digits = max(99 if "e" in text.lower() else len(text.partition(".")[2]) for text in texts)
    if digits <= ROUNDED:
        return 1.01 * 10.0**-digits
    return CLOSE * max(1.0, *(abs(value(text)) for text in texts))
