"""What tables and figures of studies show of a results folder's records. No torch."""

from __future__ import annotations

import pandas as pd

from benchmark import suites
from benchmark.board.selection import of_each_place
from benchmark.common.errors import UserError, shown
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.studies import tables
from benchmark.studies.pages import About
from benchmark.studies.places import Places
from benchmark.studies.settings import Ablation


def transfer(places: Places, suite: str) -> tuple[pd.DataFrame, About]:
    """Transfers on a suite, as :func:`tables.transfer` makes them. Raises UserError where there are none."""
    records = of_each_place(r for r in places.derived.all(suite) if "source" in r.spec.parameters)
    frame = tables.transfer(records, places.all(suite))
    if frame.empty:
        raise _absent(f"transfer on {suite}", places, f"transfer --suite {suite}")
    return frame, About.of(suite, records)


def pilot(places: Places, suite: str) -> tuple[tables.CrossTask, pd.DataFrame, About]:
    """Cross-task performance on a suite and its sets of tasks (:func:`tables.points`). Raises UserError likewise."""
    records = of_each_place(
        record
        for record in places.derived.all()
        if record.spec.suite.partition("+")[0] == suite and "pilot" in record.provenance.argv
    )
    try:
        cross = tables.cross_task(records)
    except ValueError:
        raise _absent(f"the pilot on {suite}", places, f"pilot --suite {suite}") from None
    return cross, tables.points(records), About.of(suite, records)


def ablation(places: Places, study: Ablation, suite: str | None = None) -> tuple[pd.DataFrame, About]:
    """Variants of an ablation, as :func:`tables.ablation` makes them. Raises UserError where there are none."""
    wanted = {place for _, place in study.places(suite)}
    names = (*study.variants, *REFERENCE_ROWS)
    records = of_each_place(r for r in places.all() if r.spec.suite in wanted and r.variant in names)
    frame = tables.ablation(study, records, suite)
    if frame.empty:
        raise _absent(f"the ablation {study.name}", places, f"ablate {study.name}")
    return frame, About.of(suites.load(suite or study.suite).name, records)


def _absent(what: str, places: Places, command: str) -> UserError:
    return UserError(f"no records of {what} in {shown(places.derived.root)}", f"Run it: ./run_all.sh study {command}")
