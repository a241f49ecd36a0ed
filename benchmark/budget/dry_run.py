"""`--dry-run`, and the check before a full run: the plan with what each run takes, and a refusal of what cannot fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmark.budget import estimate
from benchmark.budget.estimate import Machine, Need, Setting, amount, duration
from benchmark.budget.shapes import Shapes
from benchmark.common.errors import UserError
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision import public as full
from benchmark.suites import Suite
from methods.core.registry import Access

if TYPE_CHECKING:
    import torch

# What a validation split holds at most; its true size follows from that of train.
VALIDATION = full.VALIDATION_MOST


class Planned:
    """A suite without its files: enough for a plan and its estimates, nothing can be run on it."""

    checkpoints: Mapping[str, str] = MappingProxyType({})

    def data_of(self, access: Access) -> dict[str, dict[str, str]]:
        """Nothing: no run of it has an id."""
        return {}

    def __init__(self, suite: Suite, backbone: str | None, family: str | None) -> None:
        self.suite, self.backbone, self.family = suite, backbone or suite.backbones[0], family or suite.families[0]
        if self.backbone not in suite.backbones or self.family not in suite.families:
            raise UserError(
                f"{suite.name} has no backbone {self.backbone} or family {self.family}",
                f"Backbones: {', '.join(suite.backbones)}; families: {', '.join(suite.families)}",
            )


def setting(
    bench: Any,
    *,
    device: torch.device | None = None,
    dtype: str = "float32",
    autocast: str | None = None,
    vectors: str = "float32",
    batch_size: int | None = None,
    keep_merged: bool = True,
    shapes: Shapes | None = None,
) -> Setting | None:
    """What surrounds a run of this bench, from shapes; None for a domain whose encoders cannot be outlined.

    Args:
        device: where the runs compute; its type alone matters. None: the CPU.
        shapes: of the backbone, where they are known already.
    """
    suite: Suite = bench.suite
    if suite.domain != "vision":
        return None
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
        eval_batch=batch_size or suite.batch_size,
        cuda=device is not None and device.type == "cuda",
        dtype_bytes=2 if dtype in ("float16", "bfloat16") else 4,
        autocast=autocast is not None,
        vector_bytes=4 if vectors == "float32" else 2,
        keep_merged=keep_merged,
    )


def show(bench: Any, runs: Sequence[Any], store: Any, around: Setting | None, machine: Machine | None) -> str:
    """The plan of one suite as text: a line a run, with estimates where they can be made."""
    head = f"{bench.suite.name} on {bench.backbone}, family {bench.family}: {len(runs)} runs"
    needs = [estimate.need(r.spec.method, r.spec.parameters, around, machine) if around else None for r in runs]
    rows = [("run", "method", "seed", "access", "status", "device GiB", "host GiB", "disk GiB", "time")]
    for run, need in zip(runs, needs, strict=True):
        # Without its checkpoints and data a run has no id.
        known = bool(run.spec.checkpoints and run.spec.data)
        record = store.load(run.spec) if known else None
        cells = ("?",) * 4 if need is None else (
            amount(need.device), amount(need.host), amount(need.disk), duration(need.seconds)
        )  # fmt: skip
        rows.append(
            (
                run.spec.run_id if known else "-",
                run.variant,
                "-" if run.spec.seed is None else str(run.spec.seed),
                run.method.access_for(run.spec.parameters).describe(),
                record.status if record else "to do" if known or not run.spec.checkpoints else "lacks data",
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


def misfits(runs: Sequence[Any], around: Setting, machine: Machine) -> list[str]:
    """For every run that cannot fit, what it lacks and the settings that would do."""
    found = []
    for run in runs:
        name, parameters = run.spec.method, run.spec.parameters
        short = estimate.lacking(estimate.need(name, parameters, around, machine), machine)
        if not short:
            continue
        what = ", ".join(f"{amount(a)} GiB of {kind} ({amount(b)} free)" for kind, (a, b) in short.items())
        mild = next(estimate.remedies(name, parameters, around, machine), None)
        least = max(a for a, _ in short.values())
        found.append(
            f"{run.variant} needs {what}: " + (f"{mild} would fit" if mild else f"a machine with {amount(least)} GiB")
        )
    return found


def refuse(
    plans: Sequence[tuple[Any, Sequence[Any]]], store: Any, results: Path, machine: Machine | None = None, **how: Any
) -> None:
    """Raise UserError where runs of a full suite that are still to do cannot fit, before anything starts.

    Args:
        machine: where they are to run; by default this one as it is now.
    """
    for bench, runs in plans:
        if bench.suite.scale != "full" or (around := setting(bench, **how)) is None:
            continue
        open_runs = [run for run in runs if (record := store.load(run.spec)) is None or record.status != "done"]
        room = machine or estimate.look(bench.device, results, estimate.cache_folder(), measure=False)
        if found := misfits(open_runs, around, room):
            raise UserError(
                f"{len(found)} of {len(open_runs)} runs of {bench.suite.name} cannot fit by estimate:\n  "
                + "\n  ".join(found),
                "Change that setting, leave them out of --methods, or type --unchecked to try all the same.",
            )
