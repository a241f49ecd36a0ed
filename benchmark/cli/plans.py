"""The plans of the command ``run``: what a full suite lacks, the jobs of each suite with their bench, the dry run."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmark import suites
from benchmark.cli.options import folders
from benchmark.common.errors import shown
from benchmark.records.precision import Precision
from benchmark.records.spec import other_data

if TYPE_CHECKING:
    import torch

    from benchmark.harness.job import Job, Options
    from benchmark.records.store import Store
    from benchmark.suites.bench import Bench

    Plans = Sequence[tuple[Bench, list[Job]]]


def plan(
    arguments: argparse.Namespace, device: torch.device, sets: dict[str, dict[str, Any]], settings: Options
) -> Plans:
    """The jobs of each suite, with the bench that they are planned on."""
    import torch

    from benchmark.harness import runner

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plans = []
    for name in arguments.suite:
        suite = suites.load(name)
        jobs_on = functools.partial(
            runner.plan,
            texts=runner.suite_methods(suite, arguments.methods),
            seeds=arguments.seeds,
            sets=sets,
            precision=Precision(arguments.dtype, arguments.autocast, arguments.vectors),
            without_data=arguments.dry_run,
        )
        bench = _open(arguments, suite, device, jobs_on, settings)
        plans.append((bench, jobs_on(bench)))
    return plans


def _open(
    arguments: argparse.Namespace,
    suite: suites.Suite,
    device: torch.device,
    jobs_on: Callable[[Any], list[Job]],
    settings: Options,
) -> Any:
    """The suite's bench. Of a full suite all that it needs is looked at first, and shown where something is lacking.

    A dry run of a full suite without its files gets what a plan needs of it.
    """
    if suite.scale == "full" and not arguments.worker:
        planned = _look(arguments, suite, device, jobs_on, settings)
        if planned is not None:
            return planned
    return suites.open_bench(
        suite,
        backbone=arguments.backbone,
        family=arguments.family,
        device=device,
        dtype=arguments.dtype,
        data_root=arguments.data_root,
        checkpoints=arguments.checkpoints,
        limit=arguments.limit,
    )


def _look(
    arguments: argparse.Namespace,
    suite: suites.Suite,
    device: torch.device,
    jobs_on: Callable[[Any], list[Job]],
    settings: Options,
) -> Any:
    """None where all that the suite needs is there; else the table of it is printed.

    Raises UserError then, or, for a dry run, gives what a plan needs of the suite.
    """
    from benchmark.budget import dry_run, estimate, readiness

    planned = dry_run.Planned(suite, arguments.backbone, arguments.family, str(device), arguments.limit)
    ready = readiness.inspect(
        planned,
        jobs_on(planned),
        data_root=arguments.data_root,
        checkpoints=arguments.checkpoints,
        options=settings,
    )
    if not ready.lacking:
        print(f"{suite.name}: all {len(ready.findings)} data sets and checkpoints are there", file=sys.stderr)
        return None
    results, _ = folders(arguments.results, arguments.reference)
    machine = estimate.look(device, results, estimate.cache_folder(), measure=device.type == "cuda")
    print(readiness.show(ready, machine), flush=True)
    if not arguments.dry_run:
        raise ready.error()
    print(f"note: {ready.error()}\n", file=sys.stderr)
    return planned


def tell_of_other_data(plans: Plans, store: Store) -> None:
    """Say of records that they were made on other data than the plan's, where some of its runs are still to do."""
    for bench, jobs in plans:
        if all(job.spec.data and store.load(job.spec) for job in jobs):
            continue
        place = (bench.backbone, bench.family)
        others = [
            said
            for record in store.all(bench.suite.name)
            if (record.spec.backbone, record.spec.family) == place
            and (said := next(filter(None, (other_data(record.spec.data, job.spec.data) for job in jobs)), None))
        ]
        if others:
            print(
                f"note: {len(others)} records of {bench.suite.name} in {shown(store.root)} were made on other data: "
                f"{others[0]}. They stay, count for no run of this plan, and are listed apart on boards.",
                file=sys.stderr,
            )


def print_plan(plans: Plans, store: Store, settings: Options) -> int:
    """``--dry-run``: print the plan; 1 where a run on a user's files cannot fit."""
    import torch

    from benchmark.budget import dry_run, estimate

    status = 0
    for bench, jobs in plans:
        device = jobs[0].device
        around, machine = dry_run.setting_if_known(bench, device, settings), None
        if around is not None:
            machine = estimate.look(torch.device(device), store.root, estimate.cache_folder())
        print(dry_run.show(bench, jobs, store, around, machine))
        lines = dry_run.misfits(jobs, around, machine) if around and machine else []
        for line in lines:
            print(f"  cannot fit: {line}")
        status = status or int(bool(lines) and not bench.suite.embedded)
    return status
