"""The pre-training pool: characters, emoji and photo patches outside the suites, and some images of every class.

It is not committed. `base_pool` makes it from the pinned packages and keeps it in a folder; `pool_arrays` returns it.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.assets.packages import Sources, default_sources
from benchmark.assets.vision.build.glyph_tasks import CHARACTERS, LETTER, character_words, distort_text, pick
from benchmark.assets.vision.build.recipes import EMOJI_GROUPS, emoji_table, emoji_view, photo, rng_for
from benchmark.assets.vision.build.registry import studio
from benchmark.assets.vision.build.run import write_bytes
from benchmark.domains.vision import embedded as vision

RANGES = [
    (0x00A1, 0x024F),
    (0x0250, 0x02AF),
    (0x0391, 0x03FF),
    (0x0401, 0x04FF),
    (0x05D0, 0x05F4),
    (0x0621, 0x06FF),
    (0x0904, 0x097F),
    (0x0E01, 0x0E5B),
    (0x1E80, 0x1EF9),
    (0x2010, 0x204A),
    (0x2070, 0x209C),
    (0x20A0, 0x20BF),
    (0x2100, 0x218F),
    (0x2190, 0x22FF),
    (0x2300, 0x23CF),
    (0x2460, 0x2473),
    (0x25A0, 0x25FF),
    (0x2600, 0x2667),
    (0x2713, 0x27BF),
    (0xFB00, 0xFB06),
    (0xFE8F, 0xFEF4),
]
PHOTOS = {
    "astronaut.png": "astronaut",
    "camera.png": "man with a camera",
    "rocket.jpg": "rocket",
    "coffee.png": "cup of coffee",
    "china.jpg": "temple in China",
    "flower.jpg": "flower",
    "clock_motion.png": "clock in motion",
    "cell.png": "cell",
}
TEMPLATES = {
    "character": ["a printed character {}.", "the character {} in some font.", "a blurry image of the character {}."],
    "emoji": ["an emoji of {}.", "a small colour picture: {}."],
    "photo": ["a patch of a photo: {}.", "a close-up of {}."],
}
"""Prompt templates of the classes outside the suites, by source."""


def characters(sources: Sources) -> list[str]:
    """Characters of `RANGES` that at least one family of the train role draws and that are no class of a suite."""
    fonts, used = studio(sources).fonts, set("".join(CHARACTERS.values()))
    chosen = []
    for first, last in RANGES:
        for point in range(first, last + 1):
            character = chr(point)
            # The isolated form of an Arabic letter is the very drawing of a suite's class.
            if unicodedata.name(character, "").endswith("ISOLATED FORM"):
                continue
            if (
                unicodedata.category(character)[0] in "LNSP"
                and unicodedata.category(character) != "Sk"
                and character not in used
            ):
                if unicodedata.combining(character) == 0 and fonts.families(character, ("train",)):
                    chosen.append(character)
    return chosen


def outside(others: int, seed: int, sources: Sources) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """About `others` images outside the suites: images [N, 28, 28, 3], class index [N], names and sources."""
    makers: list[tuple[str, str, list]] = [("character", character_words(c), [c]) for c in characters(sources)]
    for e in emoji_table(sources):
        if e["category"] not in EMOJI_GROUPS and e["category"] != "Component":
            makers.append(("emoji", (e["name"] or e["short_name"]).lower(), [e]))
    for file, words in PHOTOS.items():
        makers.append(("photo", words, [photo(sources, file)]))
    shares = {"character": 1.0, "emoji": 0.5, "photo": 8.0}
    unit = others / sum(shares[kind] for kind, _, _ in makers)
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, (kind, _, (what,)) in enumerate(makers):
        for i in range(max(1, round(unit * shares[kind]))):
            rng = rng_for("pool", seed, kind, label, i)
            images.append(_draw(kind, what, rng, sources))
            labels.append(label)
    return np.stack(images), np.array(labels), [m[1] for m in makers], [m[0] for m in makers]


def _draw(kind: str, what, rng: np.random.Generator, sources: Sources) -> np.ndarray:
    if kind == "emoji":
        return emoji_view(Image.open(what["file"]).convert("RGBA").resize((64, 64)), rng, still=False)
    if kind == "character":
        place = studio(sources)
        style = pick(place.fonts.styles(pick(place.roles(what, "train"), rng)), rng)
        grey = distort_text(place, style, what, "train", rng, LETTER)
    else:
        side = int(rng.integers(48, 100))
        y, x = (int(rng.integers(n - side + 1)) for n in what.shape)
        grey = np.asarray(Image.fromarray(what[y : y + side, x : x + side]).resize((28, 28), Image.Resampling.BOX))
    return np.repeat(grey[:, :, None], 3, axis=2)


def base_pool(out_dir: str | Path, others: int = 18000, seed: int = 0, sources_dir: str | Path | None = None) -> Path:
    """Makes the images outside the suites once, in a folder of `out_dir` for this `others` and `seed`; returns it.

    The folder holds `images.npy` uint8 [N, 28, 28, 3], `labels.npy` int64 [N] and `classes.json` (`names`,
    `source`); the last is written last, so a folder with it is whole.
    """
    folder = Path(out_dir) / f"pool-{others}-{seed}"
    if not (folder / "classes.json").is_file():
        images, labels, names, source = outside(others, seed, Sources(sources_dir or default_sources()))
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels.astype(np.int64))
        write_bytes(
            folder / "classes.json", json.dumps({"names": names, "source": source}, ensure_ascii=False).encode()
        )
    return folder


def pool_arrays(
    per_class: int | float,
    seed: int = 0,
    *,
    others: int = 18000,
    suite: str = "vision-mini-20",
    out_dir: str | Path | None = None,
    sources_dir: str | Path | None = None,
    root: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Images uint8 [N, 28, 28, 3], class index int64 [N], class names [C] and the source of each class [C].

    Of every class of every task of `suite`, `per_class` images of train are taken (a number of images, or a fraction
    below 1 of the class), chosen by `seed`; their classes have the task's name as source, and are separate classes even
    where two tasks share a word. All other classes have the source `character`, `emoji` or `photo`.
    Prompts of the latter are in `TEMPLATES`. `others` = 0 needs no package.
    """
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    names: list[str] = []
    source: list[str] = []
    if others:
        folder = base_pool(out_dir or vision.cache_dir() / "pool", others, seed, sources_dir)
        content = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        images.append(np.load(folder / "images.npy"))
        labels.append(np.load(folder / "labels.npy"))
        names, source = list(content["names"]), list(content["source"])
    for task in vision.tasks(suite, root):
        split = vision.load_split(task, "train", root)
        for c, words in enumerate(split.classes):
            rows = np.flatnonzero(split.labels == c)
            n = max(1, round(per_class * len(rows))) if 0 < per_class < 1 else int(per_class)
            chosen = np.sort(rng_for("pool", seed, task, c).permutation(rows)[:n])
            pixels = split.images[chosen]
            images.append(pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=3))
            labels.append(np.full(len(chosen), len(names)))
            names.append(words)
            source.append(task)
    return np.concatenate(images), np.concatenate(labels).astype(np.int64), names, source
