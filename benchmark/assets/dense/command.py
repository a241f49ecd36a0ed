"""``symerge-bench assets data check`` for dense suites: NYUv2's files, or the committed scenes."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmark.domains.dense import nyuv2
from benchmark.domains.dense import scenes as scenes_data
from benchmark.domains.vision.public import data_root


def expected(suite: str) -> str:
    """What must lie where for a suite, in words."""
    return nyuv2.EXPECTED if suite == "nyuv2" else scenes_data.MEND


def check(suite: str, root: Path | None) -> int:
    """Read every file of a suite and say what it holds; 0. Raises :class:`UserError` for what is not as expected."""
    if suite == "nyuv2":
        folder = nyuv2.folder(data_root(root))
        print(f"reading every file under {folder}", file=sys.stderr)
        print("\n".join(nyuv2.check(folder)))
        return 0
    for split in scenes_data.SPLITS:
        print(f"{split}: {len(scenes_data.load_split(split))} scenes, every array as the manifest says")
    return 0
