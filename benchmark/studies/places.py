"""Where records, tables, figures and reports of studies are. No torch."""

from __future__ import annotations

from pathlib import Path

from benchmark.records.record import Record
from benchmark.records.store import Store


class Places:
    """Where runs, derived records, tables, figures and reports of studies are in a results folder.

    The project's own studies keep all their records apart, so that a study changes no board; runs that a board has
    already (``known``) are not done again where their record is all that is needed.
    """

    def __init__(self, results: Path, *, reference: bool = False) -> None:
        self.reports = results
        self.derived = Store(results / "studies" / "records")
        self.runs = self.derived if reference else Store(results)
        self.known = Store(results / "reference" if reference else results, read_only=True)
        self.tables = results / "studies"
        self.plots = results / "plots"

    def all(self, suite: str | None = None) -> list[Record]:
        """Every record of methods and of studies, once."""
        stores = (self.runs, self.derived)
        return list({record.run_id: record for store in stores for record in store.all(suite)}.values())

    def written(self, kind: str) -> list[str]:
        """The pages there are of one kind of study, by name."""
        return sorted(path.stem for path in (self.tables / kind).glob("*.md"))
