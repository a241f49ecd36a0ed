"""The tasks rendered from real fonts: characters of eight scripts, script, category and weight of short words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from benchmark.assets.packages import Sources
from benchmark.assets.vision.build.glyphs import Backgrounds, Distortion, Fonts, Style, distort
from benchmark.assets.vision.build.recipes import SIZES, Arrays, photo, quotas, rng_for, shuffled

GROUNDS = {
    "train": ["astronaut.png", "camera.png", "coffee.png", "china.jpg"],
    "test": ["rocket.jpg", "flower.jpg", "clock_motion.png"],
}
LATIN = "abcdefghijklmnopqrstuvwxyz"
LETTER = Distortion(scale=(0.85, 1.2))
WORD = Distortion(
    rotate=6.0,
    shear=0.08,
    scale=(0.5, 0.62),
    stretch=0.06,
    shift=1.5,
    blur=(0.0, 0.3),
    noise=(0.0, 5.0),
    contrast=(100.0, 200.0),
    texture=(0.05, 0.35),
)

SCRIPTS = {
    "Latin": "abdeghkmnrtw",
    "Cyrillic": "бджзйлфцшщюя",
    "Greek": "βγδζθλξπσφψω",
    "Arabic": "بجدسصطعقكمهي",
    "Hebrew": "אבגהטלמצקשת",
    "Thai": "กขคงจชดทนมรห",
    "Devanagari": "कगचजटतनपमरलस",
}
CHARACTERS = {
    "GlyphLatinUpper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "GlyphCyrillic": "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ",
    "GlyphDigits": "0123456789",
    "GlyphLatinLower": LATIN,
    "GlyphPunctuation": '!"#$%&()*+/:;<=>?@[]~',
    "GlyphGreek": "αβγδεζηθικλμνξοπρστυφχψω",
    "GlyphThai": "กขคงจชญฐณดทธนบปพฟมยรลวหอ",
    "GlyphDevanagari": "अइउएकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "GlyphArabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "GlyphHebrew": "אבגדהוזחטיכלמנסעפצקרשת",
}
CATEGORIES = {
    "sans serif": (
        ["alegreya-sans", "hind", "inter", "kanit", "noto-sans", "open-sans", "oswald", "rubik"],
        ["roboto", "montserrat", "prompt"],
    ),
    "serif": (
        ["amiri", "eb-garamond", "frank-ruhl-libre", "merriweather", "playfair-display"],
        ["lora", "source-serif-4"],
    ),
    "monospaced": (["fira-code", "ibm-plex-mono"], ["jetbrains-mono"]),
    "handwriting or display": (["caveat", "lobster", "permanent-marker", "press-start-2p"], ["pacifico"]),
}
WEIGHTS = {"light": (200, 300), "regular": (400,), "bold": (700, 800)}


def character_words(character: str) -> str:
    """Unicode's name in the words of a prompt: `LATIN CAPITAL LETTER A` -> `Latin capital letter A`."""
    words = unicodedata.name(character).lower()
    for name in ("latin", "cyrillic", "greek", "thai", "devanagari", "arabic", "hebrew"):
        words = words.replace(name, name.capitalize())
    if words.startswith("Latin"):
        head, _, tail = words.rpartition(" ")
        words = f"{head} {tail.upper() if len(tail) == 1 and 'capital' in head else tail}"
    return words.replace("Thai character", "Thai letter")


class Studio:
    """Fonts and backgrounds of one build."""

    def __init__(self, sources: Sources):
        self.fonts = Fonts(sources.fonts())
        self._roles: dict[tuple[str, str], list[str]] = {}
        self.grounds = {part: Backgrounds({f: photo(sources, f) for f in files}) for part, files in GROUNDS.items()}

    def ground(self, split: str) -> Backgrounds:
        return self.grounds["train" if split == "train" else "test"]

    def roles(self, text: str, split: str) -> list[str]:
        """Families of a split; validation has its own where such exist for the script, else those of the test."""
        if (text, split) not in self._roles:
            own = self.fonts.families(text, (split,))
            self._roles[text, split] = own or (self.fonts.families(text, ("test",)) if split == "validation" else [])
        return self._roles[text, split]


