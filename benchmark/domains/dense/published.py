"""NYUv2 as the hub's copy tanganke/nyuv2 has it, written in the layout of auto-lambda that `nyuv2` reads.

Parquet files ``data/train-*`` and ``data/val-*`` (the literature's test split) with the columns ``image``
``[3, 288, 384]``, ``segmentation`` ``[288, 384]``, ``depth`` ``[1, 288, 384]`` and ``normal`` ``[3, 288, 384]``, lists
of lists; ``noise`` is not read. Channels come last in auto-lambda's files; values are the same.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.common.errors import UserError, shown
from benchmark.common.files import TEMPORARY, check_regular
from benchmark.domains.dense import nyuv2

EXPECTED = (
    "Expected data/train-*.parquet and data/val-*.parquet of the hub's tanganke/nyuv2, with the columns image, "
    "segmentation, depth and normal. Files of lorenmt/auto-lambda are read as they are."
)
COLUMNS = {"image": "image", "label": "segmentation", "depth": "depth", "normal": "normal"}


def convert(
    source: Path, root: Path, *, size: tuple[int, int] | None = None, counts: dict[str, int] | None = None
) -> str:
    """Write ``root/nyuv2``, whole or not at all; what was done, in a line.

    Args:
        source: the folder with ``data``, or ``data`` itself.
        size, counts: of the published preprocessing; other ones for tests.

    Raises:
        UserError: the files are not there, are damaged, or have another number or size of images.
    """
    target, wanted = root / "nyuv2", counts or nyuv2.COUNTS
    if target.exists():
        raise UserError(f"{shown(target)} exists already", "Move it away, or name another folder to write to.")
    folder = source / "data" if (source / "data").is_dir() else source
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=root) as temporary:
            whole = Path(temporary) / "nyuv2"
            for split in wanted:
                for part in nyuv2.PARTS:
                    (whole / split / part).mkdir(parents=True)
                for number, row in enumerate(_rows(folder, split, size or nyuv2.SIZE)):
                    for part, array in row.items():
                        np.save(whole / split / part / f"{number}.npy", array)
            nyuv2.open_root(whole, size=size, counts=wanted)
            os.rename(whole, target)
    except OSError as error:
        place = f"{error.filename or target}: {error.strerror or error}"
        raise UserError(place, "Mend its permissions, or name another folder.") from error
    listed = " and ".join(f"{count:,} {split}" for split, count in wanted.items())
    return f"nyuv2: {listed} images of tanganke/nyuv2 -> {shown(target)}"


def _rows(folder: Path, split: str, size: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    """Each image's arrays in auto-lambda's shapes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"{shown(folder)} has no {split}-*.parquet", EXPECTED)
    for file in files:
        try:
            check_regular(file)
            for batch in pq.ParquetFile(file).iter_batches(8, columns=list(COLUMNS.values())):
                yield from _arrays(batch, size)
        except (pa.ArrowException, KeyError, ValueError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"{shown(file)} cannot be read: {said or type(error).__name__}", EXPECTED) from None


def _arrays(batch: Any, size: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    parts = {}
    for part, column in COLUMNS.items():
        values = batch.column(column)
        values = getattr(values, "storage", values)  # of the type that `datasets` registers
        while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
            values = values.flatten()
        channels = nyuv2.CHANNELS[part]
        flat = values.to_numpy(zero_copy_only=False)
        shaped = flat.reshape(batch.num_rows, *((channels,) if channels else ()), *size)
        parts[part] = np.moveaxis(shaped, 1, -1) if channels else shaped
    for number in range(batch.num_rows):
        yield {part: np.ascontiguousarray(rows[number]) for part, rows in parts.items()}
