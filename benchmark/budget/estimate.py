"""What a run will take before anything starts: memory, disk and time, from shapes and what its method declares.

Everything about a method is in its ``Footprint`` (``methods/core/footprint.py``); its code is neither read nor known.
M below is one model in float32, K the number of tasks. docs/data.md says how near the estimates come.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import methods
from benchmark.budget.shapes import Shapes
from benchmark.records.precision import Precision
from benchmark.records.spec import REFERENCE_ROWS
from methods.core.access import Access
from methods.core.footprint import COUNTS, Footprint, Pair

GIB = float(2**30)
# Of a process that has imported everything and computed nothing: measured in anonymous memory, and a CUDA context.
RUNTIME, CONTEXT = 0.55 * GIB, 0.5 * GIB
# Of the server that methods' processes are forked from; it and the harness's own process are there beside them.
SERVER = 0.4 * GIB
# Samples that methods run together: see methods/tools/adaptation.py, activations.py, fisher_information.py.
OUTPUTS, OBSERVED = 256, 32


@dataclass(frozen=True)
class Setting:
    """Everything beside the method that decides what a run takes."""

    shapes: Shapes
    tasks: int
    samples: Mapping[str, int | None]
    """Images of all tasks together by split (train, val, test); None where no source says."""
    image_bytes: int
    """Of one cached image."""
    eval_batch: int
    cuda: bool = False
    precision: Precision = Precision()
    keep_merged: bool = True
    beside: int = 0
    """Bytes that lie beside the models and are not merged: heads, embeddings."""
    finishing: int = 0
    """Samples that the suite's protocol runs together on every merge before it is saved."""

    def at(self, precision: Precision) -> Setting:
        """The same for a run in another precision."""
        return replace(self, precision=precision)


@dataclass(frozen=True)
class Need:
    """What one run takes: bytes and seconds. ``seconds`` is None without a measured speed."""

    device: float
    host: float
    disk: float
    cache: float
    seconds: float | None
    phase: str
    """The part of the run that takes the most memory on the device."""
    unknown: tuple[str, ...] = ()
    """What no source says and is left out."""
    together: float = 0.0
    """Of the host, all processes of the run at once; ``host`` is the largest of them."""


@dataclass(frozen=True)
class Machine:
    """What is free, in bytes, and how fast the device is: float operations and bytes a second."""

    device: float
    host: float
    disk: float
    cache: float
    flops: float | None = None
    bandwidth: float | None = None


@dataclass(frozen=True)
class Part:
    """The work of one method of a run: of the run's own, or of the one that it stands on."""

    footprint: Footprint
    access: Access
    steps: int | None
    """Updates on data, or steps of its own; None where it has none."""
    batch: int
    batches: int
    examples: int

    @property
    def adapts(self) -> bool:
        """Whether its steps are updates on data."""
        return bool(self.access) and self.steps is not None

    @property
    def drawn(self) -> int:
        """Samples of one task that its updates draw."""
        return (self.steps or 0) * self.batch * self.batches


def parts(name: str, parameters: Mapping[str, Any]) -> list[Part]:
    """The work of a run, method by method."""
    works = []
    for about, keywords in methods.describe(name).stack(parameters):
        footprint = about.footprint
        steps, batch, batches, examples = (footprint.count(each, keywords) for each in COUNTS)
        works.append(Part(footprint, about.handed(keywords), steps, batch or 0, batches or 1, examples or 0))
    return works


