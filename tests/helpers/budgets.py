"""The runs and settings whose estimates are compared with those of before methods declared their footprints."""

from __future__ import annotations

from typing import Any

import methods
from benchmark.budget.estimate import Setting
from benchmark.budget.shapes import Shapes
from benchmark.records.precision import Precision

BLOCK = ((2304, 768), (768, 768), (3072, 768), (768, 3072))
#: Sizes of the kind of a ViT-B-32; the last matrix is a projection.
SHAPES = Shapes(
    parameters=87_849_216, largest=2_359_296, matrices=(*BLOCK * 12, (768, 512)), linear=BLOCK * 12,
    flops=8.8e9, inputs=602_112.0, forward=3.1e6, training=43.5e6,
)  # fmt: skip
SAMPLES = {"test": 87_000, "val": 40_000, "train": 160_000}
SETTINGS = {
    "eight on a CPU": Setting(SHAPES, 8, SAMPLES, 150_528, 16),
    "twenty on a GPU": Setting(
        SHAPES, 20, SAMPLES, 150_528, 128, cuda=True, precision=Precision("bfloat16", "bfloat16", "bfloat16")
    ),
}
#: Keywords beside the defaults.
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("symerge", {"steps": 1}),
    ("symerge", {"steps": 1, "batch_size": 4}),
    ("symerge", {"labels": "truth"}),
    ("adamerging", {"granularity": "task", "trim": True}),
    ("adarank", {"steps": 10, "batch_size": 64}),
    ("joint", {"shared": "top", "layers": 1}),
    ("pcgrad", {"batch_size": 8}),
    ("regmean", {"examples": 8}),
    ("fisher", {"examples": 8}),
    ("esm", {"proxies": 256}),
    ("zipit", {"examples": 1000}),
    ("wudi", {"steps": 3000}),
    ("task_arithmetic", {"scale": "val"}),
    ("flexmerge", {"size": 2.0}),
    ("dare", {"inner": "ties"}),
    ("dare", {"inner": "tsv_m"}),
    ("awd", {"inner": "pcb"}),
    ("lines", {"inner": "iso_cts"}),
    ("surgery", {"inner": "emr"}),
    ("surgery", {"inner": "tsv_c", "steps": 20}),
    ("prob_surgery", {"inner": "weight_average"}),
)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every method with its defaults, and the changes above, as ``(name, all parameters)``."""
    plain = [(name, dict(methods.describe(name).parameters)) for name in methods.names()]
    return plain + [(name, {**methods.describe(name).parameters, **changes}) for name, changes in CHANGES]


def label(name: str, parameters: dict[str, Any]) -> str:
    """``name:key=value`` of what differs from the defaults."""
    changed = {k: v for k, v in parameters.items() if v != methods.describe(name).parameters[k]}
    return ":".join([name, *(f"{k}={v}" for k, v in changed.items())])
