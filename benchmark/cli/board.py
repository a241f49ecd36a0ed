"""The command ``board``: boards, page, figures and notebook from records. No torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import suites
from benchmark.cli.options import add_results, folders
from benchmark.common.errors import UserError, shown
from benchmark.common.project import REFERENCE, RESULTS, ROOT, SUBMITTED


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser, "the project's own (results/leaderboard.*)")
    parser.add_argument("--plots", action="store_true", help="also write figures to DIR/plots")
    parser.add_argument("--latex", action="store_true", help="also write each board as a LaTeX table, DIR/boards/*.tex")
    parser.add_argument("--notebook", action="store_true", help="also execute the notebook of figures, DIR/plots.ipynb")


def reference_records(store: Any) -> Any:
    """The project's own records, shown beside those of ``store``; None where these are they."""
    from benchmark.records.store import Store

    if store.root.resolve() == REFERENCE:
        return None
    return Store(REFERENCE, read_only=True).all() if REFERENCE.is_dir() else []


def write(store: Any, out: Path) -> list[Any]:
    """Write boards and page of a store's records into ``out``; the boards."""
    from benchmark.board import leaderboard
    from benchmark.report import page
    from benchmark.submissions.package import accepted

    records = store.all(trials=True) + (accepted(SUBMITTED) if out.resolve() == RESULTS else [])
    boards = leaderboard.publish(records, reference_records(store), out)
    page.write(boards, out, [store.root, REFERENCE, SUBMITTED])
    return boards


def command(arguments: argparse.Namespace) -> int:
    """``board``: the boards again, and on request figures and the notebook. Returns 0.

    Raises:
        UserError: there are no records, or they cannot be written.
    """
    from benchmark.records.store import Store

    folder, out = folders(arguments.results, arguments.reference)
    if not folder.is_dir():
        raise UserError(f"no records under {shown(folder)}", "Run something first: ./run_all.sh --methods symerge ties")
    boards = write(Store(folder), out)
    if arguments.latex:
        _write_latex(boards, out)
    if arguments.plots:
        _write_figures(boards, folder, out, reference=arguments.reference)
    if arguments.notebook:
        from benchmark.report import notebook

        print(f"executing {notebook.NAME} on {shown(folder)}, a minute or two", file=sys.stderr)
        print(f"wrote {shown(notebook.execute(RESULTS / notebook.NAME, out))}", file=sys.stderr)
    if arguments.reference:
        _write_pages(folder, out)
    print(f"wrote {shown(out / 'leaderboard.md')}", file=sys.stderr)
    return 0


def _write_pages(records: Path, out: Path) -> None:
    """The pages that are made of the project's own records alone."""
    from benchmark.common.files import write_atomic
    from benchmark.records.store import Store
    from benchmark.report.methods_page import methods_page
    from benchmark.scores import published

    write_atomic(ROOT / "methods" / "README.md", methods_page(Store(records, read_only=True).all()))
    write_atomic(out / "published.md", published.markdown())


def _write_latex(boards: Sequence[Any], out: Path) -> None:
    from benchmark.board.latex import latex
    from benchmark.common.files import write_atomic

    for board in boards:
        path = out / "boards" / f"{board.name}.tex"
        write_atomic(path, latex(board))
        print(f"wrote {shown(path)}", file=sys.stderr)


def _write_figures(boards: Sequence[Any], records: Path, out: Path, *, reference: bool) -> None:
    """Figures of boards, runs and studies, and the panels of dense suites."""
    from benchmark.records.store import Store
    from benchmark.report import figures
    from benchmark.studies.places import Places

    studies = Places(out, reference=reference)
    for path in figures.write(boards, Store(records, read_only=True).all(), out / "plots", studies):
        print(f"wrote {shown(path)}", file=sys.stderr)
    _write_panels(boards, records, out / "plots")


def _write_panels(boards: Sequence[Any], records: Path, folder: Path) -> None:
    """Pictures of what the runs of dense suites predict, where their merged models were kept."""
    for board in boards:
        if board.suite in suites.names() and suites.load(board.suite).domain == "dense":
            from benchmark.report import panels

            try:
                panels.write(suites.load(board.suite), records, folder / f"{board.name}--panels.png")
            except UserError as error:
                print(f"no panels of {board.suite}: {error.message}", file=sys.stderr)