def phases(name: str, parameters: Mapping[str, Any], s: Setting) -> dict[str, float]:
    """Bytes that each part of a run holds at its peak, where it computes, beyond the encoder's own weights."""
    peaks: dict[str, float] = {}
    for part in parts(name, parameters):
        for phase, size in _phases(part, s):
            peaks[phase] = max(size, peaks.get(phase, 0.0))
    if s.finishing:
        # The merge itself, and the encoder that it is put into.
        together = min(s.finishing, (s.samples.get("train") or s.finishing) // max(1, s.tasks))
        peaks["statistics"] = 2 * s.shapes.bytes + s.shapes.forward * together
    return peaks


def _phases(part: Part, s: Setting) -> Iterator[tuple[str, float]]:
    shape, k, m, of = s.shapes, s.tasks, float(s.shapes.bytes), part.footprint
    half = 0.6 if s.precision.mixed else 1.0
    training = half * shape.training * part.batch
    linear = sum(width * width for _, width in shape.linear)
    result, tensor = _times(of.keeps, k) * m, 4.0 * _times(of.tensor, k) * shape.largest
    vectors = 0.0
    if of.vectors:
        # In another dtype than float32 one tensor's are read as float32 at a time.
        size = s.precision.vector_bytes
        vectors = m + k * (m if size == 4 else m * size / 4 + 4.0 * shape.largest)
    if result:
        yield "merging", result + tensor
    if any(of.holds):
        yield "whole models", _times(of.holds, k) * m
    if of.masks:
        yield "masks", result + k * m / 32 + tensor
    if of.statistics == "grams":
        outputs = sum(rows * width for rows, width in shape.linear)
        yield "Gram matrices", m + 8.0 * (3 * linear + outputs) + half * shape.forward * OBSERVED
    elif of.statistics == "inputs":
        yield "layer inputs", 2 * m + 8.0 * linear + half * shape.forward * OBSERVED
    elif of.statistics == "gradients":
        together = max(1, min(OBSERVED, (1 << 25) // shape.parameters))
        yield "squared gradients", (4 + 3 * together) * m + shape.training * together
    if any(of.decompositions):
        factors = 4.0 * sum(min(pair) * sum(pair) for pair in shape.matrices) if of.factors else 0.0
        yield "decompositions", result + factors + 16.0 * max((a * b for a, b in shape.matrices), default=0)
    if part.adapts and not of.frozen:
        triplets = sum(min(pair) * (sum(pair) + pair[0]) for pair in shape.matrices)
        spectra = m + 4.0 * k * triplets if of.spectra else 0.0
        yield "adaptation", _times(of.adapting, k) * m + vectors + spectra + of.workspace * GIB + training
    if part.adapts and of.teacher:
        together = min(OUTPUTS, max(1, part.steps or 0) * part.batch * part.batches)
        yield "experts' predictions", result + vectors + m + half * shape.forward * together
    width = s.precision.weight_bytes / 4
    yield "evaluation", _times(of.serves, k) * m * width + half * width * shape.forward * s.eval_batch


def _times(pair: Pair, tasks: int) -> float:
    return pair[0] + pair[1] * tasks


def need(name: str, parameters: Mapping[str, Any], s: Setting, machine: Machine | None = None) -> Need:
    """What one run of a method takes, with its seconds if the machine's speed is known."""
    k, m = s.tasks, float(s.shapes.bytes)
    peaks = phases(name, parameters, s)
    phase = max(peaks, key=peaks.__getitem__)
    computing = m + s.beside + peaks[phase]
    footprints = [each.footprint for each in parts(name, parameters)]
    result = max(_times(each.keeps, k) * m + (k * m / 32 if each.masks else 0.0) for each in footprints)
    # Saving copies the result; on the CPU it lies in the same memory as the rest.
    saving = 2 * result
    # The harness judges merges on an encoder of its own, which is there while the method's process computes; its
    # context is, too, and so takes no part of what is free.
    device, host = (computing + m + CONTEXT, RUNTIME + 2 * m + saving) if s.cuda else (0.0, computing)
    if not s.cuda:
        host = RUNTIME + max(computing, m + saving)
    access = methods.describe(name).access_for(parameters)
    wanted = {"test": "test", **{split: split for split, _ in access.items()}}
    unknown = tuple(f"images of {split}" for split in wanted if s.samples.get(split) is None)
    cache = float(sum((s.samples.get(split) or 0) * s.image_bytes for split in wanted))
    seconds = None
    if machine is not None and machine.flops and machine.bandwidth:
        seconds = work(name, parameters, s, machine.flops, machine.bandwidth)
    disk = result if s.keep_merged or result == 0 else result
    waiting, serving = RUNTIME + m, peaks["evaluation"]
    merging = max((size for phase, size in peaks.items() if phase != "evaluation"), default=0.0)
    making = waiting + host if s.cuda else waiting + RUNTIME + max(m + s.beside + merging, m + saving)
    # A merge that needs more than one model to serve a task is run in a process of its own.
    elsewhere = any(each.serves != Footprint.serves for each in footprints)
    judging = (waiting + RUNTIME if elsewhere else waiting) + s.beside + (0.0 if s.cuda else serving)
    together = SERVER + max(making, judging)
    return Need(device, host, disk + 2**20 * k, cache, seconds, phase, unknown, together)


def work(name: str, parameters: Mapping[str, Any], s: Setting, flops: float, bandwidth: float) -> float:
    """Seconds of a run at a speed, in float operations and bytes a second.

    A coefficient chosen on validation data (``scale=val``) costs a merge and a validation for each value of its grid,
    and once the validation of the experts, by which scores are normalised.
    """

    def once(which: str, values: Mapping[str, Any], setting: Setting) -> float:
        return operations(which, values, setting) / flops + traffic(which, values, setting) / bandwidth

    about = methods.describe(name)
    searched = [key for key in about.grids if parameters.get(key) == "val"]
    plain = {**parameters, **{key: about.grids[key][0] for key in searched}}
    total = once(name, plain, s)
    validation = replace(s, samples={**s.samples, "test": s.samples.get("val")})
    for key in searched:
        total += about.grids[key][2] * once(name, plain, validation) + once(REFERENCE_ROWS[-1], {}, validation)
    return total


def operations(name: str, parameters: Mapping[str, Any], s: Setting) -> float:
    """Float operations of a run, within a factor of two or three: passes of the encoder and decompositions."""
    shape, k = s.shapes, s.tasks
    total = shape.flops * (s.samples.get("test") or 0)
    cubes = sum(a * b * min(a, b) for a, b in shape.matrices)
    squares = sum(a * b * b for a, b in shape.matrices)
    for part in parts(name, parameters):
        of = part.footprint
        if part.access and part.drawn:
            distinct = min(part.drawn * k, s.samples.get(part.access.items()[-1][0]) or part.drawn * k)
            total += shape.flops * distinct * (of.teacher + of.frozen)
            total += 0 if of.frozen else 3 * shape.flops * part.drawn * k
        if part.access:
            total += shape.flops * part.examples * k * (6 if of.statistics == "gradients" else 1)
        total += 10 * _times(of.decompositions, k) * cubes
        total += 2 * (_times(of.products, k) + (part.steps or 0) * _times(of.step_products, k)) * squares
    return float(total)


def traffic(name: str, parameters: Mapping[str, Any], s: Setting) -> float:
    """Bytes that a run reads or writes: experts, the result, and every step of a merge that is differentiated."""
    k, m = s.tasks, float(s.shapes.bytes)
    every = parts(name, parameters)
    total = (1 + sum(part.footprint.passes for part in every)) * (k + 1) * m
    for part in every:
        if part.footprint.vectors and part.adapts:
            total += (part.steps or 0) * 2 * (k + 2) * m * _times(part.footprint.merges, k)
    return total


def look(device: Any, results: Path, cache: Path, *, measure: bool = True) -> Machine:
    """What is free now, and (``measure``, a second of work) how fast the device multiplies and copies."""
    import psutil
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    flops, bandwidth = _speed(device) if measure else (None, None)
    return Machine(
        device=float(free),
        host=float(psutil.virtual_memory().available),
        disk=float(shutil.disk_usage(_existing(results)).free),
        cache=float(shutil.disk_usage(_existing(cache)).free),
        flops=flops,
        bandwidth=bandwidth,
    )


def _existing(path: Path) -> Path:
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())


def _speed(device: Any) -> tuple[float, float]:
    import torch

    def fastest(work: Any, rounds: int = 4) -> float:
        best = math.inf
        for _ in range(rounds):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - began)
        return best

    a, big = torch.ones(1024, 1024, device=device), torch.ones(1 << 24, device=device)
    # An encoder's passes reach about half of a plain product's speed.
    return 0.5 * 2 * 1024**3 / fastest(lambda: a @ a), 2 * 4 * (1 << 24) / fastest(lambda: big.add(1))


def lacking(wants: Need, machine: Machine) -> dict[str, tuple[float, float]]:
    """``{resource: (bytes needed, bytes free)}`` of everything that does not fit."""
    pairs = {
        "device memory": (wants.device, machine.device),
        "host memory": (wants.together, machine.host),
        "disk of the results": (wants.disk, machine.disk),
        "disk of the cache": (wants.cache, machine.cache),
    }
    return {what: pair for what, pair in pairs.items() if pair[0] > pair[1] and pair[0] > 0}


def remedies(name: str, parameters: Mapping[str, Any], s: Setting, machine: Machine) -> Iterator[str]:
    """Settings with which the run would fit by the same estimate, the mildest first."""
    for text, changed, other in _settings(name, parameters, s):
        if not lacking(need(name, changed, other), machine):
            yield text
    if s.cuda:
        # Elsewhere the host's memory is what counts.
        if not lacking(need(name, parameters, replace(s, cuda=False)), machine):
            yield "--device cpu"
    short = lacking(need(name, parameters, s), machine)
    if "disk of the cache" in short:
        yield "SYMERGE_CACHE=DIR on a larger disk"
    if "disk of the results" in short:
        yield "--results DIR on a larger disk"


def _settings(name: str, parameters: Mapping[str, Any], s: Setting) -> Iterator[tuple[str, Mapping[str, Any], Setting]]:
    plain = dict(parameters)
    for size in (64, 16, 4):
        if size < s.eval_batch:
            yield f"--batch-size {size}", plain, replace(s, eval_batch=size)
    mixed = replace(s.precision, autocast="bfloat16")
    if not s.precision.mixed:
        yield "--autocast bfloat16", plain, replace(s, precision=mixed, eval_batch=min(s.eval_batch, 64))
    if s.precision.vector_bytes == 4 and methods.describe(name).holds_vectors(parameters):
        small = replace(s, eval_batch=min(s.eval_batch, 64))
        yield "--vectors bfloat16", plain, small.at(replace(s.precision, vectors="bfloat16"))
        yield "--vectors bfloat16 --autocast bfloat16", plain, small.at(replace(mixed, vectors="bfloat16"))
    key = str(methods.describe(name).footprint.batch)
    batch = int(parameters.get(key) or 0)
    while batch > 4:
        batch //= 2
        yield (
            f"--set {name}.{key}={batch} (another run than the paper's)",
            {**plain, key: batch},
            replace(s, eval_batch=min(s.eval_batch, 64)),
        )


def amount(size: float) -> str:
    """Bytes for people, in GiB."""
    return f"{size / GIB:.1f}" if size >= 0.05 * GIB else "<0.1" if size else "-"


def cache_folder() -> Path:
    """Where decoded images go."""
    from benchmark.common.cache import cache_dir

    return cache_dir()
