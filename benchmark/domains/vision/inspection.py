"""A look at every sample of a split, image and label: which cannot be used, each by its name."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmark.common.damage import Damage
from benchmark.domains.vision.images import picture
from benchmark.domains.vision.local import Sample, batched

BLOCK = 256


def class_number(value: Any, numbers: Mapping[str, int], classes: int) -> int:
    """The number of a label that is a name or a number. Raises Damage for one that is no class."""
    number = numbers.get(value, -1) if isinstance(value, str) else value
    if not isinstance(number, (int, float)) or not math.isfinite(number) or number != int(number):
        number = -1
    if not 0 <= number < classes:
        raise Damage(f"the label {value!r}; {classes} classes are expected")
    return int(number)


def of_sample(sample: Sample, number: Callable[[Any], int]) -> list[str]:
    """What is wrong with one sample, image and label; empty where it can be used."""
    problems = []
    try:
        picture(sample.encoded()).convert("RGB")
    except (Damage, ValueError, OSError) as error:
        problems.append(str(error))
    try:
        if not sample.problem:
            number(sample.label)
    except Damage as error:
        problems.append(str(error))
    return problems


def of_samples(samples: Iterable[Sample], number: Callable[[Any], int], title: str) -> list[str]:
    """Look at every sample; a line for each that cannot be used: its name and why.

    Args:
        number: gives a label's class, or raises Damage.
        title: what the progress bar says.
    """
    from tqdm import tqdm

    lines = []
    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        tqdm(desc=title, unit="image", delay=2, disable=None) as bar,
    ):
        for block in batched(samples, BLOCK):
            for sample, problems in zip(block, pool.map(lambda one: of_sample(one, number), block), strict=True):
                if problems:
                    lines.append(f"{sample.name}: {'; '.join(problems)}")
            bar.update(len(block))
    return lines
