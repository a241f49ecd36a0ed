"""What a step of each adapting method moves and computes on a GPU, on paper: ``python -m helpers.on_paper``.

From the footprints that methods declare and the sizes of 8 x ViT-B-32 (`helpers/budgets.py`), float32. A step reads
every task vector for the merge and again for its gradient, reads the merged weights in the forward and backward pass,
and writes and reads every activation once. Assumed GPUs: peak speeds of data sheets; passes reach about half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import methods
from benchmark.budget import estimate
from benchmark.budget.estimate import GIB
from helpers.budgets import SETTINGS


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, float32 operations and bytes a second."""

    name: str
    memory: float
    flops: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """Operations a byte from which on computing is what takes the time."""
        return self.flops / self.bandwidth


GPUS = (Gpu("24 GB", 24e9, 31e12, 0.6e12), Gpu("80 GB", 80e9, 19.5e12, 2.0e12))


@dataclass(frozen=True)
class Step:
    """One step of a method, of all tasks together."""

    method: str
    steps: int
    flops: float
    bytes: float
    device: float
    """Bytes of the GPU's memory that the run needs."""

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes

    def seconds(self, gpu: Gpu) -> float:
        """The longer of computing and moving, at the peak."""
        return max(self.flops / gpu.flops, self.bytes / gpu.bandwidth)


def steps() -> Iterator[Step]:
    """Every method that updates on data, with its defaults."""
    setting = SETTINGS["eight on a CPU"]
    shapes, k = setting.shapes, setting.tasks
    m = float(shapes.bytes)
    for name in methods.names():
        parameters = dict(methods.describe(name).parameters)
        every = [part for part in estimate.parts(name, parameters) if part.adapts and part.steps]
        if not every:
            continue
        flops = moved = 0.0
        for part in every:
            of, samples = part.footprint, k * part.batch * part.batches
            passes = k * part.batches
            flops += shapes.flops * samples * ((0 if of.frozen else 3) + of.teacher)
            moved += (0 if of.frozen else 3 * m * passes + 2 * shapes.training * samples) + of.teacher * m * passes
            if of.vectors:
                flops += 4 * (k + 1) * shapes.parameters * of.merges[0]
                moved += 2 * (k + 2) * m * (of.merges[0] + of.merges[1] * k)
        if flops and moved:
            # Where it computes, beyond the encoder's own weights.
            need = max(estimate.phases(name, parameters, setting).values())
            yield Step(name, max(part.steps or 0 for part in every), flops, moved, need + m)


def table() -> str:
    """Markdown: a row for each adapting method."""
    heads = [f"{gpu.name}: bound, s a step, h" for gpu in GPUS]
    lines = [
        f"| method | steps | TFLOP a step | GB moved | FLOP/B | needs GiB | {' | '.join(heads)} |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for step in steps():
        cells = []
        for gpu in GPUS:
            bound = "computing" if step.intensity > gpu.ridge else "moving"
            fits = "" if step.device < gpu.memory else " (does not fit)"
            cells.append(f"{bound}, {step.seconds(gpu):.2g}, {step.seconds(gpu) * step.steps / 3600:.2g}{fits}")
        numbers = f"{step.flops / 1e12:.2g} | {step.bytes / 1e9:.2g} | {step.intensity:.0f} | {step.device / GIB:.2g}"
        lines.append(f"| `{step.method}` | {step.steps} | {numbers} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
