"""What a whole board takes on N GPUs: measured costs of the small suites, scaled by shapes, and a simulated schedule.

A run's work is counted as for ``--dry-run`` (``budget.estimate``: float operations and bytes moved). How far that
count is from the truth was measured for each method in the small suites' records: the factor between the seconds
recorded and those that the same count gives on the core they were recorded on. A run on a GPU then takes that factor
times its own count at the GPU's speed, which is assumed, not measured. Every run has a GPU to itself.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import methods
from benchmark import suites
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import GIB
from benchmark.common.errors import UserError, check_range, check_seeds
from benchmark.common.spans import duration
from benchmark.common.tables import markdown
from benchmark.harness import runner
from benchmark.harness.job import Job
from benchmark.records.store import Store
from methods.core import registry

MEASURED = ("vision-mini-8", "vision-mini-14", "vision-mini-20")
#: Of GPUs in a schedule, and of one GPU's TFLOP/s, TB/s or GiB: far above what there is.
MOST_GPUS, MOST_OF_A_GPU = 100_000, 1_000_000
#: Bytes a second that one core moves: what the factors are taken against, so that its value matters little.
CORE_BANDWIDTH = 1e10


@dataclass(frozen=True)
class Slot:
    """One run in a schedule: its place in the list, its worker, and its seconds from and to."""

    run: int
    worker: int
    start: float
    end: float


def simulate(seconds: Sequence[float], workers: int) -> list[Slot]:
    """List scheduling: the runs in their order, each on the worker that is free first (the lowest of equals)."""
    free = [(0.0, worker) for worker in range(min(workers, len(seconds)))]  # the others stay idle
    slots = []
    for run, length in enumerate(seconds):
        start, worker = heapq.heappop(free)
        slots.append(Slot(run, worker, start, start + length))
        heapq.heappush(free, (start + length, worker))
    return slots


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds from the start of the first run to the end of the last."""
    return max((slot.end for slot in simulate(seconds, workers)), default=0.0)


@dataclass(frozen=True)
class Measured:
    """What the records say: the speed of the core they were made on, and each method's factor."""

    flops: float
    factors: dict[str, float]
    records: int

    @property
    def usual(self) -> float:
        """The factor of a method without a record: the median of the others."""
        return statistics.median(self.factors.values())


def measured(store: Store, names: Sequence[str] = MEASURED) -> Measured:
    """The core's speed (the median over evaluations), then for each method the median over its records.

    Raises UserError where there is no record to measure by.
    """
    settings = {name: dry_run.setting(dry_run.Planned(suites.load(name), None, None)) for name in names}
    records = [
        (around, record) for name, around in settings.items()
        for record in store.all(name) if record.status == "done" and record.cost.evaluate_seconds
    ]  # fmt: skip
    if not records:
        raise UserError(
            f"no records of {', '.join(names)} under {store.root}", "Run some: ./run_all.sh --methods symerge ties"
        )
    flops = statistics.median(
        around.shapes.flops * (around.samples["test"] or 0) / (record.cost.evaluate_seconds or 1.0)
        for around, record in records
    )
    factors = defaultdict(list)
    for around, record in records:
        cost, spec = record.cost, record.spec
        seconds = (cost.merge_seconds or 0.0) + (cost.adapt_seconds or 0.0) + (cost.evaluate_seconds or 0.0)
        factors[spec.method].append(
            seconds / estimate.work(spec.method, spec.parameters, around, flops, CORE_BANDWIDTH)
        )
    return Measured(flops, {name: statistics.median(each) for name, each in factors.items()}, len(records))


@dataclass(frozen=True)
class Question:
    """Which board is to be scheduled, and on what."""

    gpus: Sequence[int] = (1, 8, 64)
    """Numbers of GPUs."""
    suites: Sequence[str] = ("vision-8", "vision-14", "vision-20")
    backbones: Sequence[str] = ()
    """None named: all of the first suite's."""
    methods: Sequence[str] | None = None
    """Methods and variants; None: every suite's own list and every other method of the registry."""
    without: Sequence[str] = ()
    """Names of methods left out."""
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    tflops: float = 20.0
    """Of a GPU, sustained."""
    bandwidth: float = 1.0
    """Of its memory, in TB/s."""
    memory: float = 80.0
    """Of a GPU, in GiB."""
    longest: int = 5
    """How many of the longest runs are named."""


@dataclass(frozen=True)
class Timed:
    """One job of the board, with what it takes on a GPU by estimate."""

    job: Job
    seconds: float
    device_bytes: float


def board(question: Question, scale: Measured) -> list[Timed]:
    """The jobs of the suites on the backbones, in the order of the plan."""
    flops, bandwidth = question.tflops * 1e12, question.bandwidth * 1e12
    jobs = []
    for backbone in question.backbones:
        outlined = None
        for name in question.suites:
            bench: Any = dry_run.Planned(suites.load(name), backbone, None)
            around = dry_run.setting(bench, "cuda", shapes=outlined)
            outlined = around.shapes
            asked = question.methods or [*bench.suite.methods, *runner.suite_methods(bench.suite, ["all"])]
            for job in runner.plan(bench, asked, seeds=question.seeds):
                method, parameters = job.spec.method, job.spec.parameters
                if {"adapters", *registry.COUNTS}.intersection(job.method.needs) or method in question.without:
                    continue
                factor = scale.factors.get(method, scale.usual)
                seconds = factor * estimate.work(method, parameters, around, flops, bandwidth)
                jobs.append(Timed(job, seconds, estimate.need(method, parameters, around).device))
    return jobs


