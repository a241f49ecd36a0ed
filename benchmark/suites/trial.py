"""A trial on a few samples of each task (``--limit``): which ones, of any source. No result is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from methods.api import Source


def spread_over(total: int, limit: int) -> np.ndarray:
    """``limit`` different rows of ``total``, evenly apart from the first on: a split sorted by class gives all classes.

    >>> spread_over(10, 4).tolist()
    [0, 2, 5, 7]
    """
    return np.arange(limit, dtype=np.int64) * total // limit


class Few:
    """At most ``limit`` samples of a source, spread over it, in its order."""

    def __init__(self, source: Source, limit: int) -> None:
        import torch

        self.source = source
        self.rows = torch.from_numpy(spread_over(len(source), min(limit, len(source))))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ready(self) -> Any:
        """What makes stored samples ready, where the source has it."""
        return getattr(self.source, "ready", None)

    def stored(self, index: Any) -> tuple[Any, Any]:
        """Samples as the source stores them, where it says how."""
        read = getattr(self.source, "stored", self.source.__getitem__)
        pair: tuple[Any, Any] = read(self.rows[index])
        return pair

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        pair: tuple[Any, Any] = self.source[self.rows[index]]
        return pair
