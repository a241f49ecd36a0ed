"""How long boards took, from their records: ``./run_all.sh --bench night [SUITE]``.

Wall-clock hours as the records hold them, of whatever machine and beside whatever work they were made; a seed that is
quicker than another of its row says what the other work cost. One run after the other.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark import suites
from benchmark.common.project import DEFAULT_SUITE, REFERENCE
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.records.store import Store


@dataclass(frozen=True)
class Hours:
    """Sums over runs, in seconds."""

    rows: int
    runs: int
    merge: float
    adapt: float
    evaluate: float
    whole: float
    """From the start of each run to its end: with files, experts' predictions and records."""


def whole(record: Record) -> float:
    """Seconds from start to end."""
    start, end = (datetime.datetime.fromisoformat(str(t)) for t in (record.started, record.finished))
    return (end - start).total_seconds()


def hours(records: Iterable[Record]) -> Hours:
    """The sums over these runs."""
    done = list(records)
    parts = {
        part: sum(getattr(r.cost, f"{part}_seconds") or 0.0 for r in done) for part in ("merge", "adapt", "evaluate")
    }
    return Hours(len({r.variant for r in done}), len(done), **parts, whole=sum(map(whole, done)))


def table(records: Sequence[Record], default: Sequence[str]) -> str:
    """Markdown: the suite's own list with one seed, every row with one seed and with all, the quickest seed of each."""
    by_row: dict[str, list[Record]] = {}
    for record in sorted(records, key=whole):
        by_row.setdefault(record.variant, []).append(record)
    one = {name: runs[0] for name, runs in by_row.items()}
    sets = {
        "the suite's list, one seed": [r for name, r in one.items() if name in default],
        "every row, one seed": list(one.values()),
        "every row, every seed": list(records),
    }
    lines = [
        "| what | rows | runs | merging | adapting | evaluating | whole |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for what, chosen in sets.items():
        h = hours(chosen)
        cells = " | ".join(f"{s / 60:.0f} min" for s in (h.merge, h.adapt, h.evaluate))
        lines.append(f"| {what} | {h.rows} | {h.runs} | {cells} | {h.whole / 3600:.1f} h |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    name = arguments[0] if arguments else DEFAULT_SUITE
    records = [r for r in Store(REFERENCE, read_only=True).all(name) if r.status == "done"]
    print(table(records, [*REFERENCE_ROWS, *suites.load(name).methods]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
