"""What a run will take before anything starts: memory, disk and time, from shapes and the code a method reaches.

A method's kind of work is not declared; it is seen in the shared definitions of ``methods/`` that its code reaches
(``benchmark.version``): who uses ``LayerwiseMerge`` holds all task vectors, who uses ``grams`` a Gram matrix a layer.
M below is one model in float32, K the number of tasks. docs/data.md says how near the estimates come.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import methods
from benchmark.shapes import Shapes
from benchmark.version import reached

GIB = float(2**30)
# Of a process that has imported everything and computed nothing: measured in anonymous memory, and a CUDA context.
RUNTIME, CONTEXT = 0.55 * GIB, 0.5 * GIB
# Samples that methods run together: see methods/adaptation.py, methods/statistics.py and methods/wemoe.py.
OUTPUTS, OBSERVED, AT_ONCE = 256, 32, 1 << 28


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
    dtype_bytes: int = 4
    autocast: bool = False
    vector_bytes: int = 4
    """Of one entry of a task vector that adaptation holds."""
    keep_merged: bool = True


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


@dataclass(frozen=True)
class Machine:
    """What is free, in bytes, and how fast the device is: float operations and bytes a second."""

    device: float
    host: float
    disk: float
    cache: float
    flops: float | None = None
    bandwidth: float | None = None


@functools.cache
def pieces(name: str, inner: str | None = None) -> frozenset[str]:
    """The definitions a method reaches, as ``file:definition``; ``inner`` is a method it runs by name."""
    found: set[str] = set()
    for each in filter(None, (name, inner)):
        found |= {f"{Path(file).stem}:{what}" for file, what in reached(methods.describe(each).path, each)}
    return frozenset(found)


def holds_vectors(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a run keeps all task vectors on the device while it adapts: ``--vectors`` applies to it."""
    adapts = bool(methods.describe(name).access_for(parameters))
    return adapts and "coefficients:LayerwiseMerge" in pieces(name, _inner(parameters))


def _inner(parameters: Mapping[str, Any]) -> str | None:
    inner = parameters.get("inner")
    return inner if isinstance(inner, str) and inner in methods.names() else None


def _joins_gradients(name: str) -> bool:
    """Whether joint training keeps every task's gradient apart, in order to combine them."""
    text = "".join(methods.describe(name).path.read_text(encoding="utf-8").split())
    return "train(experts,stream,None" not in text


