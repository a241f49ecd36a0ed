"""The command ``board``, and where records and boards of a command are. No torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import suites
from benchmark.common.errors import UserError, shown
from benchmark.common.project import LOCAL, REFERENCE, RESULTS, ROOT, SUBMITTED


def folders(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Where records lie, and where boards are written."""
    if arguments.reference:
        if arguments.results:
            raise UserError("--reference and --results exclude each other", "Leave one of them out.")
        return REFERENCE, RESULTS
    folder = arguments.results or LOCAL
    return folder, folder


def reference_records(store: Any) -> Any:
    """The project's own records, shown beside those of ``store``; none where these are they."""
    from benchmark.records.store import Store

    return [] if store.root.resolve() == REFERENCE or not REFERENCE.is_dir() else Store(REFERENCE, read_only=True).all()


def write(store: Any, out: Path) -> list[Any]:
    """Write boards and page of a store's records into ``out``; the boards."""
    from benchmark.board import leaderboard
    from benchmark.report import page

    records = store.all() + (_submitted() if out.resolve() == RESULTS else [])
    made = leaderboard.publish(records, reference_records(store), out)
    page.write(made, out, [store.root, REFERENCE, SUBMITTED])
    return made


def _submitted() -> list[Any]:
    """Accepted records of third parties, for the project's own boards."""
    from benchmark.records.store import Store

    return Store(SUBMITTED, read_only=True).all() if SUBMITTED.is_dir() else []


def command(arguments: argparse.Namespace) -> int:
    """``board``: the boards again, and on request figures and the notebook. Returns 0.

    Raises:
        UserError: there are no records, or they cannot be written.
    """
    from benchmark.records.store import Store

    folder, out = folders(arguments)
    if not folder.is_dir():
        raise UserError(f"no records under {shown(folder)}", "Run something first: ./run_all.sh --methods symerge ties")
    made = write(Store(folder), out)
    if arguments.plots:
        from benchmark.report import figures
        from benchmark.studies.places import Places

        studies = Places(out, reference=arguments.reference)
        for path in figures.write(made, Store(folder, read_only=True).all(), out / "plots", studies):
            print(f"wrote {shown(path)}", file=sys.stderr)
        _write_panels(made, folder, out / "plots")
    if arguments.notebook:
        from benchmark.report import notebook

        print(f"executing {notebook.NAME} on {shown(folder)}, a minute or two", file=sys.stderr)
        print(f"wrote {shown(notebook.execute(RESULTS / notebook.NAME, out))}", file=sys.stderr)
    if arguments.reference:
        from benchmark.common.files import write_atomic
        from benchmark.report.methods_page import methods_page
        from benchmark.scores import published

        write_atomic(ROOT / "methods" / "README.md", methods_page(Store(folder, read_only=True).all()))
        write_atomic(out / "published.md", published.markdown())
    print(f"wrote {shown(out / 'leaderboard.md')}", file=sys.stderr)
    return 0


def _write_panels(boards: Sequence[Any], records: Path, folder: Path) -> None:
    """Pictures of what the runs of dense suites predict, where their merged models were kept."""
    for board in boards:
        if board.suite in suites.names() and suites.load(board.suite).domain == "dense":
            from benchmark.report.panels import main as panels

            try:
                out = folder / f"{board.name}--panels.png"
                panels(["--suite", board.suite, "--results", str(records), "--out", str(out)])
            except UserError as error:
                print(f"no panels of {board.suite}: {error.message}", file=sys.stderr)
