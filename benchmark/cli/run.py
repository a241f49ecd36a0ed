"""The command ``run``: from options to plans of jobs, records and boards. Torch is imported once a plan is made."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import methods
from benchmark import suites
from benchmark.cli import board as boards
from benchmark.cli.options import (
    EXAMPLES,
    GIB,
    SEVERAL_METHODS,
    Seeds,
    add_force,
    add_place,
    add_results,
    add_threads,
    check_threads,
    folders,
)
from benchmark.cli.plans import plan, print_plan, tell_of_other_data
from benchmark.common.errors import UserError, check_range, check_seeds, shown
from benchmark.common.escapes import terminal
from benchmark.common.paths import resolved
from benchmark.common.project import DEFAULT_SUITE
from benchmark.harness.job import DAY
from benchmark.records.precision import Precision
from benchmark.records.spec import check_texts, parse_set

if TYPE_CHECKING:
    import torch

    from benchmark.harness.job import Job, Options
    from benchmark.records.record import Record
    from benchmark.records.store import Store
    from benchmark.suites.bench import Bench

    Plans = Sequence[tuple[Bench, list[Job]]]

# A method that says in one line why it does not fit a suite's experts is no failure of the run.
NOT_APPLICABLE = methods.NotApplicable.__name__

#: Of options that are numbers; a time limit of three years.
LARGEST = 100_000_000


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    _add_what(parser)
    _add_where(parser)
    _add_how(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--methods",
        nargs="+",
        metavar=SEVERAL_METHODS,
        help="methods and variants; 'all' for every one; default: the suite's own list",
    )
    add(
        "--suite",
        nargs="+",
        default=[DEFAULT_SUITE],
        metavar="NAME",
        help=f"or FILE.yaml, a suite of your own; default: {DEFAULT_SUITE}",
    )
    add_place(parser)
    add("--checkpoints", type=resolved, metavar="DIR", help="full suites: where families lie (or SYMERGE_CHECKPOINTS)")
    add("--data-root", type=resolved, metavar="DIR", help="full suites: where data lie (or SYMERGE_DATA)")
    add(
        "--seeds",
        nargs="+",
        action=Seeds,
        default=[0],
        metavar="N",
        help="seeds of stochastic methods, such as 0 1 2 or 0-4, default 0; deterministic ones run once",
    )
    add("--set", action="append", default=[], metavar="NAME.key=value", help="a keyword of a method")


def _add_where(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--device",
        nargs="+",
        default=["cpu"],
        metavar="NAME",
        help="cpu, cuda, cuda:N or auto; default cpu. Several: a process on each, which share the runs",
    )
    add("--worker", type=resolved, metavar="FILE", help=argparse.SUPPRESS)
    add("--executor", choices=["here", "ray"], default="here", help="here, or a Ray cluster's workers")
    add(
        "--address", metavar="HOST:PORT", help="of the Ray cluster, or auto; default: one of this machine, for this run"
    )
    add("--dtype", default="float32", help="of the evaluated weights: float32, bfloat16, float16")
    add("--autocast", choices=["float16", "bfloat16"], help="mixed precision in adaptation and evaluation")
    add(
        "--vectors",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the task vectors that adaptation holds on the device; default float32",
    )
    add_results(
        parser,
        "write the project's own records (results/reference)",
        "where records and boards go; default results/local",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_force(parser)
    add("--time-limit", type=float, metavar="SECONDS", default=DAY, help="per run; default a day")
    add_threads(parser)
    add("--batch-size", type=int, metavar="N", help="of the evaluation; default: the suite's")
    add("--compile", action="store_true", help="evaluate through torch.compile")
    add("--discard-merged", action="store_true", help="delete each merged model once it is evaluated")
    add(
        "--rehearse",
        action="store_true",
        help="a full suite's path with random weights and generated images, one update of what adapts; no results",
    )
    add("--memory-limit", type=float, metavar="GIB", help="of a method's process; default 90 %% of what is free")
    add("--unchecked", action="store_true", help="run what cannot fit by estimate all the same")
    add("--quiet", action="store_true", help="show no progress: the board alone, and what went wrong")
    add("--json", action="store_true", help="the boards as JSON on stdout, in place of tables")
    add("--dry-run", action="store_true", help="print the plan with each run's memory, disk and time, and stop")
    add(
        "--limit",
        type=int,
        metavar="N",
        help="a trial: at most N samples of a task in every split; no result, in no row of a board",
    )


def command(arguments: argparse.Namespace) -> int:
    """``run``: check, plan, carry out, and write the boards. Returns 0, or 1 where a run failed.

    Raises:
        UserError, MergingError: what the user can mend, before anything runs wherever possible.
    """
    sets = _check(arguments)
    devices = _devices(arguments)
    if arguments.rehearse:
        return _rehearse(arguments, devices[0])

    from benchmark.records.store import Store

    settings = _options(arguments)
    plans = plan(arguments, devices[0], sets, settings)
    store = Store(folders(arguments.results, arguments.reference)[0])
    if not arguments.worker:
        tell_of_other_data(plans, store)
    if arguments.dry_run:
        return print_plan(plans, store, settings)
    settings = _share_out(arguments, plans, store, settings, devices)
    records = _carry_out(arguments, plans, store, settings)
    failed = [record for record in records if record.status != "done"]
    return int(bool(failed)) if arguments.worker else _report(arguments, failed)


def _check(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Raise UserError for what can be seen to be wrong at once; the values of ``--set``, by method and keyword."""
    folders(arguments.results, arguments.reference)
    for name in arguments.suite:
        suites.load(name)
    sets: dict[str, dict[str, Any]] = {}
    for text in arguments.set:
        name, key, value = parse_set(text)
        if key in sets.get(name, {}):
            raise UserError(f"--set gives {name}.{key} twice", f"Type it once, e.g. --set {text}")
        sets.setdefault(name, {})[key] = value
    check_texts([text for text in arguments.methods or [] if text != "all"], sets)
    if not arguments.worker:
        for fault in methods.broken():
            print(f"warning: left out, {fault}", file=sys.stderr)
    check_seeds(arguments.seeds)
    check_threads(arguments)
    for what in ("batch_size", "time_limit", "memory_limit"):
        check_range(f"--{what.replace('_', '-')}", getattr(arguments, what), 0, LARGEST, open_below=True)
    if arguments.json and (arguments.dry_run or arguments.rehearse):
        raise UserError("--json is for boards, which --dry-run and --rehearse write none of", "Leave it out.")
    _check_limit(arguments)
    _check_executor(arguments)
    return sets


