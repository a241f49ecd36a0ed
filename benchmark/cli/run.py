"""The command ``run``: from arguments to plans, records and boards. Torch is imported once a plan is made."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import methods
from benchmark import suites
from benchmark.cli import board as boards
from benchmark.common.errors import UserError, shown
from benchmark.records.spec import check_texts, other_data, parse_set

if TYPE_CHECKING:
    import torch

# A method that says in one line why it does not fit a suite's experts is no failure of the run.
NOT_APPLICABLE = methods.NotApplicable.__name__


def _sets(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, key, value = parse_set(text)
        found.setdefault(name, {})[key] = value
    return found


#: Of options that are numbers; a time limit of three years.
LARGEST = 100_000_000


def command(arguments: argparse.Namespace, argv: list[str]) -> int:
    """``run``: plan, check, carry out, and write the boards. Returns 0, or 1 where a run failed.

    Raises:
        UserError, MergingError: what the user can mend, before anything runs wherever possible.
    """
    records_folder, out = boards.folders(arguments)
    loaded = [suites.load(name) for name in arguments.suite]
    sets = _sets(arguments.set)
    check_texts([text for text in arguments.methods or [] if text != "all"], sets)
    if not arguments.worker:
        for fault in methods.broken():
            print(f"warning: left out, {fault}", file=sys.stderr)
    _check_seeds(arguments.seeds)
    for what in ("threads", "batch_size", "time_limit", "memory_limit"):
        value = getattr(arguments, what)
        if value is not None and not 0 < value <= LARGEST:
            raise UserError(f"--{what.replace('_', '-')} is {value}; a positive number up to {LARGEST:,} is wanted")

    _check_executor(arguments)
    places = _devices(arguments)
    if arguments.rehearse:
        from benchmark.budget import rehearsal as rehearse

        return max(rehearse.main(arguments, suite, places[0], records_folder, argv) for suite in loaded)

    import torch

    from benchmark.board import leaderboard
    from benchmark.budget import dry_run
    from benchmark.executors import processes as devices
    from benchmark.harness import runner
    from benchmark.records.store import Store

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plans = []
    for suite in loaded:
        bench = _open(arguments, suite, places[0])
        plans.append(
            (
                bench,
                runner.plan(
                    bench,
                    runner.suite_methods(suite, arguments.methods),
                    seeds=arguments.seeds,
                    sets=sets,
                    dtype=arguments.dtype,
                    autocast_dtype=arguments.autocast,
                    vectors=arguments.vectors,
                    without_data=arguments.dry_run,
                ),
            )
        )
    store = Store(records_folder)
    if not arguments.worker:
        _tell_of_other_data(plans, store)
    if arguments.dry_run:
        return _print_plan(arguments, plans, store, places[0])
    if not arguments.unchecked and not arguments.worker and arguments.executor == "here":
        dry_run.refuse(plans, store, records_folder, **_how(arguments, places[0]))
    before = devices.told(arguments.worker) if arguments.worker else None
    if len(places) > 1:
        before = runner.before((run for _, runs in plans for run in runs), store)
        devices.spread(argv, places, before, arguments.threads)
    options = runner.Options(
        before=before,
        force=arguments.force,
        time_limit=arguments.time_limit,
        keep_merged=not arguments.discard_merged,
        argv=["run_all.sh", *devices.typed(argv)[1:]],
        batch_size=arguments.batch_size,
        compile=arguments.compile,
    )
    failed = []
    carried_out = _carry_out(arguments, plans, store, options)
    for bench, _ in plans:
        try:
            records = next(carried_out)
        except BaseException:
            # What stopped the runs is what the user must hear, not that a full disk takes no boards either.
            if not arguments.worker:
                with contextlib.suppress(UserError, OSError):
                    boards.write(store, out)
            raise
        made = [] if arguments.worker else boards.write(store, out)
        failed += [r for r in records if r.status != "done"]
        for board in made:
            if (board.suite, board.backbone, board.family) == (bench.suite.name, bench.backbone, bench.family):
                leaderboard.print_board(board)
    if arguments.worker:
        return 1 if failed else 0
    print(f"\nboards: {shown(out / 'leaderboard.md')} and {shown(out / 'boards')}", file=sys.stderr)
    unfit = [r for r in failed if r.error and r.error.type == NOT_APPLICABLE]
    for record in failed:
        reason = record.error.line() if record.error else record.status
        word = "left out" if record in unfit else "failed"
        print(f"{word}: {record.variant} on {record.spec.suite}: {reason}", file=sys.stderr)
    return 1 if len(failed) > len(unfit) else 0


def _tell_of_other_data(plans: Sequence[tuple[Any, Sequence[Any]]], store: Any) -> None:
    """Say of records that they were made on other data than the plan's, where some of its runs are still to do."""
    for bench, runs in plans:
        if all(run.spec.data and store.load(run.spec) for run in runs):
            continue
        place = (bench.backbone, bench.family)
        others = [
            said
            for record in store.all(bench.suite.name)
            if (record.spec.backbone, record.spec.family) == place
            and (said := next(filter(None, (other_data(record.spec.data, run.spec.data) for run in runs)), None))
        ]
        if others:
            print(
                f"note: {len(others)} records of {bench.suite.name} in {shown(store.root)} were made on other data: "
                f"{others[0]}. They stay, count for no run of this plan, and are listed apart on boards.",
                file=sys.stderr,
            )


