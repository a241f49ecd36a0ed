"""What a suite measures beside its tasks, as columns of its board: in no mean, and nothing is ranked by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark import suites
from benchmark.board.selection import by_time
from benchmark.records import metrics
from benchmark.records.record import Record


@dataclass(frozen=True)
class Column:
    """One bystander: its name, that of its metric, what its suite says of it, and the data that the column is of."""

    name: str
    metric: str
    about: str
    data: str

    @property
    def digits(self) -> int:
        """Decimals that it is written with."""
        return metrics.get(self.metric).digits

    @property
    def higher(self) -> bool:
        """Whether more of it is better."""
        return metrics.get(self.metric).higher_is_better

    @property
    def title(self) -> str:
        """Its name, with the metric's arrow."""
        return f"{self.name} {metrics.get(self.metric).arrow}"

    def value(self, records: Sequence[Record]) -> float:
        """Of one row's runs, the mean over seeds; nan where a run has none, or one of other data or another metric."""
        results = [record.bystanders.get(self.name) for record in records]
        values = [r.value for r in results if r is not None and (r.data, r.metric) == (self.data, self.metric)]
        return float(np.mean(values)) if values and len(values) == len(records) else np.nan


def columns_of(suite: str, records: Sequence[Record]) -> list[Column]:
    """The bystanders that some of these runs have, in the order of the suite's file, of the data measured last."""
    declared = suites.load(suite).bystanders if suite in suites.names() else {}
    last = {
        name: (result.metric, result.data)
        for record in reversed(by_time(records))
        for name, result in record.bystanders.items()
        if result.metric in metrics.METRICS
    }
    order = [*(name for name in declared if name in last), *sorted(set(last) - set(declared))]
    return [Column(name, last[name][0], declared.get(name, ""), last[name][1]) for name in order]
