"""What a trial on a few samples (``--limit``) shows: that every step holds, what it took, and about what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.board.selection import label
from benchmark.common.escapes import terminal
from benchmark.common.tables import padded
from benchmark.records.record import Record

HEADER = ("method", "outcome", "about", "merge s", "adapt s", "evaluate s", "MiB")


def text(records: Sequence[Record], suite: str) -> str:
    """The trial's runs of a suite, unranked: ``about`` is the mean of what few samples gave, and no result."""
    chosen = [record for record in records if record.trial and record.spec.suite == suite]
    limits = ", ".join(str(limit) for limit in sorted({record.spec.limit or 0 for record in chosen}))
    rows = []
    for record in chosen:
        cost, error = record.cost, record.error
        seed = "" if record.spec.seed is None else f" seed {record.spec.seed}"
        alike = len({result.metric for result in record.tasks.values()}) == 1 and not record.missing
        about = f"{np.mean([result.value for result in record.tasks.values()]):.0f}" if alike else "–"
        spent = (cost.merge_seconds, cost.adapt_seconds, cost.evaluate_seconds)
        times = ["–" if seconds is None else f"{seconds:.1f}" for seconds in spent]
        peak = "–" if cost.peak_anonymous_mb is None else f"{cost.peak_anonymous_mb:,.0f}"
        outcome = record.status if error is None else error.type
        rows.append([terminal(f"{label(record)}{seed}"), outcome, about, *times, peak])
    lines = padded(HEADER, rows, "<<>>>>>")
    return "\n".join([f"TRIAL of {suite} on at most {limits} samples a task: no result, not ranked", *lines])
