"""`--dry-run`, and the check before a full run: the plan with what each run takes, and a refusal of what cannot fit."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.budget import estimate
from benchmark.budget.estimate import Machine, Need, Setting, amount
from benchmark.budget.shapes import Shapes, outline
from benchmark.common.errors import UserError
from benchmark.common.spans import duration
from benchmark.harness.job import Job, Options
from benchmark.suites import Suite, chosen, names
from benchmark.suites.extent import Extent
from methods.core.registry import Access

USUAL = Options()
HEADER = ("run", "method", "seed", "access", "status", "device GiB", "host GiB", "disk GiB", "time")


class Planned:
    """A suite without its files: enough for a plan and its estimates, nothing can be run on it."""

    checkpoints: Mapping[str, str] = MappingProxyType({})

    def data_of(self, access: Access) -> dict[str, dict[str, str]]:
        """Nothing: no run of it has an id."""
        return {}

    def __init__(
        self, suite: Suite, backbone: str | None, family: str | None, device: Any = "cpu", limit: int | None = None
    ) -> None:
        self.device, self.limit, self.suite = device, limit, suite
        self.backbone, self.family = chosen(suite, backbone, family)


def setting(bench: Any, device: str = "cpu", options: Options = USUAL, *, shapes: Shapes | None = None) -> Setting:
    """What surrounds a run of this bench in float32, from the suite's size as its domain tells it.

    Args:
        device: where the runs compute; its type alone matters.
        shapes: of the backbone, where they are known already.

    Raises:
        UserError: a package that the domain's encoders need is not installed; an encoder of a user's own that does not
            run without values.
    """
    known = setting_if_known(bench, device, options, shapes=shapes)
    if known is None:
        raise UserError(
            f"{bench.suite.typed}: its encoder does not run without values", "Run it: nothing is estimated."
        )
    return known


def setting_if_known(
    bench: Any, device: str = "cpu", options: Options = USUAL, *, shapes: Shapes | None = None
) -> Setting | None:
    """The same; None for an encoder of a user's own that does not run without values."""
    suite: Suite = bench.suite
    if suite.own is not None:
        return _of_own(bench, device, options)
    extent: Extent = importlib.import_module(f"benchmark.domains.{suite.domain}.extent").extent(
        suite, bench.backbone, bench.family
    )
    if shapes is None:
        shapes = outline(extent.model, extent.inputs, extent.merged)
    samples = dict(extent.samples)
    if (limit := getattr(bench, "limit", None)) is not None:
        most = limit * len(suite.tasks)
        samples = {split: most if count is None else min(most, count) for split, count in samples.items()}
    return Setting(
        shapes=shapes,
        tasks=len(suite.tasks),
        samples=samples,
        image_bytes=extent.sample_bytes,
        eval_batch=options.batch_size or suite.batch_size,
        cuda=device.startswith("cuda"),
        keep_merged=options.keep_merged,
        beside=extent.beside,
        finishing=extent.finishing,
    )


def _of_own(bench: Any, device: str, options: Options) -> Setting | None:
    """The same of a user's own suite: its encoder's shapes; None where it does not run without values."""
    import copy

    import torch

    from benchmark.budget.shapes import outline

    if isinstance(bench, Planned):
        raise UserError(f"{bench.suite.typed} is planned with its files only", "See --dry-run, or list FILE.yaml")
    height, width = bench.pixels.size
    encoder = copy.deepcopy(bench.encoder.module).requires_grad_(True).to("meta")
    try:
        shapes = outline(encoder, lambda n: torch.empty(n, 3, height, width, device="meta"))
    except (RuntimeError, NotImplementedError, ValueError):  # a library's code that looks at values
        return None
    return Setting(
        shapes=shapes,
        tasks=len(bench.suite.tasks),
        samples=dict(bench.counts()),
        image_bytes=3 * height * width,
        eval_batch=options.batch_size or bench.suite.batch_size,
        cuda=device.startswith("cuda"),
        keep_merged=options.keep_merged,
    )


def show(bench: Any, jobs: Sequence[Job], store: Any, around: Setting | None, machine: Machine | None) -> str:
    """The plan of one suite as text: a line a run with its estimates, and what all that are to do take together.

    Args:
        around: None for a bench of no registered suite, of which nothing can be estimated.
    """
    head = f"{bench.suite.name} on {bench.backbone}, family {bench.family}: {len(jobs)} runs"
    if (limit := getattr(bench, "limit", None)) is not None:
        head += f"; a trial on at most {limit:,} samples a task, which gives no result"
    needs = [_need(job, around, machine) if around else None for job in jobs]
    rows: list[tuple[str, ...]] = [
        ("run", "method", "seed", "access", "status", "device GiB", "host GiB", "disk GiB", "time")
    ]
    open_needs = []
    for job, need in zip(jobs, needs, strict=True):
        # Without its checkpoints and data a run has no id.
        has_id = bool(job.spec.checkpoints and job.spec.data)
        record = store.load(job.spec) if has_id else None
        if need is not None and (record is None or record.status != "done"):
            open_needs.append(need)
        rows.append(
            (
                job.id if has_id else "-",
                job.variant,
                "-" if job.spec.seed is None else str(job.spec.seed),
                job.access.describe(),
                record.status if record else "to do" if has_id or not job.spec.checkpoints else "lacks data",
                *_amounts(need),
            )
        )
    if around:
        together = f"{len(open_needs)} to do, one after another"
        rows.append(("total", together, "", "", "", *_amounts(total(open_needs))))
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    tail = [] if around is None or machine is None else _notes(around, machine, [need for need in needs if need])
    return "\n".join([head, *lines, *tail])