def _check_limit(arguments: argparse.Namespace) -> None:
    check_range("--limit", arguments.limit, 1, LARGEST)
    for what in ("reference", "rehearse"):
        if arguments.limit is not None and getattr(arguments, what):
            raise UserError(
                f"--limit makes a trial, which gives no result, and --{what} is not for one", "Leave one out."
            )


def _check_executor(arguments: argparse.Namespace) -> None:
    if arguments.executor == "here":
        if arguments.address:
            raise UserError("--address is that of a Ray cluster", f"Type --executor ray --address {arguments.address}")
    elif arguments.rehearse:
        raise UserError("--rehearse runs in this process", "Leave --executor out.")
    elif arguments.device not in (["cpu"], ["cuda"], ["auto"]):
        raise UserError(
            f"--executor ray with --device {' '.join(arguments.device)}: Ray chooses the devices of its workers",
            "Type --device cpu, cuda or auto.",
        )


def _devices(arguments: argparse.Namespace) -> list[torch.device]:
    """The devices of this machine that are named. A cluster's are its workers': here only the plan is made."""
    from benchmark.suites.bench import resolve_device

    names = ["cpu"] if arguments.executor == "ray" and not arguments.dry_run else arguments.device
    return [resolve_device(name) for name in names]


def _options(arguments: argparse.Namespace) -> Options:
    """How the jobs are carried out."""
    from benchmark.executors import processes
    from benchmark.harness.job import Options

    return Options(
        before=processes.told(arguments.worker) if arguments.worker else None,
        force=arguments.force,
        time_limit=arguments.time_limit,
        memory_limit=arguments.memory_limit * GIB if arguments.memory_limit else None,
        keep_merged=not arguments.discard_merged,
        argv=["run_all.sh", *processes.typed(arguments.argv)[1:]],
        batch_size=arguments.batch_size,
        compile=arguments.compile,
        quiet=arguments.quiet,
    )


