"""Renders characters and words from real fonts and distorts them: seeded affine map, blur, noise, photo background.

The families have fixed roles (`ROLES`), so that an evaluation split shows no family that training has shown. Families
whose letters are the same drawing (Heebo's Latin is Roboto's, the Noto Sans of several scripts share theirs) have the
same role, or are kept out of the script in which they coincide (`SKIP`).
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 28
EM = 96
CANVAS = 256
LEVELS = 24

ROLES = {
    "train": (
        "abeezee alegreya-sans amiri cairo caveat comfortaa eb-garamond fira-code frank-ruhl-libre hind "
        "ibm-plex-mono ibm-plex-sans-arabic inter kanit lobster merriweather noto-kufi-arabic noto-sans "
        "noto-sans-devanagari noto-sans-thai open-sans oswald pacifico permanent-marker playfair-display poppins "
        "press-start-2p rubik sarabun"
    ).split(),
    "validation": "almarai assistant exo-2 noto-serif pt-serif".split(),
    "test": "heebo jetbrains-mono lora montserrat mukta noto-sans-arabic prompt roboto source-serif-4 tajawal".split(),
}
SKIP = {
    "LATIN": {"noto-kufi-arabic", "noto-sans-arabic", "noto-sans-devanagari", "noto-sans-thai", "heebo"},
    "COMMON": {"noto-kufi-arabic", "noto-sans-arabic", "noto-sans-devanagari", "noto-sans-thai", "heebo"},
}


@dataclass(frozen=True)
class Style:
    """One drawable style: a font file and, for a variable font, its axes."""

    family: str
    category: tuple[str, ...]
    path: str
    italic: bool
    weight: int
    axes: tuple[float, ...] | None


@dataclass(frozen=True)
class Distortion:
    """Ranges from which each image draws; lengths in pixels of the 28-pixel image, angles in degrees."""

    rotate: float = 12.0
    shear: float = 0.15
    scale: tuple[float, float] = (0.72, 1.0)
    stretch: float = 0.12
    shift: float = 2.0
    blur: tuple[float, float] = (0.0, 0.7)
    noise: tuple[float, float] = (0.0, 7.0)
    contrast: tuple[float, float] = (70.0, 190.0)
    texture: tuple[float, float] = (0.1, 0.5)


class Fonts:
    """The unpacked `fontpkg-*` wheels under `root`: their styles, coverage and glyph masks."""

    def __init__(self, root: Path):
        self.meta: dict[str, dict] = {}
        for path in sorted(root.glob("fontpkg_*/fontpkg_*/metadata.json")):
            meta = json.loads(path.read_text(encoding="utf-8"))
            meta["root"] = path.parent
            self.meta[meta["slug"]] = meta
        missing = sorted({f for families in ROLES.values() for f in families} - set(self.meta))
        if missing:
            raise FileNotFoundError(f"no unpacked wheel under {root} for the font families {', '.join(missing)}")
        self._coverage: dict[str, frozenset[int]] = {}
        self._masks: dict[tuple, np.ndarray] = {}

    def covers(self, family: str, text: str) -> bool:
        if family not in self._coverage:
            from fontTools.ttLib import TTFont

            meta = self.meta[family]
            common: frozenset[int] | None = None
            for file in meta["files"]:
                points = frozenset(TTFont(meta["root"] / file["path"], lazy=True).getBestCmap())
                common = points if common is None else common & points
            self._coverage[family] = common or frozenset()
        return all(ord(c) in self._coverage[family] for c in text)

    def families(self, text: str, roles: tuple[str, ...]) -> list[str]:
        """Families of these roles that draw every character of `text`, in alphabetical order."""
        skipped: set[str] = set().union(*(SKIP.get(script(c), set()) for c in text))
        names = sorted(f for role in roles for f in ROLES[role] if f not in skipped)
        return [f for f in names if self.covers(f, text)]

    def styles(
        self, family: str, weights: tuple[int, ...] = (300, 400, 500, 700), italics: bool = False
    ) -> list[Style]:
        """Upright (and italic) styles of a family at these weights, as far as it has them; at least one."""
        meta = self.meta[family]
        styles = []
        for file in sorted(meta["files"], key=lambda f: f["path"]):
            italic = file["style"] != "normal"
            if italic and not italics:
                continue
            path = str(meta["root"] / file["path"])
            if not file["variable"]:
                if file["weight"] in weights:
                    styles.append(Style(family, tuple(meta["category"]), path, italic, file["weight"], None))
                continue
            axes = variation_axes(path)
            for weight in weights:
                if "wght" in axes and axes["wght"][0] <= weight <= axes["wght"][2]:
                    values = tuple(
                        float(weight) if tag == "wght" else float(default) for tag, (_, default, _) in axes.items()
                    )
                    styles.append(Style(family, tuple(meta["category"]), path, italic, weight, values))
        if not styles and weights != (400, 700):
            return self.styles(family, (400, 700), italics)
        return styles

    def mask(self, style: Style, text: str) -> np.ndarray:
        """Coverage of `text`, uint8 [CANVAS / 2, CANVAS / 2], `EM / 2` pixels to the em, the ink's box centred."""
        key = (style.path, style.axes, text)
        if key in self._masks:
            return self._masks[key]
        image = Image.new("L", (CANVAS * 2, CANVAS * 2))
        font = load_font(style.path, style.axes)
        ImageDraw.Draw(image).text((CANVAS, CANVAS), text, fill=255, font=font, anchor="ms")
        box = image.getbbox()
        if box is None:
            raise ValueError(f"{style.family} draws nothing for {text!r}")
        x, y, half = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2, CANVAS // 2
        mask = np.asarray(image.crop((x - half, y - half, x + half, y + half)).reduce(2))
        if len(self._masks) < 4000:
            self._masks[key] = mask
        return mask


