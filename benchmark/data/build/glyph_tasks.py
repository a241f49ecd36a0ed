"""The tasks rendered from real fonts: characters of eight scripts, script, category and weight of short words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from benchmark.data.build.glyphs import ROLES, Backgrounds, Distortion, Fonts
from benchmark.data.build.recipes import SIZES, Arrays, photo, quotas, rng_for, shuffled
from benchmark.data.build.sources import Sources

GROUNDS = {
    "train": ["astronaut.png", "camera.png", "coffee.png", "china.jpg"],
    "test": ["rocket.jpg", "flower.jpg", "clock_motion.png", "moon.png"],
}
LATIN = "abcdefghijklmnopqrstuvwxyz"
LETTER = Distortion(scale=(0.85, 1.2))
WORD = Distortion(rotate=6.0, shear=0.08, scale=(0.5, 0.62), stretch=0.06, shift=1.5, blur=(0.0, 0.3), noise=(0.0, 5.0),
                  contrast=(100.0, 200.0), texture=(0.05, 0.35))

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
    "GlyphPunctuation": "!\"#$%&()*+/:;<=>?@[]~",
    "GlyphGreek": "αβγδεζηθικλμνξοπρστυφχψω",
    "GlyphThai": "กขคงจชญฐณดทธนบปพฟมยรลวหอ",
    "GlyphDevanagari": "अइउएकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "GlyphArabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "GlyphHebrew": "אבגדהוזחטיכלמנסעפצקרשת",
}
CATEGORIES = {
    "sans serif": (["alegreya-sans", "hind", "inter", "kanit", "noto-sans", "open-sans", "oswald", "rubik"], ["roboto", "montserrat", "prompt"]),
    "serif": (["amiri", "eb-garamond", "frank-ruhl-libre", "merriweather", "playfair-display"], ["lora", "source-serif-4"]),
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
        self.grounds = {part: Backgrounds({f: photo(sources, f) for f in files}) for part, files in GROUNDS.items()}

    def ground(self, split: str) -> Backgrounds:
        return self.grounds["train" if split == "train" else "test"]

    @lru_cache(maxsize=None)
    def roles(self, text: str, split: str) -> list[str]:
        """Families of a split; validation has its own where such exist for the script, else those of the test."""
        if split == "train":
            return self.fonts.families(text, ("train",))
        own = self.fonts.families(text, (split,))
        return own or self.fonts.families(text, ("test",))


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


def distort_text(studio: Studio, style, text: str, split: str, rng: np.random.Generator, how: Distortion) -> np.ndarray:
    from benchmark.data.build.glyphs import distort

    return distort(studio.fonts.mask(style, text), studio.ground(split).crop(rng), rng, how)


def word_task(task: str, classes: int, draw: Callable[[int, str, np.random.Generator], tuple], how: Distortion):
    """A maker of arrays: `draw(label, split, rng) -> (style, text)` chooses what is rendered."""

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


def _script(studio: Studio, label: int, split: str, rng: np.random.Generator):
    letters = list(SCRIPTS.values())[label]
    text = "".join(letters[int(k)] for k in rng.choice(len(letters), size=2, replace=False))
    families = [f for f in studio.roles(letters, split) if f != "press-start-2p"]
    style = pick(studio.fonts.styles(pick(families, rng)), rng)
    return style, text


def _category(studio: Studio, label: int, split: str, rng: np.random.Generator):
    families = list(CATEGORIES.values())[label][split != "train"]
    style = pick(studio.fonts.styles(pick(families, rng), weights=(400, 500)), rng)
    return style, pick(["Rag", "Big", "Elf", "Ilk", "Wig", "Fir", "Jar", "Mil"], rng)


def _weight(studio: Studio, label: int, split: str, rng: np.random.Generator):
    weights = list(WEIGHTS.values())[label]
    families = [f for f in studio.roles("Aa", split) if f != "comfortaa" and len({s.weight for s in studio.fonts.styles(f, (200, 300, 400, 700, 800))}) >= 4]
    style = pick(studio.fonts.styles(pick(families, rng), weights), rng)
    if style.weight not in weights:
        raise ValueError(f"{style.family} has no style of weight {weights}, only {style.weight}")
    letters = LATIN
    return style, letters[int(rng.integers(26))].upper() + letters[int(rng.integers(26))]


WORDS = {
    "FontCategory": word_task("FontCategory", len(CATEGORIES), _category, replace(WORD, scale=(0.5, 0.58))),
    "ScriptID": word_task("ScriptID", len(SCRIPTS), _script, replace(WORD, scale=(0.68, 0.84))),
    "FontWeight": word_task("FontWeight", len(WEIGHTS), _weight, replace(WORD, scale=(0.62, 0.72))),
}
