"""How large a suite is, without its files: encoder on the meta device, samples, bytes. What estimates start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Extent:
    """What a domain says of a suite on a backbone."""

    model: nn.Module
    """On the meta device: what a sample goes through, encoder and one head."""
    inputs: Callable[[int], Any]
    """A batch of so many samples on the meta device."""
    samples: Mapping[str, int | None]
    """Samples of all tasks together by split (train, val, test); None where no source says."""
    sample_bytes: int
    """Of one sample as it is cached; 0 where nothing is."""
    beside: int = 0
    """Bytes of what is not merged and lies beside the models: heads, embeddings that no expert changes."""
    merged: Callable[[str], bool] = lambda name: True
    """Whether a weight of ``model`` is of the encoder that is merged, by its name."""
    finishing: int = 0
    """Samples that the suite's protocol runs together on every merge."""