def script(character: str) -> str:
    """First word of the Unicode name if it is one of the scripts used here, else COMMON."""
    first = unicodedata.name(character, "").split(" ")[0]
    return first if first in {"LATIN", "CYRILLIC", "GREEK", "THAI", "DEVANAGARI", "ARABIC", "HEBREW"} else "COMMON"


@cache
def variation_axes(path: str) -> dict[str, tuple[float, float, float]]:
    """Axes of a variable font in file order: tag -> (minimum, default, maximum)."""
    from fontTools.ttLib import TTFont

    return {a.axisTag: (a.minValue, a.defaultValue, a.maxValue) for a in TTFont(path, lazy=True)["fvar"].axes}


@lru_cache(maxsize=64)
def load_font(path: str, axes: tuple[float, ...] | None) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, EM)
    if axes is not None:
        font.set_variation_by_axes(list(axes))
    return font


def distort(mask: np.ndarray, background: np.ndarray, rng: np.random.Generator, how: Distortion) -> np.ndarray:
    """One 28x28 uint8 image of `mask` [CANVAS / 2, CANVAS / 2] over a photo crop [28, 28], in `LEVELS` greys."""
    angle = np.deg2rad(rng.uniform(-how.rotate, how.rotate))
    shear = rng.uniform(-how.shear, how.shear)
    scale = rng.uniform(*how.scale)
    stretch = np.exp(rng.uniform(-how.stretch, how.stretch))
    shift = rng.uniform(-how.shift, how.shift, size=2) * 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # Output pixel (of the 56-pixel image) to mask pixel: at scale 1 the em fills the output image.
    forward = (
        turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([scale * stretch, scale / stretch]) * (2 * SIDE / EM)
    )
    inverse = np.linalg.inv(forward)
    offset = CANVAS / 2 - inverse @ (np.array([SIDE, SIDE]) + shift)
    inverse, offset = inverse / 2, offset / 2
    data = (inverse[0, 0], inverse[0, 1], offset[0], inverse[1, 0], inverse[1, 1], offset[1])
    moved = (
        Image.fromarray(mask)
        .transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        .reduce(2)
    )
    radius = rng.uniform(*how.blur)
    alpha = np.asarray(moved.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64) / 255
    contrast = rng.uniform(*how.contrast)
    dark = rng.uniform(10, 245 - contrast)
    ink, paper = (dark, dark + contrast) if rng.random() < 0.5 else (dark + contrast, dark)
    photo = background.astype(np.float64)
    paper = paper + (photo - photo.mean()) * rng.uniform(*how.texture)
    noise = rng.normal(size=(SIDE, SIDE)) * rng.uniform(*how.noise)
    return quantise(paper * (1 - alpha) + ink * alpha + noise)


def quantise(image: np.ndarray) -> np.ndarray:
    """Clip to 0..255 and round to `LEVELS` equal steps: less than the noise added, and the PNG is half as large."""
    step = 255 / (LEVELS - 1)
    return np.rint(np.rint(np.clip(image, 0, 255) / step) * step).astype(np.uint8)


class Backgrounds:
    """Random 28x28 crops of photos, [H, W] uint8 each, at a random scale."""

    def __init__(self, photos: dict[str, np.ndarray]):
        self.photos = [photos[name] for name in sorted(photos)]

    def crop(self, rng: np.random.Generator) -> np.ndarray:
        photo = self.photos[rng.integers(len(self.photos))]
        side = int(rng.integers(SIDE, min(160, *photo.shape)))
        y = int(rng.integers(photo.shape[0] - side + 1))
        x = int(rng.integers(photo.shape[1] - side + 1))
        crop = Image.fromarray(photo[y : y + side, x : x + side])
        return np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BOX))
