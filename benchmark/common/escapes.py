"""What others wrote (names, notes, messages of a record) is data: how it is written so that it stays that.

One function for each output: :func:`terminal` for what is printed, :func:`inline` and :func:`code` for Markdown (tables
in ``common/tables.py`` do it themselves), :func:`csv` for spreadsheets. Pages of HTML are escaped by Jinja.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class Markup(str):
    """Markdown that this project wrote itself: a link, a span of code. It is not escaped again."""


def terminal(text: str, *, lines: bool = False) -> str:
    r"""The text with what moves a cursor, colours, rings, or turns the direction of reading written out.

    Args:
        lines: line breaks stay, for what is printed as a whole, such as an error with its hint.

    >>> terminal("ties\x1b[31m 99\n")
    'ties\\x1b[31m 99\\n'
    """
    if text.isprintable():
        return text
    return "".join(char if _is_plain(char) or (lines and char == "\n") else _written(char) for char in text)


def printable(value: object, longest: int = 2000) -> str:
    """The text of anything, an error among others, for a terminal, its lines kept.

    What is longer than ``longest`` is cut, and says so; what has no text says of what class it is.
    """
    try:
        text = str(value)
    except BaseException as error:
        text = f"({type(value).__name__}, whose text fails with {type(error).__name__})"
    size = len(text)
    if size > longest:
        text = f"{text[:longest]} ... ({size:,} characters)"
    return terminal(text, lines=True)


def _is_plain(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _written(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def inline(text: str) -> str:
    r"""The text as one piece of a line of Markdown or a cell of its tables: no HTML, no link, no further cell or line.

    >>> inline("a|b <b>[x](y)")
    'a\\|b &lt;b>[x]\\(y)'
    """
    if isinstance(text, Markup):
        return text
    text = terminal(text.replace("\\", "\\\\")) if "\\" in text else terminal(text)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def code(text: str) -> Markup:
    r"""The text as a span of code of Markdown, outside of tables.

    >>> code("run `x`")
    "`run 'x'`"
    """
    return Markup(f"`{terminal(text).replace('`', chr(39))}`")


#: What a spreadsheet takes for a formula, at the start of a cell.
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)", re.IGNORECASE)


def cell(value: Any) -> Any:
    """A value for a cell of CSV: text that a spreadsheet would run as a formula is marked as text by an apostrophe.

    >>> [cell(each) for each in ("=1+1", "-0.5", -0.5, "@x", "ties")]
    ["'=1+1", '-0.5', -0.5, "'@x", 'ties']
    """
    if not isinstance(value, str):
        return value
    text = terminal(value)
    start = text.lstrip()
    return f"'{text}" if _FORMULA.match(start or text) and not _NUMBER.fullmatch(text.strip()) else text


def csv(frame: pd.DataFrame) -> str:
    """The frame as CSV, full precision, without its index; see :func:`cell` for its texts and its columns' names."""
    import numpy as np

    safe = frame.rename(columns=cell)
    for place, kind in enumerate(frame.dtypes):
        if kind.kind not in "biufcmM":
            texts = np.empty(len(frame), dtype=object)
            texts[:] = [cell(value) for value in frame.iloc[:, place]]
            safe.isetitem(place, texts)
    return safe.to_csv(index=False)
