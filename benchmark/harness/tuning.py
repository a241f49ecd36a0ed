"""Coefficients chosen on a labelled validation split, in one place for all methods.

As the literature does it: the value of the paper's grid with the highest mean expert-normalised score; the first of
equals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import methods
from benchmark.common.errors import UserError
from benchmark.harness import apart
from benchmark.harness.job import Job
from benchmark.harness.judging import judged
from benchmark.harness.setup import Setup
from benchmark.records.spec import REFERENCE_ROWS


@dataclass(frozen=True)
class Choice:
    """The chosen value, and the validation score of every value tried."""

    key: str
    value: float
    scores: dict[float, float]

    @property
    def edge(self) -> str | None:
        """``"first"`` or ``"last"`` where the chosen value ends the grid: a better one may lie beyond."""
        ends = dict(zip(("first", "last"), (min(self.scores), max(self.scores)), strict=True))
        return next((end for end, value in ends.items() if value == self.value and len(self.scores) > 1), None)

    def summary(self) -> dict[str, Any]:
        """For a record."""
        validation = {f"{v:g}": round(s, 4) for v, s in self.scores.items()}
        marked = {"edge": self.edge} if self.edge else {}
        return {self.key: self.value, "validation": validation, **marked}


def grid(about: methods.Method, key: str) -> list[float]:
    """The values the method's paper searches."""
    first, last, count = about.grids[key]
    return [round(float(v), 6) for v in np.linspace(first, last, count)]


def choose(job: Job, key: str, setup: Setup, make: Callable[[Mapping[str, Any]], Path]) -> Choice:
    """Try every value of the grid of ``key`` and keep the best by mean expert-normalised validation score.

    Args:
        make: the merge with these keywords, saved; it is deleted once it has its scores.

    Scores here are without autocast, in whatever else of its precision the job has.
    Raises :class:`UserError` where an expert scores 0, so that nothing can be normalised by it.
    """
    tasks = setup.bench.tasks
    upper = _upper(job, setup)
    if useless := [task for task, score in upper.items() if tasks[task].higher_is_better and score == 0]:
        raise UserError(
            f"the expert of {', '.join(useless)} scores 0 on validation, so {key}=val cannot be normalised by it",
            "Are its head, its data and the order of their classes of one family? See assets checkpoints check.",
        )
    means: dict[float, float] = {}
    values = grid(job.method, key)
    for number, value in enumerate(values, 1):
        setup.progress.stage(f"{key}={value:g} on validation ({number}/{len(values)})")
        tried = _scores(make({**job.keywords, key: value}), job, setup)
        shares = [tried[t] / upper[t] if tasks[t].higher_is_better else upper[t] / tried[t] for t in tried]
        means[value] = float(np.mean(shares))
    return Choice(key, max(values, key=means.__getitem__), means)


def _upper(job: Job, setup: Setup) -> dict[str, float]:
    """The validation scores of the experts themselves, in the job's precision."""
    row: dict[str, Any] = {"method": REFERENCE_ROWS[1], "parameters": {}, "seed": None}
    experts = replace(job, spec=job.spec.model_copy(update=row))
    with apart.scratch(job, setup, ".experts") as folder, apart.method_process(experts, setup, folder) as child:
        return _scores(apart.call(experts, experts.keywords, setup, child).path, experts, setup)


def _scores(path: Path, job: Job, setup: Setup) -> dict[str, float]:
    """The score of each task on the validation split; the file is deleted then."""
    with judged(path, job, setup, "val", replace(job.precision, autocast=None)) as merged:
        found = {task: merged.score(task).value for task in setup.bench.tasks}
    path.unlink()
    return found
