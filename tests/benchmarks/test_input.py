"""The input pipeline of a run's first method, which decodes, and of every later one, which reads the cache.

A pass gives all images of a split as normalised batches on the device, as the evaluator asks for them; where that is a
GPU the host only reads bytes, which is the third line.
docs/performance.md quotes one run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import get_backbone
from benchmark.domains.vision.bench import ImageSource
from benchmark.harness.evaluate import batches

IMAGES, SIZE = 3000, (375, 500)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of a photograph's size and detail, in folders by class."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    names = full.info("STL10").classes
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE[::-1])
        fine = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 13, (*SIZE, 1))
        path = folder / "STL10" / "test" / names[number % 10] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def one_pass(root: Path, device: torch.device, only_bytes: bool = False) -> int:
    shape = get_backbone("ViT-B-32")
    split = full.load_split("STL10", "test", root=root, image_size=shape.image_size, counted=False)
    if only_bytes:
        return sum(len(torch.from_numpy(split.images[i : i + 128].copy())) for i in range(0, len(split), 128))
    source = ImageSource(split, shape.mean, shape.std, device, torch.float32)
    return sum(len(images) for images, _ in batches(source, 128))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", ["first", "later", "later, host's part on a GPU"])
def test_input_pipeline(benchmark: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    later = what.startswith("later")
    # Hashing the files belongs to the first pass, imports do not.
    full.transform(224)

    def before() -> None:
        if not later:
            shutil.rmtree(tmp_path, ignore_errors=True)

    if later:
        one_pass(root, device)
    benchmark.group = f"input pipeline, {IMAGES} JPEGs of 500 x 375 to 224, {device}"
    benchmark.extra_info["images"] = IMAGES
    done = benchmark.pedantic(
        one_pass, args=(root, device, "host" in what), setup=before, rounds=3 if later else 1, warmup_rounds=0
    )
    assert done == IMAGES
    benchmark.extra_info["images per second"] = IMAGES / benchmark.scores.statistics.stats.min
