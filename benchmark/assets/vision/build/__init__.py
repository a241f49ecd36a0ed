"""Rebuilds the embedded vision tasks from pinned packages, bit for bit. Not needed to use them.

`build(...)` and `main(argv)` are the two entries; `pool.base_pool(...)` makes the (uncommitted) pre-training pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def build(*args: Any, **keywords: Any) -> dict[str, Any]:
    """See `benchmark.assets.vision.build.run.build`."""
    from benchmark.assets.vision.build.run import build as implementation

    return implementation(*args, **keywords)


def main(argv: Sequence[str] | None = None) -> int:
    """See `benchmark.assets.vision.build.run.main`."""
    from benchmark.assets.vision.build.run import main as implementation

    return implementation(argv)
