"""The embedded scenes of ``dense-mini``: read, checked, and rendered again from their seeds.

``python -m benchmark.data.scenes_data [--check] [--out DIR]`` renders every split (about 80 seconds on one core) and
writes it, or compares it with what is committed. Files: ``<split>-<part>.npy.xz`` (xz with a delta filter), the atlas
of textures ``textures.png``, and ``manifest.json`` with the sha256 of every array.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import lzma
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.scenes import CLASSES, SIZE, render
from benchmark.data.scenes_design import TEXTURES, VERSION, design, seeds
from benchmark.errors import UserError
from benchmark.paths import resolved

FOLDER = Path(__file__).parent / "mini" / "scenes"
SPLITS = ("train", "val", "test")
COUNTS = {"train": 600, "val": 100, "test": 150}
TEXTURE = 64
# The part's type in the files, and the distance of the delta filter that packs it well.
PARTS: dict[str, tuple[str, int]] = {
    "image": ("uint8", 3),
    "label": ("int8", 1),
    "depth": ("float16", 2),
    "normal": ("float16", 2),
}
MEND = "To restore it: git checkout -- benchmark/data/mini/scenes"


@dataclass(frozen=True)
class DenseSplit:
    """Images and truth of one split.

    Attributes:
        image: uint8 ``[n, H, W, 3]``.
        label: ``[n, H, W]`` integers, -1 where there is none.
        depth: metres ``[n, H, W]``, 0 where there is none.
        normal: unit vectors in camera axes ``[n, H, W, 3]``, 0 where there is none.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, index: np.ndarray) -> DenseSplit:
        """The images at ``index``."""
        return DenseSplit(self.image[index], self.label[index], self.depth[index], self.normal[index])


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
    found = {part: np.stack([getattr(p, part) for p in pictures]).astype(kind) for part, (kind, _) in PARTS.items()}
    return {**found, "albedo": np.stack([p.albedo for p in pictures])}


def write_split(folder: Path, split: str, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write the parts of a split; returns the sha256 of each array."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (_, distance) in PARTS.items():
        raw = io.BytesIO()
        np.save(raw, arrays[part], allow_pickle=False)
        filters = [{"id": lzma.FILTER_DELTA, "dist": distance}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
        _file(folder, split, part).write_bytes(lzma.compress(raw.getvalue(), lzma.FORMAT_XZ, filters=filters))
    return {part: digest(arrays[part]) for part in PARTS}


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's type, shape and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """What the folder says of itself. Raises :class:`UserError`."""
    try:
        found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.name}/manifest.json cannot be read: {error}", MEND) from None
    return found


@functools.lru_cache(maxsize=6)
def load_split(split: str, folder: Path = FOLDER) -> DenseSplit:
    """One split, checked against the manifest. Raises :class:`UserError` for a missing, damaged or altered file."""
    known = manifest(folder)["splits"]
    if split not in known:
        raise UserError(f"no split {split!r} of the scenes; there are {', '.join(known)}", MEND)
    arrays = {}
    for part in PARTS:
        path = _file(folder, split, part)
        try:
            raw = lzma.decompress(path.read_bytes(), lzma.FORMAT_XZ)
            arrays[part] = np.load(io.BytesIO(raw), allow_pickle=False)
        except (OSError, lzma.LZMAError, ValueError, EOFError) as error:
            raise UserError(f"{path.name} cannot be read: {error}", MEND) from None
        if (found := digest(arrays[part])) != known[split][part]:
            raise UserError(
                f"{path.name} holds an array of sha256 {found[:12]}, expected {known[split][part][:12]}", MEND
            )
    return DenseSplit(**arrays)


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
    atlas, known = textures(), manifest()["splits"]
    if args.sources:
        from benchmark.data import scenes_textures
        from benchmark.data.build.sources import Sources

        atlas = scenes_textures.make(Sources(args.sources).path("scikit-image") / "skimage/data")
        print(f"textures {'as' if np.array_equal(atlas, textures()) else 'other than'} the committed ones")
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            scenes_textures.save(atlas, args.out / "textures.png")
    if args.out:
        found = build(args.out, COUNTS, atlas)["splits"]
    else:
        found = {}
        for split, count in COUNTS.items():
            arrays = render_split(split, count, atlas)
            found[split] = {part: digest(arrays[part]) for part in PARTS}
    differ = [f"{s}-{part}" for s in COUNTS for part in PARTS if found[s][part] != known[s][part]]
    print("differs: " + ", ".join(differ) if differ else "every array is bit-identical to the committed one")
    return 1 if differ and args.check else 0


def _file(folder: Path, split: str, part: str) -> Path:
    return folder / f"{split}-{part}.npy.xz"


if __name__ == "__main__":
    sys.exit(main())
