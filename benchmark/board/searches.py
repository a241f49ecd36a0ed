"""What a row says of a value that was chosen on validation samples: the value, its grid, whether it is at an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.records.record import Record

#: Columns of a row.
COLUMNS = ["chosen", "grid", "at_edge"]
NONE = dict.fromkeys(COLUMNS, "")


def search(records: Sequence[Record]) -> dict[str, str]:
    """COLUMNS of a row: `scale=0.4`, `0.1 to 3 (30 values)`, and `lowest` or `highest` where it is an end of the grid.

    Several seeds may have chosen several values. Empty for a row that chose nothing, or whose records do not say what
    was tried.
    """
    found = [each for record in records if (each := _choice(record.trace_summary.get("chosen"))) is not None]
    if not found:
        return dict(NONE)
    key, _, tried = found[0]
    values = sorted({value for _, value, _ in found})
    edges = [word for word, end in (("lowest", tried[0]), ("highest", tried[-1])) if end in values]
    return {
        "chosen": f"{key}={', '.join(f'{value:g}' for value in values)}",
        "grid": f"{tried[0]:g} to {tried[-1]:g} ({len(tried)} values)",
        "at_edge": " and ".join(edges) if len(tried) > 1 else "",
    }


def _choice(chosen: Any) -> tuple[str, float, list[float]] | None:
    """The keyword, its value and the grid in order, of a record's `trace_summary["chosen"]`."""
    if not isinstance(chosen, dict) or not isinstance(chosen.get("validation"), dict):
        return None
    keys = [key for key in chosen if key != "validation"]
    try:
        tried = sorted(float(value) for value in chosen["validation"])
        return (str(keys[0]), float(f"{float(chosen[keys[0]]):g}"), tried) if len(keys) == 1 and tried else None
    except (TypeError, ValueError):
        return None
