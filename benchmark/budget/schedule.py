"""What a whole board takes on N GPUs: measured costs of the small suites, scaled by shapes, and a simulated schedule.

A run's work is counted as for ``--dry-run`` (``budget.estimate``: float operations and bytes moved). How far that
count is from the truth was measured for each method in the small suites' records: the factor between the seconds
recorded and those that the same count gives on the core they were recorded on. A run on a GPU then takes that factor
times its own count at the GPU's speed, which is assumed, not measured. Every run has a GPU to itself.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import methods
from benchmark import suites
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import GIB, Setting, duration
from benchmark.common.errors import UserError
from benchmark.harness import runner, tuning
from benchmark.records.store import Store

MEASURED = ("vision-mini-8", "vision-mini-14", "vision-mini-20")
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
    free = [(0.0, worker) for worker in range(workers)]
    slots = []
    for run, length in enumerate(seconds):
        start, worker = heapq.heappop(free)
        slots.append(Slot(run, worker, start, start + length))
        heapq.heappush(free, (start + length, worker))
    return slots


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds from the start of the first run to the end of the last."""
    return max((slot.end for slot in simulate(seconds, workers)), default=0.0)


def work(name: str, parameters: Mapping[str, Any], s: Setting, flops: float, bandwidth: float) -> float:
    """Seconds of a run at a speed; a scale chosen on validation images costs a merge and a validation a value."""

    def once(setting: Setting, values: Mapping[str, Any]) -> float:
        operations = estimate.operations(name, values, setting)
        return operations / flops + estimate.traffic(name, values, setting) / bandwidth

    about = methods.describe(name)
    searched = [key for key in about.grids if parameters.get(key) == "val"]
    plain = {**parameters, **{key: about.grids[key][0] for key in searched}}
    total = once(s, plain)
    for key in searched:
        total += len(tuning.grid(about, key)) * once(replace(s, samples={**s.samples, "test": s.samples["val"]}), plain)
    return total


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
        (around, record) for name, around in settings.items() if around is not None
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
    found = defaultdict(list)
    for around, record in records:
        cost, spec = record.cost, record.spec
        taken = (cost.merge_seconds or 0.0) + (cost.adapt_seconds or 0.0) + (cost.evaluate_seconds or 0.0)
        found[spec.method].append(taken / work(spec.method, spec.parameters, around, flops, CORE_BANDWIDTH))
    return Measured(flops, {name: statistics.median(each) for name, each in found.items()}, len(records))


@dataclass(frozen=True)
class Job:
    """One run of the board."""

    suite: str
    backbone: str
    variant: str
    method: str
    seed: int | None
    seconds: float
    device_bytes: float


def board(
    names: Sequence[str], backbones: Sequence[str], texts: Sequence[str] | None, seeds: Sequence[int],
    scale: Measured, flops: float, bandwidth: float,
    without: Sequence[str] = (),
) -> list[Job]:  # fmt: skip
    """The runs of the suites on the backbones, in the order of the plan.

    Args:
        without: names of methods left out.
        texts: methods and variants; None: every suite's own list and every other method of the registry.
    """
    jobs = []
    for backbone in backbones:
        outlined = None
        for name in names:
            bench: Any = dry_run.Planned(suites.load(name), backbone, None)
            around = dry_run.setting(bench, device=torch.device("cuda"), shapes=outlined)
            assert around is not None
            outlined = around.shapes
            asked = texts or [*bench.suite.methods, *runner.suite_methods(bench.suite, ["all"])]
            for run in runner.plan(bench, asked, seeds=seeds):
                method, parameters = run.spec.method, run.spec.parameters
                if "adapters" in run.method.needs or method in without:
                    continue
                factor = scale.factors.get(method, scale.usual)
                seconds = factor * work(method, parameters, around, flops, bandwidth)
                memory = estimate.need(method, parameters, around).device
                jobs.append(Job(name, backbone, run.variant, method, run.spec.seed, seconds, memory))
    return jobs


