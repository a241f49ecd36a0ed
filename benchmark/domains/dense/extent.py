"""The size of a dense suite, without its files."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmark.domains.dense import nyuv2
from benchmark.domains.dense import scenes as scenes_data
from benchmark.domains.dense.batchnorm import BATCH
from benchmark.domains.dense.bench import channels
from benchmark.domains.dense.family import tensors
from benchmark.domains.dense.model import Decoder, Encoder, get_backbone
from benchmark.domains.dense.ray_caster import CLASSES
from benchmark.suites import Suite
from benchmark.suites.extent import Extent


def extent(suite: Suite, backbone: str, family: str) -> Extent:
    """Encoder with the largest decoder; every task reads the same images, which are not cached."""
    shape, full = get_backbone(backbone), suite.scale == "full"
    wide = channels(nyuv2.CLASSES if full else len(CLASSES))
    with torch.device("meta"):
        decoders = {task: Decoder(shape, wide[task], unit=task == "normals") for task in suite.tasks}
        model = nn.Sequential(Encoder(shape), max(decoders.values(), key=lambda head: head.channels)).eval()
    counts = _counts() if not full else _counts_of_nyuv2()
    beside = sum(4 * weight.numel() for head in decoders.values() for weight in tensors(head).values())
    return Extent(
        model=model,
        inputs=lambda n: torch.empty(n, 3, *shape.size, device="meta"),
        samples={split: count * len(suite.tasks) for split, count in counts.items()},
        sample_bytes=0,
        beside=beside,
        merged=lambda name: name.startswith("0."),
        finishing=BATCH if suite.batchnorm == "reestimate" else 0,
    )


def _counts() -> dict[str, int]:
    return {split: len(scenes_data.load_split(split)) for split in scenes_data.SPLITS}


def _counts_of_nyuv2() -> dict[str, int]:
    train = np.arange(nyuv2.COUNTS["train"])
    return {"train": len(train), "val": len(train[:: nyuv2.VALIDATION_EVERY]), "test": nyuv2.COUNTS["val"]}