def phases(name: str, parameters: Mapping[str, Any], s: Setting) -> dict[str, float]:
    """Bytes that each part of a run holds at its peak, where it computes, beyond the encoder's own weights."""
    shape, k, m = s.shapes, s.tasks, float(s.shapes.bytes)
    has = pieces(name, _inner(parameters)).__contains__
    about = methods.describe(name)
    adapts = bool(about.access_for(parameters)) and "steps" in parameters
    half = 0.6 if s.autocast else 1.0
    batch = int(parameters.get("batch_size") or 0)
    training = half * shape.training * batch
    linear = sum(width * width for _, width in shape.linear)
    factors = 4.0 * k * sum(min(pair) * sum(pair) for pair in shape.matrices)
    # In another dtype than float32 one tensor's are read as float32 at a time.
    vectors = k * (m if s.vector_bytes == 4 else m * s.vector_bytes / 4 + 4.0 * shape.largest)
    computes = has("experts:Experts.base_tensor") or has("experts:Experts.task_vectors")
    result = m if computes else 0.0
    found = {"merging": result + 4.0 * (k + 3) * shape.largest * bool(result)}
    if has("vectors:thresholds"):
        found["thresholds"] = m + 4.0 * (k + 3) * shape.largest
    elif has("vectors:order_statistic"):
        found["order statistics"] = 2 * m
    if has("masks:room"):
        found["masks"] = result + k * m / 32 + 4.0 * (k + 3) * shape.largest
    if has("statistics:grams"):
        part = sum(rows * width for rows, width in shape.linear)
        found["Gram matrices"] = m + 8.0 * (3 * linear + part) + half * shape.forward * OBSERVED
    elif has("statistics:observe"):
        found["layer inputs"] = 2 * m + 8.0 * linear + half * shape.forward * OBSERVED
    if has("statistics:fisher_information"):
        together = max(1, min(OBSERVED, (1 << 25) // shape.parameters))
        found["Fisher information"] = (4 + 3 * together) * m + shape.training * together
    if has("zipit:zipit"):
        found["matching"] = (k + 2) * m
    if has("spectral:task_svd") or has("spectral:leading"):
        kept = factors / k if has("tsv:compressed_state") or has("twin:restored") else 0.0
        found["decompositions"] = result + kept + 16.0 * max(a * b for a, b in shape.matrices)
    if adapts and has("coefficients:LayerwiseMerge"):
        found["adaptation"] = vectors + 3 * m + training
    elif adapts and has("adarank:RankMerge"):
        spectrum = 4.0 * k * sum(min(pair) * pair[0] for pair in shape.matrices)
        found["adaptation"] = 3 * m + factors + spectrum + training
    elif adapts and has("taps:active"):
        found["adaptation"] = (3 * k + 3) * m + training
    elif adapts and has("multitask:train"):
        found["adaptation"] = (5 + (k + 2) * _joins_gradients(name)) * m + training
    elif adapts and has("wemoe:RoutedMLP"):
        found["adaptation"] = 2 * m + (k + 1) * m * 2 / 3 + 3 * AT_ONCE + training
    elif adapts and not has("adaptation:ExpertOutputs"):
        found["adaptation"] = 2 * m + training
    if has("adaptation:ExpertOutputs"):
        together = min(OUTPUTS, (parameters.get("steps") or 1) * batch * int(parameters.get("batches_per_task") or 1))
        rest = vectors + 2 * m if has("coefficients:LayerwiseMerge") else result
        found["experts' predictions"] = rest + m + half * shape.forward * together
    differs = has("masks:masked") or has("tsv:compressed_state") or has("reference:individual")
    own = (1 + differs) * m + (k * m if has("twin:restored") else 2 / 3 * k * m if has("wemoe:RoutedMLP") else 0.0)
    found["evaluation"] = own * s.dtype_bytes / 4 + half * s.dtype_bytes / 4 * shape.forward * s.eval_batch
    return found


def need(name: str, parameters: Mapping[str, Any], s: Setting, machine: Machine | None = None) -> Need:
    """What one run of a method takes, with its seconds if the machine's speed is known."""
    k, m = s.tasks, float(s.shapes.bytes)
    held = phases(name, parameters, s)
    phase = max(held, key=held.__getitem__)
    computing = m + held[phase]
    result = held["merging"] and m + max(0.0, held.get("masks", 0.0) - held["merging"])
    # Saving copies the result; on the CPU it lies in the same memory as the rest.
    saving = 2 * result
    device, host = (computing + CONTEXT, RUNTIME + 2 * m + saving) if s.cuda else (0.0, computing)
    if not s.cuda:
        host = RUNTIME + max(computing, m + saving)
    access = methods.describe(name).access_for(parameters)
    wanted = {"test": "test", **{split: split for split, _ in access.items()}}
    unknown = tuple(f"images of {split}" for split in wanted if s.samples.get(split) is None)
    cache = float(sum((s.samples.get(split) or 0) * s.image_bytes for split in wanted))
    seconds = None
    if machine is not None and machine.flops and machine.bandwidth:
        seconds = operations(name, parameters, s) / machine.flops + traffic(name, parameters, s) / machine.bandwidth
    disk = result if s.keep_merged or result == 0 else result
    return Need(device, host, disk + 2**20 * k, cache, seconds, phase, unknown)


def operations(name: str, parameters: Mapping[str, Any], s: Setting) -> float:
    """Float operations of a run, within a factor of two or three: passes of the encoder and decompositions."""
    shape, k = s.shapes, s.tasks
    has = pieces(name, _inner(parameters)).__contains__
    access = methods.describe(name).access_for(parameters)
    steps, batch = int(parameters.get("steps") or 0), int(parameters.get("batch_size") or 0)
    drawn = steps * batch * k * int(parameters.get("batches_per_task") or 1)
    total = shape.flops * (s.samples.get("test") or 0)
    if access and drawn:
        distinct = min(drawn, s.samples.get(access.items()[-1][0]) or drawn)
        if has("adaptation:ExpertOutputs"):
            total += shape.flops * distinct * (1 if has("coefficients:LayerwiseMerge") else 2)
        if not has("adaptation:ExpertOutputs") or has("coefficients:LayerwiseMerge"):
            total += 3 * shape.flops * drawn
    examples = parameters.get("examples") or parameters.get("proxies")
    if access and examples:
        total += shape.flops * int(examples) * k * (6 if has("statistics:fisher_information") else 1)
    cubes = sum(a * b * min(a, b) for a, b in shape.matrices)
    for piece, work in (("spectral:task_svd", 10 * k), ("spectral:polar", 10), ("spectral:svd", 20)):
        total += work * cubes if has(piece) else 0
    if has("interference:moments"):
        total += sum(4 * k * a * b * b + 2 * (0 if access else steps) * a * b * b for a, b in shape.matrices)
    return float(total)


def traffic(name: str, parameters: Mapping[str, Any], s: Setting) -> float:
    """Bytes that a run reads or writes: experts once or twice, and every step of a merge that is differentiated."""
    k, m = s.tasks, float(s.shapes.bytes)
    has = pieces(name, _inner(parameters)).__contains__
    total = 3 * (k + 1) * m
    if has("coefficients:LayerwiseMerge") and methods.describe(name).access_for(parameters):
        rounds = int(parameters.get("steps") or 0)
        total += rounds * (2 * (k + 2) * m) * (k if has("adaptation:ExpertOutputs") else 1)
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


def lacking(found: Need, machine: Machine) -> dict[str, tuple[float, float]]:
    """``{resource: (bytes needed, bytes free)}`` of everything that does not fit."""
    pairs = {
        "device memory": (found.device, machine.device),
        "host memory": (found.host, machine.host),
        "disk of the results": (found.disk, machine.disk),
        "disk of the cache": (found.cache, machine.cache),
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


def _settings(
    name: str, parameters: Mapping[str, Any], s: Setting
) -> Iterator[tuple[str, Mapping[str, Any], Setting]]:
    plain = dict(parameters)
    for size in (64, 16, 4):
        if size < s.eval_batch:
            yield f"--batch-size {size}", plain, replace(s, eval_batch=size)
    if not s.autocast:
        yield "--autocast bfloat16", plain, replace(s, autocast=True, eval_batch=min(s.eval_batch, 64))
    if s.vector_bytes == 4 and holds_vectors(name, parameters):
        small = replace(s, autocast=True, eval_batch=min(s.eval_batch, 64), vector_bytes=2)
        yield "--vectors bfloat16", plain, replace(small, autocast=s.autocast)
        yield "--vectors bfloat16 --autocast bfloat16", plain, small
    batch = int(parameters.get("batch_size") or 0)
    while batch > 4:
        batch //= 2
        yield (
            f"--set {name}.batch_size={batch} (another run than the paper's)",
            {**plain, "batch_size": batch},
            replace(s, eval_batch=min(s.eval_batch, 64)),
        )


def amount(size: float) -> str:
    """Bytes for people, in GiB."""
    return f"{size / GIB:.1f}" if size >= 0.05 * GIB else "<0.1" if size else "-"


def duration(seconds: float | None) -> str:
    """Seconds for people, rounded as roughly as they are known."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cache_folder() -> Path:
    """Where decoded images go."""
    from benchmark.data.cache import cache_dir

    return cache_dir()
