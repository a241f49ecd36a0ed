"""Which scenes there are: rooms and their contents drawn from a seed."""

from __future__ import annotations

import colorsys

import numpy as np

from benchmark.domains.dense.ray_caster import Paint, Panel, Scene, Solid

# Textures of the atlas by name, in its order; pictures on walls show the last ones.
TEXTURES = ("brick", "brick 2", "gravel", "gravel 2", "grass", "grass 2", "fur", "cup", "cameraman", "eye")
GRAINS, MOTIFS = (0, 1, 2, 3, 4, 5), (6, 7, 8, 9)
SPLITS = {"train": 0, "val": 1, "test": 2}
VERSION = 1


def seeds(split: str, index: int) -> np.random.Generator:
    """The generator of one scene; splits never share one."""
    return np.random.default_rng([VERSION, SPLITS[split], index])


def design(rng: np.random.Generator) -> Scene:
    """A room, what is on its floor and walls, a lamp and a camera that looks across it."""
    room = np.array([rng.uniform(3.0, 6.0), rng.uniform(2.3, 3.0), rng.uniform(3.5, 6.5)])
    wall = _paint(rng, (0.3, 0.8), (0.05, 0.6), 0.25)
    other = _paint(rng, (0.3, 0.8), (0.05, 0.6), 0.25) if rng.random() < 0.4 else wall
    floor, ceiling = _paint(rng, (0.1, 0.6), (0.1, 0.7), 0.5), _paint(rng, (0.5, 0.9), (0.0, 0.2), 0.15)
    eye = np.array([rng.uniform(0.25, 0.75) * room[0], rng.uniform(1.1, 1.7), rng.uniform(0.3, 0.8)])
    scene = Scene(
        room=room,
        faces=(wall, other, floor, ceiling, wall, other),
        panels=(*_rugs(rng, room), *_pictures(rng, room)),
        solids=_solids(rng, room, eye),
        eye=eye,
        yaw=rng.uniform(-0.6, 0.6),
        pitch=rng.uniform(-0.45, 0.1),
        focal=rng.uniform(0.65, 0.9),
        light=np.array([rng.uniform(0.2, 0.8), rng.uniform(0.85, 0.95), rng.uniform(0.15, 0.85)]) * room,
        light_colour=np.array([1.0, rng.uniform(0.8, 1.0), rng.uniform(0.6, 1.0)]),
        ambient=rng.uniform(0.25, 0.6),
    )
    return scene


def _paint(rng: np.random.Generator, value: tuple[float, float], saturation: tuple[float, float], contrast: float,
           textures: tuple[int, ...] = GRAINS) -> Paint:  # fmt: skip
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))
    return Paint(colour, int(rng.choice(textures)), rng.uniform(0.6, 1.6), rng.uniform(0.3, 1.0) * contrast)


def _rugs(rng: np.random.Generator, room: np.ndarray) -> list[Panel]:
    if rng.random() < 0.35:
        return []
    extent = np.array([room[0], room[2]])
    half = rng.uniform([0.5, 0.5], [1.1, 1.3])
    middle = rng.uniform(half + 0.1, extent - half - 0.1)
    return [Panel("rug", 2, middle - half, middle + half, _paint(rng, (0.2, 0.9), (0.3, 0.95), 0.5))]


def _pictures(rng: np.random.Generator, room: np.ndarray) -> list[Panel]:
    """On the side walls and the one opposite; never two on one wall."""
    panels = []
    for face in rng.permutation([0, 1, 5])[: rng.integers(0, 4)]:
        extent = np.array([room[2] if face < 2 else room[0], room[1]])
        half = rng.uniform([0.3, 0.25], [0.8, 0.5])
        middle = rng.uniform(half + [0.1, 1.1 - half[1]], extent - half - [0.1, 0.1])
        paint = _paint(rng, (0.4, 0.9), (0.0, 0.5), 0.9, MOTIFS)
        panels.append(Panel("picture", int(face), middle - half, middle + half, paint))
    return panels


def _solids(rng: np.random.Generator, room: np.ndarray, eye: np.ndarray) -> tuple[Solid, ...]:
    """Three to seven solids that do not touch each other, the walls or the camera; some balls lie on boxes."""
    solids: list[Solid] = []
    discs: list[tuple[float, float, float]] = [(eye[0], eye[2], 0.5)]
    for _ in range(int(rng.integers(3, 8))):
        kind = str(rng.choice(["box", "box", "ball", "cylinder"]))
        if kind == "box":
            half = rng.uniform([0.2, 0.15, 0.2], [0.6, 0.6, 0.6])
        elif kind == "ball":
            half = np.full(3, rng.uniform(0.15, 0.4))
        else:
            radius = rng.uniform(0.12, 0.35)
            half = np.array([radius, rng.uniform(0.2, 0.9), radius])
        reach = float(np.hypot(half[0], half[2])) if kind == "box" else float(half[0])
        for _ in range(12):
            x, z = rng.uniform([reach + 0.05, eye[2]], [room[0] - reach - 0.05, room[2] - reach - 0.05])
            if all(np.hypot(x - a, z - b) > reach + r + 0.05 for a, b, r in discs):
                discs.append((x, z, reach))
                turn = rng.uniform(0, np.pi)
                paint = _paint(rng, (0.2, 0.95), (0.2, 0.95), 0.5)
                solids.append(Solid(kind, np.array([x, 0.0, z]), half, turn, paint))
                if kind == "box" and half[1] < 0.45 and rng.random() < 0.3:
                    ball = rng.uniform(0.1, 0.8 * min(half[0], half[2]))
                    on_top = np.array([x, 2 * half[1], z])
                    solids.append(
                        Solid("ball", on_top, np.full(3, ball), 0.0, _paint(rng, (0.2, 0.95), (0.2, 0.95), 0.5))
                    )
                break
    return tuple(solids)
