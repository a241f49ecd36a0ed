"""Every row of a board against every other: differences on the same samples, and tasks won."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.scores import statistics as stats

BETTER, WORSE, TIED, UNKNOWN = "+", "−", "=", ""
#: Of the table of all pairs.
PAIRS = ["first", "second", "difference", "low", "high", "verdict", "tasks_won", "tasks_lost"]


@dataclass(frozen=True)
class Versus:
    """Rows in the order of the board: `value[i, j]` is row i minus row j in points, `half` the half width of its 95 %
    interval (nan where samples are not kept), `won[i, j]` the tasks on which i scores better than j.
    """

    value: np.ndarray
    half: np.ndarray
    won: np.ndarray

    def verdict(self, i: int, j: int) -> str:
        """`+` where row i is surely better than row j, `−` where surely worse, `=` where tied; empty if not known."""
        if i == j or np.isnan(self.half[i, j]):
            return UNKNOWN
        if abs(self.value[i, j]) <= self.half[i, j]:
            return TIED
        return BETTER if self.value[i, j] > 0 else WORSE


def versus(
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[int | None, stats.Scores] | None],
    higher: Mapping[str, bool],
    exact: Collection[str],
) -> Versus:
    """The pairs of a board's rows; `samples[i]` is what `stats.pairwise` takes of row i, None where it has none."""
    n = len(rows)
    value, half = np.full((n, n), np.nan), np.full((n, n), np.nan)
    known = [place for place, each in enumerate(samples) if each]
    if known:
        pairs = stats.pairwise([each for each in samples if each])
        value[np.ix_(known, known)], half[np.ix_(known, known)] = pairs.value, pairs.half
    level = stats.levels(rows, higher, exact)
    won = (level[:, None] > level[None]).sum(axis=2) if n else np.zeros((0, 0), dtype=int)
    return Versus(value, half, won)


def wins(frame: pd.DataFrame, against: Versus, places: Sequence[int]) -> list[list[str]]:
    """Cells of a square table of the rows at these places: a name, then a verdict against each of them."""
    names = frame["method"].tolist()
    return [[names[i], *(against.verdict(i, j) or ("·" if i == j else "–") for j in places)] for i in places]


def pairs(frame: pd.DataFrame, against: Versus) -> pd.DataFrame:
    """A line for each ordered pair of rows, with PAIRS."""
    names, words = frame["method"].tolist(), {BETTER: "better", WORSE: "worse", TIED: "tied", UNKNOWN: ""}
    lines = [
        {
            "first": names[i],
            "second": names[j],
            "difference": against.value[i, j],
            "low": against.value[i, j] - against.half[i, j],
            "high": against.value[i, j] + against.half[i, j],
            "verdict": words[against.verdict(i, j)],
            "tasks_won": against.won[i, j],
            "tasks_lost": against.won[j, i],
        }
        for i in range(len(names))
        for j in range(len(names))
        if i != j
    ]
    return pd.DataFrame(lines, columns=PAIRS)
