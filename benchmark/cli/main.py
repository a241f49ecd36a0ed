"""The command line: ``symerge-bench`` = ``python -m benchmark``. Help and lists answer without torch."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import methods
from benchmark.cli.options import EXAMPLES, Parser, verbs
from benchmark.common import stopping
from benchmark.common.errors import UserError
from benchmark.common.escapes import terminal
from benchmark.common.paths import settle_variables

#: Each verb with what help says of it; its file is the module of its name.
VERBS = {
    "run": "merge, evaluate, record, and write the boards (the default of ./run_all.sh)",
    "list": "suites, and methods by the data they see",
    "show": "one method in full: maths, access, keywords, measured and published scores",
    "new": "a method's file from a template that runs as it stands",
    "board": "write the boards again from records",
    "clean": "remove runs that failed or were superseded: says which, then asks",
    "compare": "two methods on the same samples: difference, interval, wins by task",
    "validity": "how well a small suite's ranking predicts the published one, by class of method",
    "merge": "your own fine-tuned models into one that loads as their base does",
    "study": "experiments built from runs: transfer of layers, cross-task performance",
    "schedule": "time and GPU hours of a whole board on N GPUs, by simulation",
    "submit": "pack, check and verify records of a third party",
    "upgrade": "write records of earlier versions of the program as this one does",
    "assets": "data: check, fetch, rebuild; checkpoints: import; experts: train",
}


class Version(argparse.Action):
    """``--version``: print it and stop."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Print one line; imports no torch."""
        import platform
        from importlib import metadata

        from benchmark.harness.provenance import git_state

        try:
            version = metadata.version("symerge-bench")
        except metadata.PackageNotFoundError:
            version = "of a checkout that is not installed"
        named, changed = git_state()
        where = f" ({named[:12]}{', with local changes' if changed else ''})" if named else ""
        print(f"symerge-bench {version}{where}, Python {platform.python_version()}, torch {metadata.version('torch')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The whole command line; each verb adds its own options."""
    top = Parser(
        prog="symerge-bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
        description="Benchmark of model-merging methods: run them, rank them, compare them.",
    )
    top.add_argument("--version", action=Version, nargs=0, help="of this program, its commit, Python and torch")
    modules = {name: (f"benchmark.cli.{name}", text) for name, text in VERBS.items()}
    verbs(top, modules, dest="command", metavar="COMMAND")
    return top


def do(argv: Sequence[str]) -> int:
    """Run one command; its exit status. Options without a verb are those of ``run``.

    Raises UserError, MergingError for what the user can mend.
    """
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version"):
        argv = ["run", *argv]
    arguments = parser().parse_args(argv, argparse.Namespace(argv=list(argv)))
    return int(arguments.call(arguments) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0, 1 (a run failed), 2 (the user can mend it), 130 (Ctrl-C), 143 (SIGTERM), 129 (SIGHUP).
    """
    warnings.showwarning = _warning
    try:
        settle_variables()
        with stopping.heeding(), stopping.told_apart():
            return do(sys.argv[1:] if argv is None else argv)
    except (UserError, methods.MergingError) as error:
        print(terminal(f"error: {error}", lines=True), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        said = getattr(stop, "__notes__", None) or ["stopped; what is done is kept, the same command goes on from here"]
        with contextlib.suppress(OSError):  # of a terminal that was closed
            print(said[0], file=sys.stderr, flush=True)
        return 128 + (stop.number if isinstance(stop, stopping.Stopped) else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, (UserWarning, RuntimeWarning)):
        print(terminal(f"warning: {message}", lines=True), file=sys.stderr)