def table(jobs: Sequence[Timed], gpus: Sequence[int]) -> list[str]:
    """Markdown: wall time on each number of GPUs under both orders, beside what no schedule can beat."""
    plain = [each.seconds for each in jobs]
    longest_first = sorted(plain, reverse=True)
    total = sum(plain)
    rows = []
    for count in gpus:
        first, ordered = makespan(longest_first, count), makespan(plain, count)
        bound = max(longest_first[0], total / count)
        times = (f"{hours(first)} h", f"{hours(ordered)} h", f"{hours(bound)} h")
        rows.append([str(count), hours(total), *times, f"{100 * total / (count * first):.0f} %"])
    names = ["GPUs", "GPU hours", "wall time, longest first", "in plan order", "no schedule below"]
    return markdown([*names, "busy, longest first"], rows, ">>>>>>")


def hours(seconds: float) -> str:
    """Hours to two figures or a tenth."""
    return f"{seconds / 3600:,.1f}" if seconds < 360000 else f"{seconds / 3600:,.0f}"


def report(jobs: Sequence[Timed], scale: Measured, question: Question) -> str:
    """The whole page: table, shares, longest runs, and what of it is measured."""
    total = sum(each.seconds for each in jobs)
    longest = max(jobs, key=lambda each: each.seconds)
    spec = longest.job.spec
    lines = [
        f"{len(jobs)} runs: {', '.join(question.suites)} on {', '.join(question.backbones)}. The longest, "
        f"`{longest.job.variant}` on {spec.suite} with {spec.backbone}, takes {hours(longest.seconds)} h: it bounds "
        f"the whole from {math.ceil(total / longest.seconds)} GPUs on.",
        "",
        *table(jobs, question.gpus),
        "",
        *_shares(jobs, question),
        "",
        *_longest(jobs, scale, question.longest),
    ]
    without = sorted({each.job.spec.method for each in jobs} - set(scale.factors))
    share = sum(each.seconds for each in jobs if each.job.spec.method in without) / total
    core = scale.flops / 1e9
    lines += [
        "",
        f"Measured: the factors of {len(scale.factors)} methods ({min(scale.factors.values()):.2f} to "
        f"{max(scale.factors.values()):.2f} times the count), in {scale.records} records on one core of "
        f"{core:.0f} GFLOP/s.",
        f"Assumed: a GPU of {question.tflops:g} TFLOP/s and {question.bandwidth:g} TB/s, sustained; images are "
        "decoded already.",
    ]
    if without:
        named = ", ".join(f"`{name}`" for name in without)
        lines.append(f"Without a record, at the median factor: {named} ({share:.0%} of the hours).")
    size = question.memory * GIB
    if large := sorted({(each.job.spec.backbone, each.job.variant) for each in jobs if each.device_bytes > size}):
        named = ", ".join(f"`{variant}` ({backbone})" for backbone, variant in large)
        lines.append(
            f"More than {question.memory:g} GiB on the device by estimate, so with smaller batches only: {named}."
        )
    return "\n".join(lines)


def _shares(jobs: Sequence[Timed], question: Question) -> list[str]:
    """GPU hours by backbone and suite."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for each in jobs:
        seconds[each.job.spec.backbone, each.job.spec.suite] += each.seconds
    rows = [[b, *(hours(seconds[b, s]) for s in question.suites)] for b in question.backbones]
    return markdown(["GPU hours", *question.suites], rows, "<" + ">" * len(question.suites))


def _longest(jobs: Sequence[Timed], scale: Measured, count: int) -> list[str]:
    """The longest runs, each place once."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for each in sorted(jobs, key=lambda one: -one.seconds):
        spec, variant = each.job.spec, each.job.variant
        place = (variant, spec.suite, spec.backbone)
        if place not in rows and len(rows) < count:
            factor = f"{scale.factors[spec.method]:.2f}" if spec.method in scale.factors else f"({scale.usual:.2f})"
            rows[place] = [f"`{variant}`", spec.suite, spec.backbone, duration(each.seconds), factor]
    return markdown(["longest runs", "suite", "backbone", "takes", "factor"], list(rows.values()), "<<<>>")


def main(question: Question, reference: Path) -> int:
    """The command ``schedule``; ``reference`` holds the records to measure by."""
    for count in question.gpus:
        check_range("--gpus", count, 1, MOST_GPUS)
    for what in ("tflops", "bandwidth", "memory"):
        check_range(f"--{what}", getattr(question, what), 0, MOST_OF_A_GPU, open_below=True)
    check_range("--longest", question.longest, 0, MOST_GPUS)
    check_seeds(question.seeds)
    chosen = [suites.load(name) for name in question.suites]
    for name in question.without:
        methods.describe(name)
    question = replace(question, backbones=question.backbones or chosen[0].backbones)
    scale = measured(Store(reference, read_only=True))
    print(report(board(question, scale), scale, question))
    return 0