def _amounts(need: Need | None) -> tuple[str, ...]:
    if need is None:
        return ("?",) * 4
    return amount(need.device), amount(need.together), amount(need.disk), duration(need.seconds)


def total(needs: Sequence[Need]) -> Need:
    """What runs take one after another: the largest memory and cache, the disk and the time of all."""
    seconds = [need.seconds for need in needs if need.seconds is not None]
    return Need(
        device=max((need.device for need in needs), default=0.0),
        host=max((need.host for need in needs), default=0.0),
        disk=sum(need.disk for need in needs),
        cache=max((need.cache for need in needs), default=0.0),
        seconds=sum(seconds) if len(seconds) == len(needs) else None,
        phase="",
        unknown=tuple(sorted({what for need in needs for what in need.unknown})),
        together=max((need.together for need in needs), default=0.0),
    )


def _notes(around: Setting, machine: Machine, needs: Sequence[Need]) -> list[str]:
    free = [("host memory", machine.host), ("disk of the results", machine.disk), ("disk of the cache", machine.cache)]
    if around.cuda:
        free.insert(0, ("device memory", machine.device))
    lines = ["  free now: " + ", ".join(f"{what} {amount(size)} GiB" for what, size in free)]
    cached = max((need.cache for need in needs), default=0.0)
    if cached:
        lines.append(f"  decoded samples, once for all runs: {amount(cached)} GiB of the cache")
    if left := sorted({what for need in needs for what in need.unknown}):
        lines.append(f"  not counted, since no source says how many: {', '.join(left)}")
    lines.append("  estimates from shapes; times within a factor of a few, at the device's speed a moment ago")
    return lines


def _need(job: Job, around: Setting, machine: Machine | None) -> Need:
    return estimate.need(job.spec.method, job.spec.parameters, around.at(job.precision), machine)


def misfits(jobs: Sequence[Job], around: Setting, machine: Machine) -> list[str]:
    """For every run that cannot fit, what it lacks and the settings that would do."""
    lines = []
    for job in jobs:
        short = estimate.lacking(_need(job, around, machine), machine)
        if not short:
            continue
        what = ", ".join(f"{amount(a)} GiB of {kind} ({amount(b)} free)" for kind, (a, b) in short.items())
        mild = next(estimate.remedies(job.spec.method, job.spec.parameters, around.at(job.precision), machine), None)
        least = max(a for a, _ in short.values())
        lines.append(
            f"{job.variant} needs {what}: " + (f"{mild} would fit" if mild else f"a machine with {amount(least)} GiB")
        )
    return lines


#: Speeds at which the work of runs is compared, in float operations and bytes a second: a processor core's.
CORE = 5e10, 1e10


def work(plans: Sequence[tuple[Any, Sequence[Job]]], options: Options = USUAL) -> dict[str, float]:
    """About how long each run takes beside the others, by its id; nothing of suites whose size is not known."""
    sizes: dict[str, float] = {}
    for bench, jobs in plans:
        if bench.suite.own is None and bench.suite.name not in names():
            continue
        around = setting_if_known(bench, jobs[0].device if jobs else "cpu", options)
        if around is not None:
            sizes |= {job.id: estimate.work(job.spec.method, job.spec.parameters, around, *CORE) for job in jobs}
    return sizes


def refuse(
    plans: Sequence[tuple[Any, Sequence[Job]]],
    store: Any,
    results: Path,
    options: Options = USUAL,
    machine: Machine | None = None,
) -> None:
    """Raise UserError where runs on a user's files that are still to do cannot fit, before anything starts.

    Args:
        machine: where they are to run; by default this one as it is now.
    """
    for bench, jobs in plans:
        device = jobs[0].device if jobs else "cpu"
        if bench.suite.embedded or (around := setting_if_known(bench, device, options)) is None:
            continue
        open_jobs = [job for job in jobs if (record := store.load(job.spec)) is None or record.status != "done"]
        room = machine or estimate.look(bench.device, results, estimate.cache_folder(), measure=False)
        if lines := misfits(open_jobs, around, room):
            raise UserError(
                f"{len(lines)} of {len(open_jobs)} runs of {bench.suite.name} cannot fit by estimate:\n  "
                + "\n  ".join(lines),
                "Change that setting, leave them out of --methods, or type --unchecked to try all the same.",
            )
