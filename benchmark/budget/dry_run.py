"""`--dry-run`, and the check before a full run: the plan with what each run takes, and a refusal of what cannot fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.budget import estimate
from benchmark.budget.estimate import Machine, Need, Setting, amount, duration
from benchmark.budget.shapes import Shapes
from benchmark.common.errors import UserError
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision import public as full
from benchmark.harness.job import Job, Options
from benchmark.suites import Suite
from methods.core.registry import Access

# What a validation split holds at most; its true size follows from that of train.
VALIDATION = full.VALIDATION_MOST
USUAL = Options()


class Planned:
    """A suite without its files: enough for a plan and its estimates, nothing can be run on it."""

    checkpoints: Mapping[str, str] = MappingProxyType({})

    def data_of(self, access: Access) -> dict[str, dict[str, str]]:
        """Nothing: no run of it has an id."""
        return {}

    def __init__(self, suite: Suite, backbone: str | None, family: str | None, device: Any = "cpu") -> None:
        self.device = device
        self.suite, self.backbone, self.family = suite, backbone or suite.backbones[0], family or suite.families[0]
        if self.backbone not in suite.backbones or self.family not in suite.families:
            raise UserError(
                f"{suite.name} has no backbone {self.backbone} or family {self.family}",
                f"Backbones: {', '.join(suite.backbones)}; families: {', '.join(suite.families)}",
            )


def setting(
    bench: Any, device: str = "cpu", options: Options = USUAL, *, shapes: Shapes | None = None
) -> Setting | None:
    """What surrounds a run of this bench in float32, from shapes; None for a domain whose encoders have no outline.

    Args:
        device: where the runs compute; its type alone matters.
        shapes: of the backbone, where they are known already.
    """
    suite: Suite = bench.suite
    if suite.domain != "vision":
        return None
    if suite.own is not None:
        return _of_own(bench, device, options)
    import torch

    from benchmark.budget.shapes import outline
    from benchmark.domains.vision.backbones import create_encoder, get_backbone

    size = get_backbone(bench.backbone).image_size
    if shapes is None:
        encoder = create_encoder(bench.backbone, device="meta")
        shapes = outline(encoder, lambda n: torch.empty(n, 3, size, size, device="meta"))
    samples: dict[str, int | None]
    if suite.scale == "full":
        tests = sum(full.info(task, bench.family).test.n for task in suite.tasks)
        samples = {"test": tests, "val": VALIDATION * len(suite.tasks), "train": None}
        image = size * size * 3
    else:
        about = [vision.info(task) for task in suite.tasks]
        names = {"train": "train", "val": "validation", "test": "test"}
        samples = {split: sum(a.counts[name] for a in about) for split, name in names.items()}
        image = max(3 * size * size if len(a.shape) == 3 else size * size for a in about)
    return Setting(
        shapes=shapes,
        tasks=len(suite.tasks),
        samples=samples,
        image_bytes=image,
        eval_batch=options.batch_size or suite.batch_size,
        cuda=device.startswith("cuda"),
        keep_merged=options.keep_merged,
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
    """The plan of one suite as text: a line a run, with estimates where they can be made."""
    head = f"{bench.suite.name} on {bench.backbone}, family {bench.family}: {len(jobs)} runs"
    needs = [_need(job, around, machine) if around else None for job in jobs]
    rows = [("run", "method", "seed", "access", "status", "device GiB", "host GiB", "disk GiB", "time")]
    for job, need in zip(jobs, needs, strict=True):
        # Without its checkpoints and data a run has no id.
        has_id = bool(job.spec.checkpoints and job.spec.data)
        record = store.load(job.spec) if has_id else None
        cells = ("?",) * 4 if need is None else (
            amount(need.device), amount(need.host), amount(need.disk), duration(need.seconds)
        )  # fmt: skip
        rows.append(
            (
                job.id if has_id else "-",
                job.variant,
                "-" if job.spec.seed is None else str(job.spec.seed),
                job.access.describe(),
                record.status if record else "to do" if has_id or not job.spec.checkpoints else "lacks data",
                *cells,
            )
        )
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    tail = [] if around is None or machine is None else _notes(around, machine, [n for n in needs if n])
    return "\n".join([head, *lines, *tail])


def _notes(around: Setting, machine: Machine, needs: Sequence[Need]) -> list[str]:
    free = [("host memory", machine.host), ("disk of the results", machine.disk), ("disk of the cache", machine.cache)]
    if around.cuda:
        free.insert(0, ("device memory", machine.device))
    lines = ["  free now: " + ", ".join(f"{what} {amount(size)} GiB" for what, size in free)]
    cached = max((need.cache for need in needs), default=0.0)
    lines.append(f"  decoded images, once for all runs: {amount(cached)} GiB of the cache")
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
        if bench.suite.embedded or (around := setting(bench, device, options)) is None:
            continue
        open_jobs = [job for job in jobs if (record := store.load(job.spec)) is None or record.status != "done"]
        room = machine or estimate.look(bench.device, results, estimate.cache_folder(), measure=False)
        if lines := misfits(open_jobs, around, room):
            raise UserError(
                f"{len(lines)} of {len(open_jobs)} runs of {bench.suite.name} cannot fit by estimate:\n  "
                + "\n  ".join(lines),
                "Change that setting, leave them out of --methods, or type --unchecked to try all the same.",
            )
