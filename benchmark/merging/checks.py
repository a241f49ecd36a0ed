"""What can be seen to be wrong with a merge before any file is opened. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmark.common.errors import UserError, shown


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raises :class:`UserError` for weights that are not one finite number for each of ``count`` experts, or all 0."""
    if len(weights) != count:
        raise UserError(
            f"{len(weights)} weights for {count} experts", "Give one for each expert, in the order of --experts."
        )
    if not all(map(math.isfinite, weights)):
        raise UserError(
            f"weights {' '.join(map(str, weights))} are not all numbers", "Give finite ones, such as 0.5 1."
        )
    if not any(weights):
        raise UserError("all weights are 0, so nothing would be merged", "Give at least one that is not 0.")


def check_free(out: Path, overwrite: bool) -> None:
    """Raises :class:`UserError` where a folder that is to be written holds something, or is a file."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.is_dir() and overwrite:
        return
    if out.exists() or out.is_symlink():
        mend = "Give another --out, or --overwrite to replace it." if out.is_dir() else "Give a folder as --out."
        raise UserError(f"{shown(out)} {'holds something' if out.is_dir() else 'is there'} already", mend)
