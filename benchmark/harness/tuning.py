"""Coefficients chosen on a labelled validation split, in one place for all methods.

As the literature does it: the value of the paper's grid with the highest mean expert-normalised score; the first of
equals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import methods
from benchmark.common.errors import UserError
from benchmark.harness.evaluate import evaluate
from benchmark.harness.job import Job
from benchmark.records.precision import Precision
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.suites.bench import Bench
from methods.api import Experts, Merged


@dataclass(frozen=True)
class Choice:
    """The chosen value, and the validation score of every value tried."""

    key: str
    value: float
    scores: dict[float, float]

    def summary(self) -> dict[str, Any]:
        """For a record."""
        return {self.key: self.value, "validation": {f"{v:g}": round(s, 4) for v, s in self.scores.items()}}


def grid(about: methods.Method, key: str) -> list[float]:
    """The values the method's paper searches."""
    first, last, count = about.grids[key]
    return [round(float(v), 6) for v in np.linspace(first, last, count)]


def scores(merged: Merged, bench: Bench, precision: Precision) -> dict[str, float]:
    """The score of each task on the validation split."""
    return {
        task: evaluate(
            merged.model(task),
            bench.source(task, "val", bench.dtype),
            bench.meter(task),
            device=bench.device,
            precision=precision,
            batch_size=bench.suite.batch_size,
        ).value
        for task in bench.tasks
    }


def choose(
    job: Job,
    key: str,
    bench: Bench,
    experts: Experts,
    merge: Callable[[Mapping[str, Any]], Merged],
    advance: Callable[[str, Any], Any],
) -> Choice:
    """Try every value of the grid of ``key`` and keep the best by mean expert-normalised validation score.

    Scores here are without autocast, in whatever else of its precision the job has.
    Raises :class:`UserError` where an expert scores 0, so that nothing can be normalised by it.
    """
    plain = replace(job.precision, autocast=None)
    upper = scores(bench.finish(methods.get(REFERENCE_ROWS[1])(experts)), bench, plain)
    directions = {task: bench.tasks[task].higher_is_better for task in bench.tasks}
    if useless := [task for task, score in upper.items() if directions[task] and score == 0]:
        raise UserError(
            f"the expert of {', '.join(useless)} scores 0 on validation, so {key}=val cannot be normalised by it",
            "Are its head, its data and the order of their classes of one family? See assets checkpoints check.",
        )
    means: dict[float, float] = {}
    values = grid(job.method, key)
    for number, value in enumerate(values, 1):
        advance(f"{key}={value:g} on validation ({number}/{len(values)})", None)
        tried = scores(merge({**job.keywords, key: value}), bench, plain)
        shares = [tried[t] / upper[t] if directions[t] else upper[t] / tried[t] for t in tried]
        means[value] = float(np.mean(shares))
    return Choice(key, max(values, key=means.__getitem__), means)