def _rehearse(arguments: argparse.Namespace, device: torch.device) -> int:
    """``--rehearse``: the path of each suite at its true size, without its files."""
    from benchmark.budget import rehearsal

    records, _ = folders(arguments.results, arguments.reference)
    statuses = []
    for name in arguments.suite:
        suite = suites.load(name)
        what = rehearsal.Rehearsal(
            suite=suite,
            backbone=arguments.backbone or suite.backbones[0],
            results=records / rehearsal.FAMILY,
            options=_options(arguments),
            precision=Precision(arguments.dtype, arguments.autocast, arguments.vectors),
            device=str(device),
            threads=arguments.threads,
        )
        statuses.append(rehearsal.main(what, arguments.methods))
    return max(statuses)


def _share_out(
    arguments: argparse.Namespace, plans: Plans, store: Store, settings: Options, devices: Sequence[torch.device]
) -> Options:
    """Refuse what cannot fit, then let a process a device do the jobs where several are named; what they leave is left.

    Returns the options with which this process goes on: it knows which records were there before.
    """
    import dataclasses

    from benchmark.budget import dry_run
    from benchmark.executors import processes
    from benchmark.harness import runner

    if not arguments.unchecked and not arguments.worker and arguments.executor == "here":
        dry_run.refuse(plans, store, store.root, settings)
    before = settings.before
    if before is None:
        before = runner.before((job for _, jobs in plans for job in jobs), store)
    if len(devices) > 1:
        processes.spread(arguments.argv, devices, before, arguments.threads)
    return dataclasses.replace(settings, before=before)


def _carry_out(arguments: argparse.Namespace, plans: Plans, store: Store, settings: Options) -> list[Record]:
    """All records, plan after plan; after each the boards are written and the plan's own is printed."""
    from benchmark.board import leaderboard, trials

    _, out = folders(arguments.results, arguments.reference)
    records, executed = [], _execute(arguments, plans, store, _with_work(plans, store, settings))
    shown = []
    for bench, _ in plans:
        try:
            records += next(executed)
        except BaseException:
            # What stopped the runs is what the user must hear, not that a full disk takes no boards either.
            if not arguments.worker:
                with contextlib.suppress(UserError, OSError):
                    boards.write(store, out)
            raise
        for board in [] if arguments.worker else boards.write(store, out):
            if (board.suite, board.backbone, board.family) == (bench.suite.name, bench.backbone, bench.family):
                shown.append(board)
                if arguments.limit is None and not arguments.json:
                    leaderboard.print_board(board)
        if arguments.limit is not None and not arguments.worker and not arguments.json:
            print(trials.text(records, bench.suite.name))
    if arguments.json and not arguments.worker:
        print(leaderboard.as_json(shown))
    return records


def _with_work(plans: Plans, store: Store, settings: Options) -> Options:
    """The options, with the work of each run where there are several, so that the remaining time can be told."""
    import dataclasses

    from benchmark.budget import dry_run
    from benchmark.harness import runner

    if settings.quiet or len(runner.to_do((job for _, jobs in plans for job in jobs), store, settings)) < 2:
        return settings
    return dataclasses.replace(settings, work=dry_run.work(plans, settings))


def _execute(arguments: argparse.Namespace, plans: Plans, store: Store, settings: Options) -> Iterator[list[Record]]:
    """The records of each plan: plan after plan in this process, or all together on a cluster."""
    if arguments.executor == "ray":
        from benchmark.executors import cluster

        place = cluster.Place(
            address=arguments.address,
            device=arguments.device[0],
            threads=arguments.threads or 1,
            checked=not arguments.unchecked,
            data_root=arguments.data_root and arguments.data_root.resolve(),
            checkpoints=arguments.checkpoints and arguments.checkpoints.resolve(),
        )
        yield from cluster.main(place, plans, store, settings)
        return
    from benchmark.harness import runner

    for bench, jobs in plans:
        yield runner.execute(jobs, bench, store, settings)


def _report(arguments: argparse.Namespace, failed: Sequence[Record]) -> int:
    """Say where the boards are and what has no scores; 1 where a run failed."""
    _, out = folders(arguments.results, arguments.reference)
    if not arguments.quiet:
        print(f"\nboards: {shown(out / 'leaderboard.md')} and {shown(out / 'boards')}", file=sys.stderr)
    unfit = [record for record in failed if record.error and record.error.type == NOT_APPLICABLE]
    for record in failed:
        said = f"{record.variant} on {record.spec.suite}: {record.error.line() if record.error else record.status}"
        print(terminal(f"{'left out' if record in unfit else 'failed'}: {said}"), file=sys.stderr)
    return 1 if len(failed) > len(unfit) else 0
