"""What a run of `nyuv2` needs of the user's files: images with their truth, base, experts and decoders."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmark.checkpoints.families import checkpoint_folder
from benchmark.common.errors import UserError, shown
from benchmark.domains.dense import nyuv2
from benchmark.domains.dense.bench import KINDS, PARTS, channels
from benchmark.domains.dense.family import checks, tensors
from benchmark.domains.dense.model import Decoder, Encoder, get_backbone
from benchmark.domains.vision.public import data_root as root_of
from benchmark.suites import Suite
from benchmark.suites.parts import Part

#: torchvision's file that the base is made from.
RESNET = "resnet50-11ad3fa6.pth"


def parts(
    suite: Suite,
    backbone: str,
    family: str,
    splits: Sequence[str],
    *,
    data_root: Path | None = None,
    checkpoints: Path | None = None,
) -> list[Part]:
    """The data set with the splits that are read, then base, experts and decoders."""
    try:
        place: Path | None = nyuv2.folder(root_of(data_root))
    except UserError:
        place = None
    splits = sorted({*splits, *(("train",) if suite.batchnorm == "reestimate" else ())})

    def images() -> None:
        data = nyuv2.open_root(nyuv2.folder(root_of(data_root)))
        for split in splits:
            for part in ("image", *(PARTS[task] for task in suite.tasks)):
                nyuv2.fingerprint(data, split, part)

    root = shlex.quote(shown(place)) if place else "DIR/nyuv2"
    # Every array in float32.
    size = 4 * math.prod(nyuv2.SIZE) * sum(max(1, n) for n in nyuv2.CHANNELS.values()) * sum(nyuv2.COUNTS.values())
    convert = f"./run_all.sh assets data convert nyuv2 FROM {root}"
    data = Part("data", "nyuv2", images, convert, place, size, None)

    shape, counts = get_backbone(backbone), {task: channels(nyuv2.CLASSES)[task] for task in suite.tasks}
    folder = checkpoint_folder(family, backbone, checkpoints)
    out = shlex.quote(shown(folder))
    train = f"./run_all.sh assets experts nyuv2 --root {root} --weights {RESNET} --retrain --out {out}"

    def check(file: str) -> None:
        checks(folder, shape, counts, KINDS)[file]()

    test: Callable[[str], Callable[[], None]] = lambda file: partial(check, file)  # noqa: E731
    with torch.device("meta"):
        tower = _bytes(Encoder(shape))
        heads = {task: _bytes(Decoder(shape, count)) for task, count in counts.items()}
    base = "base.safetensors"
    return [
        data,
        Part("base", "", test(base), train, folder / base, tower, tower),
        *(
            Part("expert", task, test(file), train, folder / file, tower, 0)
            for task in counts
            for file in (f"{task}.safetensors",)
        ),
        *(
            Part("head", task, test(file), train, folder / file, size, 0)
            for task, size in heads.items()
            for file in (f"heads/{task}.safetensors",)
        ),
    ]


def _bytes(module: nn.Module) -> int:
    return sum(4 * weight.numel() for weight in tensors(module).values())