def table(jobs: Sequence[Job], gpus: Sequence[int]) -> list[str]:
    """Markdown: wall time on each number of GPUs under both orders, beside what no schedule can beat."""
    plain = [job.seconds for job in jobs]
    longest_first = sorted(plain, reverse=True)
    total = sum(plain)
    lines = [
        "| GPUs | GPU hours | wall time, longest first | in plan order | no schedule below | busy, longest first |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count in gpus:
        first, ordered = makespan(longest_first, count), makespan(plain, count)
        bound = max(longest_first[0], total / count)
        lines.append(
            f"| {count} | {hours(total)} | {hours(first)} h | {hours(ordered)} h | {hours(bound)} h "
            f"| {100 * total / (count * first):.0f} % |"
        )
    return lines


def hours(seconds: float) -> str:
    """Hours to two figures or a tenth."""
    return f"{seconds / 3600:,.1f}" if seconds < 360000 else f"{seconds / 3600:,.0f}"


def report(jobs: Sequence[Job], gpus: Sequence[int], scale: Measured, how: argparse.Namespace) -> str:
    """The whole page: table, shares, longest runs, and what of it is measured."""
    total = sum(job.seconds for job in jobs)
    longest = max(jobs, key=lambda job: job.seconds)
    lines = [
        f"{len(jobs)} runs: {', '.join(how.suite)} on {', '.join(how.backbone)}. The longest, `{longest.variant}` on "
        f"{longest.suite} with {longest.backbone}, takes {hours(longest.seconds)} h: it bounds the whole from "
        f"{math.ceil(total / longest.seconds)} GPUs on.",
        "",
        *table(jobs, gpus),
        "",
    ]
    parts: dict[tuple[str, str], float] = defaultdict(float)
    for job in jobs:
        parts[job.backbone, job.suite] += job.seconds
    lines += ["| GPU hours | " + " | ".join(how.suite) + " |", "|---|" + "---:|" * len(how.suite)]
    lines += [f"| {b} | " + " | ".join(hours(parts[b, s]) for s in how.suite) + " |" for b in how.backbone]
    lines += ["", "| longest runs | suite | backbone | takes | factor |", "|---|---|---|---:|---:|"]
    seen: set[tuple[str, str, str]] = set()
    for job in sorted(jobs, key=lambda job: -job.seconds):
        if (place := (job.variant, job.suite, job.backbone)) not in seen and len(seen) < how.longest:
            seen.add(place)
            factor = f"{scale.factors[job.method]:.2f}" if job.method in scale.factors else f"({scale.usual:.2f})"
            lines.append(f"| `{job.variant}` | {job.suite} | {job.backbone} | {duration(job.seconds)} | {factor} |")
    without = sorted({job.method for job in jobs} - set(scale.factors))
    share = sum(job.seconds for job in jobs if job.method in without) / total
    core = scale.flops / 1e9
    lines += [
        "",
        f"Measured: the factors of {len(scale.factors)} methods ({min(scale.factors.values()):.2f} to "
        f"{max(scale.factors.values()):.2f} times the count), in {scale.records} records on one core of "
        f"{core:.0f} GFLOP/s.",
        f"Assumed: a GPU of {how.tflops:g} TFLOP/s and {how.bandwidth:g} TB/s, sustained; images are decoded already.",
    ]
    if without:
        named = ", ".join(f"`{name}`" for name in without)
        lines.append(f"Without a record, at the median factor: {named} ({share:.0%} of the hours).")
    if large := sorted({(job.backbone, job.variant) for job in jobs if job.device_bytes > how.memory * GIB}):
        named = ", ".join(f"`{variant}` ({backbone})" for backbone, variant in large)
        lines.append(f"More than {how.memory:g} GiB on the device by estimate, so with smaller batches only: {named}.")
    return "\n".join(lines)


def main(how: argparse.Namespace, reference: Path) -> int:
    """The command ``schedule``; ``reference`` holds the records to measure by."""
    if min([*how.gpus, how.tflops, how.bandwidth]) <= 0:
        raise UserError("--gpus, --tflops and --bandwidth are positive numbers", "Type e.g. --gpus 1 8 64 --tflops 20")
    loaded = [suites.load(name) for name in how.suite]
    if any(suite.domain != "vision" for suite in loaded):
        raise UserError(f"only vision suites can be estimated, not all of {', '.join(how.suite)}", "See list suites.")
    for name in how.without:
        methods.describe(name)
    how.backbone = how.backbone or loaded[0].backbones
    scale = measured(Store(reference, read_only=True))
    flops, bandwidth = how.tflops * 1e12, how.bandwidth * 1e12
    jobs = board(how.suite, how.backbone, how.methods, how.seeds, scale, flops, bandwidth, how.without)
    print(report(jobs, how.gpus, scale, how))
    return 0
