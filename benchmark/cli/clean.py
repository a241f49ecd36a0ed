"""The command ``clean``: runs that only stand in the way are listed, and removed when the user says so. No torch.

failed: a run that failed and was not put right. superseded: no board shows it, because a newer one stands in its place
(see ``selection.current``). stale: of code or a suite that is no longer the present one, so that no command makes it
again; a board may still show it, so it goes only where it is named. What is done and current is never removed, nor is
a run that was interrupted, which the same command continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import methods
from benchmark import suites
from benchmark.board.leaderboard import PAPERS
from benchmark.board.rows import name_of
from benchmark.board.selection import label, left_out
from benchmark.cli import board as boards
from benchmark.common.errors import UserError, shown, unknown
from benchmark.common.escapes import terminal
from benchmark.common.files import remove_left
from benchmark.common.paths import resolved
from benchmark.common.project import LOCAL, REFERENCE, RESULTS
from benchmark.records.record import Record
from benchmark.records.spec import checked_parameters, present_version
from benchmark.records.store import Store
from benchmark.suites.own import is_own

KINDS = ("failed", "superseded", "stale", "trial")
#: What is removed where no kind is named: nothing of it is a row of a board.
USUAL = ("failed", "superseded")


class Leftover(NamedTuple):
    """A run that may be removed: its kind of ``KINDS``, and why."""

    record: Record
    kind: str
    why: str


def leftovers(records: Iterable[Record]) -> list[Leftover]:
    """Those of the records that are failed, superseded, stale or trials, in their order."""
    every = list(records)
    gone = {id(each.record): each.why for each in left_out(record for record in every if not record.trial)}
    rest = []
    for record in every:
        if record.trial:
            rest.append(Leftover(record, "trial", record.trial))
        elif id(record) in gone:
            rest.append(Leftover(record, "superseded", gone[id(record)]))
        elif record.status == "failed":
            rest.append(Leftover(record, "failed", record.error.line(160) if record.error else ""))
        elif why := _stale(record):
            rest.append(Leftover(record, "stale", why))
    return rest


def _stale(record: Record) -> str:
    """Why no command makes this run again, or empty."""
    spec = record.spec
    if not is_own(spec.suite):  # where a user's own suite lies is not known
        if spec.suite not in suites.names():
            return f"there is no suite {spec.suite} any more"
        if spec.suite_version != suites.load(spec.suite).identity:
            return "of an earlier version of the suite"
    if spec.method not in methods.names():
        broken = any(spec.method in fault.names for fault in methods.broken())
        return "" if broken else f"there is no method {spec.method} any more"
    try:
        checked_parameters(spec.method, spec.parameters)
    except (UserError, methods.MergingError) as error:
        return getattr(error, "message", str(error))
    if spec.method_version != present_version(spec.method, spec.parameters):
        return "of an earlier version of the method's code"
    return ""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "kinds",
        nargs="*",
        metavar="failed|superseded|stale|trial",
        type=_kind,
        help="default: failed (and not put right since) and superseded (no board shows them). stale: of code or a "
        "suite that has changed; a board may show them, so they go only where named, as trials do (run --limit)",
    )
    parser.add_argument("--results", type=resolved, metavar="DIR", help="default results/local")
    parser.add_argument("--suite", nargs="+", metavar="NAME", help="only these suites' runs; default: all")
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def _kind(text: str) -> str:
    if text not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {', '.join(KINDS)}")
    return text


def command(arguments: argparse.Namespace) -> int:
    """``clean``: say what would go, ask, remove it, and write the boards again. Returns 0, or 1 where a run stayed.

    Raises:
        UserError: there is no such folder, it cannot be written, or nobody is there to ask and ``--yes`` is not said.
    """
    folder = arguments.results or LOCAL
    if not folder.is_dir() and arguments.results:
        raise UserError(f"no records under {shown(folder)}", "Name a results folder: --results DIR")
    store = Store(folder)
    records = store.all(trials=True)
    names = {record.spec.suite for record in records}
    for name in arguments.suite or []:
        if name not in names:
            raise unknown("suite", name, sorted(names), f"{shown(folder)} has no run of it")
    chosen = [r for r in records if not arguments.suite or r.spec.suite in arguments.suite]
    rest = leftovers(chosen)
    kinds = arguments.kinds or USUAL
    gone = [each for each in rest if each.kind in kinds]
    for kind in KINDS:
        _list(store, kind, [each for each in rest if each.kind == kind], kind in kinds)
    if left := remove_left(folder, below=True):
        print(f"removed {left} file{'s' if left > 1 else ''} that a killed writer left unfinished")
    if not gone:
        print(f"nothing to remove under {shown(folder)}")
        return 0
    size = sum(_size(store, each.record) for each in gone)
    if not arguments.yes and not _agreed(f"Remove {_runs(len(gone))}, {size / 2**20:.1f} MiB, of {shown(folder)}?"):
        print("nothing was removed")
        return 0
    locked = [each for each in gone if not store.remove(each.record)]
    for each in locked:
        run = terminal(f"{label(each.record)} on {each.record.spec.suite}")
        print(f"stays, as another process has it: {run}", file=sys.stderr)
    print(f"removed {_runs(len(gone) - len(locked))}")
    _write_boards(store, records)
    return 1 if locked else 0


def _list(store: Store, kind: str, rest: Sequence[Leftover], goes: bool) -> None:
    if not rest:
        return
    what = "" if goes else f", which {'stays' if len(rest) == 1 else 'stay'} unless named: clean {kind}"
    print(f"{kind}: {_runs(len(rest))}{what}")
    for record, _, why in rest:
        seed = "" if record.spec.seed is None else f" seed {record.spec.seed}"
        state = "" if record.status == "failed" else f" ({record.status})"
        place = f"{record.spec.suite}, {record.spec.backbone}{state}"
        print(terminal(f"  {record.run_id}  {label(record)}{seed} on {place}: {why}"))


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _size(store: Store, record: Record) -> int:
    return sum(path.stat().st_size for path in store.folder(record.spec).rglob("*") if path.is_file())


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        raise UserError("nobody is there to ask, and nothing was removed", "Type the same with --yes") from None


def _write_boards(store: Store, before: Iterable[Record]) -> None:
    """The boards of what is left; those of places without any run go."""
    out = RESULTS if store.root.resolve() == REFERENCE else store.root
    left = {_board(record) for record in store.all(trials=True)}
    for name in {_board(record) for record in before} - left:
        for suffix in (".md", ".csv", PAPERS):
            (out / "boards" / f"{name}{suffix}").unlink(missing_ok=True)
    boards.write(store, out)


def _board(record: Record) -> str:
    return name_of(record.spec.suite, record.spec.backbone, record.spec.family)
