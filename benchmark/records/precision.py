"""In which dtypes a run stores, computes and accumulates: one value, from the command's options to a row of a board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Bytes of one number, by dtype.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Precision:
    """Three dtypes by their names; by default all is float32, as in the papers."""

    dtype: str = "float32"
    """Of the evaluated weights, and of the inputs they are handed."""
    autocast: str | None = None
    """Of mixed precision in adaptation and evaluation; None without."""
    vectors: str = "float32"
    """Of the task vectors that adaptation holds on the device and accumulates from."""

    def identity(self, *, holds_vectors: bool) -> dict[str, Any]:
        """What of it belongs to a run's identity: what holds no task vectors is one run, whatever their dtype."""
        vectors = self.vectors if holds_vectors else Precision.vectors
        return {"dtype": self.dtype, "autocast": self.autocast, "vectors": vectors}

    @property
    def weight_bytes(self) -> int:
        """Of one evaluated weight."""
        return BYTES.get(self.dtype, 4)

    @property
    def vector_bytes(self) -> int:
        """Of one entry of a task vector that adaptation holds."""
        return BYTES.get(self.vectors, 2)

    @property
    def mixed(self) -> bool:
        """Whether there is autocast."""
        return self.autocast is not None