def character_arrays(studio: Studio, task: str, sizes: dict[str, int] = SIZES, limit: int | None = None) -> Arrays:
    """Images of the task's characters; `limit` makes only the first so many of each split, in unshuffled order."""
    characters = CHARACTERS[task]
    out: Arrays = {}
    for split, n in sizes.items():
        labels = np.arange(n) % len(characters)
        images = []
        for i in range(n if limit is None else min(n, limit)):
            text = characters[labels[i]]
            rng = rng_for(task, split, i)
            family = pick(studio.roles(text, split), rng)
            style = pick(studio.fonts.styles(family), rng)
            images.append(distort_text(studio, style, text, split, rng, LETTER))
        stack = np.stack(images)
        out[split] = (stack, labels[: len(stack)].astype(np.int64)) if limit else shuffled(stack, labels, task, split)
    return out


def pick(items, rng: np.random.Generator):
    return items[int(rng.integers(len(items)))]


def distort_text(
    studio: Studio, style: Style, text: str, split: str, rng: np.random.Generator, how: Distortion
) -> np.ndarray:
    return distort(studio.fonts.mask(style, text), studio.ground(split).crop(rng), rng, how)


def word_task(
    task: str, classes: int, draw: Callable[[Studio, int, str, np.random.Generator], tuple[Style, str]], how: Distortion
):
    """A maker of arrays: `draw(studio, label, split, rng) -> (style, text)` chooses what is rendered."""

    def make(studio: Studio) -> Arrays:
        out: Arrays = {}
        for split, n in SIZES.items():
            labels = np.repeat(np.arange(classes), quotas(n, classes))
            images = []
            for i, label in enumerate(labels):
                rng = rng_for(task, split, i)
                style, text = draw(studio, int(label), split, rng)
                images.append(distort_text(studio, style, text, split, rng, how))
            out[split] = shuffled(np.stack(images), labels, task, split)
        return out

    return make


def _script_families(studio: Studio, letters: str, split: str) -> list[str]:
    # Press Start 2P is so wide that two letters do not fit.
    return [f for f in studio.roles(letters, split) if f != "press-start-2p"]


def _script(studio: Studio, label: int, split: str, rng: np.random.Generator):
    letters = list(SCRIPTS.values())[label]
    text = "".join(letters[int(k)] for k in rng.choice(len(letters), size=2, replace=False))
    style = pick(studio.fonts.styles(pick(_script_families(studio, letters, split), rng)), rng)
    return style, text


def _category(studio: Studio, label: int, split: str, rng: np.random.Generator):
    chosen = list(CATEGORIES.values())[label][split != "train"]
    style = pick(studio.fonts.styles(pick(chosen, rng), weights=(400, 500)), rng)
    return style, pick(["Rag", "Big", "Elf", "Ilk", "Wig", "Fir", "Jar", "Mil"], rng)


@cache
def _weight_families(studio: Studio, split: str) -> list[str]:
    # Comfortaa's weights are told apart by nothing but a pixel's fraction at this size.
    wide = (200, 300, 400, 700, 800)
    return [
        f
        for f in studio.roles("Aa", split)
        if f != "comfortaa" and len({s.weight for s in studio.fonts.styles(f, wide)}) >= 4
    ]


def _weight(studio: Studio, label: int, split: str, rng: np.random.Generator):
    weights = list(WEIGHTS.values())[label]
    style = pick(studio.fonts.styles(pick(_weight_families(studio, split), rng), weights), rng)
    if style.weight not in weights:
        raise ValueError(f"{style.family} has no style of weight {weights}, only {style.weight}")
    return style, LATIN[int(rng.integers(26))].upper() + LATIN[int(rng.integers(26))]


def families(studio: Studio, task: str) -> dict[str, list[str]]:
    """Font families from which each split of a rendered task is drawn."""
    out = {}
    for split in SIZES:
        if task == "FontCategory":
            families = {f for sides in CATEGORIES.values() for f in sides[split != "train"]}
        elif task == "ScriptID":
            families = {f for letters in SCRIPTS.values() for f in _script_families(studio, letters, split)}
        elif task == "FontWeight":
            families = set(_weight_families(studio, split))
        else:
            families = {f for c in CHARACTERS[task] for f in studio.roles(c, split)}
        out[split] = sorted(families)
    return out


WORDS = {
    "FontCategory": word_task("FontCategory", len(CATEGORIES), _category, replace(WORD, scale=(0.5, 0.58))),
    "ScriptID": word_task("ScriptID", len(SCRIPTS), _script, replace(WORD, scale=(0.68, 0.84))),
    "FontWeight": word_task("FontWeight", len(WEIGHTS), _weight, replace(WORD, scale=(0.62, 0.72))),
}
