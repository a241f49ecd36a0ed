"""The command line: ``symerge-bench`` = ``python -m benchmark``. Help and lists answer without torch."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import methods
from benchmark import suites
from benchmark.cli import board as boards
from benchmark.cli import list as listing
from benchmark.cli import run
from benchmark.cli.options import parser
from benchmark.common.errors import UserError
from benchmark.common.paths import settle_variables


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 (a run failed), 2 (the user can mend it), 130 (Ctrl-C), 143 (SIGTERM)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _warning
    commands = {
        "run": run.command,
        "list": _list,
        "board": _board,
        "clean": _clean,
        "compare": _compare,
        "validity": _validity,
        "study": _study,
        "schedule": _schedule,
        "submit": _submit,
        "upgrade": _upgrade,
        "assets": _assets,
    }
    try:
        settle_variables()
        arguments = parser().parse_args(argv)
        with _heeding_sigterm():
            return int(commands[arguments.command](arguments, argv) or 0)
    except (UserError, methods.MergingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("stopped; what is done is kept, the same command goes on from here", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system or ``kill`` sends it: ends a command as Ctrl-C does, child processes with it."""


@contextlib.contextmanager
def _heeding_sigterm() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, (UserWarning, RuntimeWarning)):
        print(f"warning: {message}", file=sys.stderr)


def _list(arguments: argparse.Namespace, argv: list[str]) -> None:
    listing.show(arguments.what)


def _board(arguments: argparse.Namespace, argv: list[str]) -> int:
    return boards.command(arguments)


def _clean(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.cli import clean

    return clean.command(arguments)


def _compare(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.board.comparison import compare
    from benchmark.records.store import Store

    folders = [arguments.results] if arguments.results else [f for f in (boards.REFERENCE, boards.LOCAL) if f.is_dir()]
    records = [r for f in folders for r in Store(f, read_only=True).all(arguments.suite)]
    print(compare(records, arguments.first, arguments.second, arguments.suite, arguments.backbone, arguments.family))
    return 0


def _validity(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.cli import validity

    return validity.command(arguments.suite, arguments.results, arguments.backbone, arguments.family)


def _study(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.cli.study import main as study

    return study(argv[1:])


def _schedule(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.budget.schedule import main as schedule

    return schedule(arguments, boards.REFERENCE)


def _submit(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.cli.submit import main as submit

    return submit(argv[1:])


def _upgrade(arguments: argparse.Namespace, argv: list[str]) -> int:
    from benchmark.cli.upgrade import main as upgrade

    return upgrade(arguments)


def _assets(arguments: argparse.Namespace, argv: list[str]) -> int:
    rest = argv[2:]
    if any(name in suites.names() and suites.load(name).domain == "dense" for name in rest):
        from benchmark.assets.dense.command import main as dense

        return dense(arguments.kind, rest)
    if arguments.kind == "experts" and any(n in suites.names() and suites.load(n).scale == "small" for n in rest):
        from benchmark.assets.vision.small.command import main as small

        return small(rest)
    if "RoBERTa-base" in rest or any(n in suites.names() and suites.load(n).domain == "text" for n in rest):
        from benchmark.assets.text.command import main as text

        return text(arguments.kind, rest)
    if arguments.kind == "data":
        if not rest or rest[0] in ("check", "fetch", "-h", "--help"):
            from benchmark.domains.vision.check import main as check

            return check(rest)
        if rest[0] == "build":
            rest = rest[1:]
        from benchmark.assets.vision.build import main as build

        return build(rest) or 0
    if arguments.kind == "checkpoints":
        from benchmark.importers.command import main as checkpoints

        return checkpoints(rest)
    from benchmark.assets.vision.command import main as retrain

    return retrain(rest) or 0
