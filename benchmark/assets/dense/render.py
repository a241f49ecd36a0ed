"""The scenes of ``dense-mini`` rendered again from their seeds (about 80 seconds on one core)."""

from __future__ import annotations

import argparse
import io
import json
import lzma
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.assets.dense import textures as cuttings
from benchmark.assets.dense.design import TEXTURES, VERSION, design, seeds
from benchmark.assets.packages import Sources
from benchmark.common.paths import resolved
from benchmark.domains.dense.ray_caster import CLASSES, SIZE, render
from benchmark.domains.dense.scenes import FOLDER, PARTS, digest, manifest, part_file

COUNTS = {"train": 600, "val": 100, "test": 150}
TEXTURE = 64


def textures(folder: Path = FOLDER) -> np.ndarray:
    """The atlas, uint8 ``[T, 64, 64]``."""
    from PIL import Image

    strip = np.asarray(Image.open(folder / "textures.png").convert("L"))
    return strip.reshape(TEXTURE, len(TEXTURES), TEXTURE).transpose(1, 0, 2)


def render_split(split: str, count: int, atlas: np.ndarray) -> dict[str, np.ndarray]:
    """The first ``count`` scenes of a split: every part in its stored type, and ``albedo`` (uint8)."""
    pictures = []
    for index in range(count):
        random = seeds(split, index)
        pictures.append(render(design(random), atlas, random))
    maps = {part: np.stack([getattr(p, part) for p in pictures]).astype(kind) for part, (kind, _) in PARTS.items()}
    return {**maps, "albedo": np.stack([p.albedo for p in pictures])}


def write_split(folder: Path, split: str, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write the parts of a split; returns the sha256 of each array."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (_, distance) in PARTS.items():
        raw = io.BytesIO()
        np.save(raw, arrays[part], allow_pickle=False)
        filters = [{"id": lzma.FILTER_DELTA, "dist": distance}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
        part_file(folder, split, part).write_bytes(lzma.compress(raw.getvalue(), lzma.FORMAT_XZ, filters=filters))
    return {part: digest(arrays[part]) for part in PARTS}


def build(folder: Path, counts: Mapping[str, int], atlas: np.ndarray) -> dict[str, Any]:
    """Render and write every split and the manifest; returns the manifest."""
    hashes = {}
    for split, count in counts.items():
        print(f"rendering {split}: {count} scenes", file=sys.stderr)
        hashes[split] = write_split(folder, split, render_split(split, count, atlas))
    about = {
        "what": "Rendered indoor scenes (no photographs); textures are crops of CC0 photographs.",
        "version": VERSION,
        "size": list(SIZE),
        "classes": list(CLASSES),
        "counts": dict(counts),
        "textures": list(TEXTURES),
        "splits": hashes,
    }
    (folder / "manifest.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def main(argv: Sequence[str] | None = None) -> int:
    """Render again; returns 1 where ``--check`` finds a difference."""
    p = argparse.ArgumentParser(prog="symerge-bench assets data build dense-mini", description=__doc__.splitlines()[0])
    p.add_argument("--out", type=resolved, metavar="DIR", help="where to write (default: no file, a comparison)")
    p.add_argument("--check", action="store_true", help="compare with the committed arrays")
    p.add_argument(
        "--sources", type=resolved, metavar="DIR", help="cut the textures again, from scikit-image's package in DIR"
    )
    args = p.parse_args(argv)
    atlas, committed = textures(), manifest()["splits"]
    if args.sources:
        atlas = cuttings.make(Sources(args.sources).path("scikit-image") / "skimage/data")
        print(f"textures {'as' if np.array_equal(atlas, textures()) else 'other than'} the committed ones")
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            cuttings.save(atlas, args.out / "textures.png")
    if args.out:
        splits = build(args.out, COUNTS, atlas)["splits"]
    else:
        splits = {}
        for split, count in COUNTS.items():
            arrays = render_split(split, count, atlas)
            splits[split] = {part: digest(arrays[part]) for part in PARTS}
    differ = [f"{s}-{part}" for s in COUNTS for part in PARTS if splits[s][part] != committed[s][part]]
    print("differs: " + ", ".join(differ) if differ else "every array is bit-identical to the committed one")
    return 1 if differ and args.check else 0
