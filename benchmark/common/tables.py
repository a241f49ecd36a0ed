"""Tables in Markdown, written in one place: cells are data, see :func:`benchmark.common.escapes.inline`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmark.common.escapes import inline

#: The rule under a heading, by alignment: words to the left, numbers to the right.
RULES = {"<": "---", ">": "---:"}


def line(cells: Iterable[str]) -> str:
    """One line of a table; an empty cell is one space.

    >>> line(["ties", "81.2", ""])
    '| ties | 81.2 | |'
    """
    return f"|{'|'.join(f' {inline(cell)} ' if cell else ' ' for cell in cells)}|"


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> list[str]:
    """The lines of a table: heading, rule and rows.

    Args:
        alignment: a character a column, ``<`` for words and ``>`` for numbers.

    >>> markdown(["method", "score"], [["ties", "81.2"]], "<>")
    ['| method | score |', '|---|---:|', '| ties | 81.2 |']
    """
    return [line(heading), f"|{'|'.join(RULES[each] for each in alignment)}|", *(line(row) for row in rows)]


def padded(heading: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> list[str]:
    """The same with every column as wide as its longest cell, so that it reads well as text too.

    >>> padded(["method", "score"], [["ties", "81.2"]], "<>")
    ['| method | score |', '| ------ | ----: |', '| ties   |  81.2 |']
    """
    cells = [[inline(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(heading))]
    rule = ["-" * (width - 1) + (":" if align == ">" else "-") for width, align in zip(widths, alignment, strict=True)]
    return [
        f"| {' | '.join(f'{cell:{align}{width}}' for cell, align, width in zip(row, alignment, widths, strict=True))} |"
        for row in [cells[0], rule, *cells[1:]]
    ]
