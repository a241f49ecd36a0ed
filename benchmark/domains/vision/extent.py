"""The size of a vision suite, without its files."""

from __future__ import annotations

import torch

from benchmark.domains.vision import embedded
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import create_encoder, get_backbone
from benchmark.suites import Suite
from benchmark.suites.extent import Extent


def extent(suite: Suite, backbone: str, family: str) -> Extent:
    """Image tower and images; heads are small beside them."""
    size = get_backbone(backbone).image_size
    samples: dict[str, int | None]
    if suite.scale == "full":
        tests = sum(full.info(task, family).test.n for task in suite.tasks)
        # What a validation split holds at most; its true size follows from that of train.
        samples = {"test": tests, "val": full.VALIDATION_MOST * len(suite.tasks), "train": None}
        image = size * size * 3
    else:
        about = [embedded.info(task) for task in suite.tasks]
        names = {"train": "train", "val": "validation", "test": "test"}
        samples = {split: sum(a.counts[name] for a in about) for split, name in names.items()}
        image = max(3 * size * size if len(a.shape) == 3 else size * size for a in about)
    return Extent(
        model=create_encoder(backbone, device="meta"),
        inputs=lambda n: torch.empty(n, 3, size, size, device="meta"),
        samples=samples,
        sample_bytes=image,
    )