def _carry_out(arguments: argparse.Namespace, plans: Sequence[Any], store: Any, options: Any) -> Iterator[list[Any]]:
    """The records of each plan: plan after plan in this process, or all together on a cluster."""
    if arguments.executor == "ray":
        from benchmark.executors import cluster

        yield from cluster.main(arguments, plans, store, options)
        return
    from benchmark.harness import runner

    for bench, runs in plans:
        yield runner.execute(runs, bench, store, options)


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


def _check_seeds(seeds: Sequence[int]) -> None:
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError(
            f"--seeds {' '.join(map(str, seeds))}: different whole numbers from 0 are wanted",
            "Type e.g. --seeds 0 1 2 3 4",
        )


def _open(arguments: argparse.Namespace, suite: suites.Suite, device: torch.device) -> Any:
    """The suite's bench; for a dry run of a full suite without its files, what a plan needs of it."""
    try:
        return suites.open_bench(
            suite,
            backbone=arguments.backbone,
            family=arguments.family,
            device=device,
            dtype=arguments.dtype,
            data_root=arguments.data_root,
            checkpoints=arguments.checkpoints,
        )
    except UserError as error:
        if not arguments.dry_run or suite.scale != "full":
            raise
        from benchmark.budget.dry_run import Planned

        planned = Planned(suite, arguments.backbone, arguments.family)
        print(f"note: {error}\n", file=sys.stderr)
        return planned


def _how(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The arguments that estimates depend on."""
    return {
        "device": device,
        "dtype": arguments.dtype,
        "autocast": arguments.autocast,
        "vectors": arguments.vectors,
        "batch_size": arguments.batch_size,
        "keep_merged": not arguments.discard_merged,
    }


def _print_plan(
    arguments: argparse.Namespace, plans: Sequence[tuple[Any, Sequence[Any]]], store: Any, device: torch.device
) -> int:
    """Print the plan; 1 where a run of a full suite cannot fit."""
    from benchmark.budget import dry_run, estimate

    status = 0
    for bench, runs in plans:
        around = dry_run.setting(bench, **_how(arguments, device))
        machine = None
        if around is not None:
            machine = estimate.look(device, store.root, estimate.cache_folder())
        print(dry_run.show(bench, runs, store, around, machine))
        found = dry_run.misfits(runs, around, machine) if around and machine else []
        for line in found:
            print(f"  cannot fit: {line}")
        status = status or int(bool(found) and bench.suite.scale == "full")
    return status
