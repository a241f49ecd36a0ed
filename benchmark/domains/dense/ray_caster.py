"""Rendered indoor scenes: a ray caster in numpy that gives exact colour, class, depth and normals of every pixel.

A scene is a room with a rug, pictures, boxes, balls and cylinders, drawn from a seed; textures are crops of CC0
photographs. World axes: x right, y up, z away; metres. Camera axes: x right, y up, z towards the viewer.
These are synthetic pictures, not photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("floor", "wall", "ceiling", "rug", "picture", "box", "ball", "cylinder")
SIZE = (48, 64)
FAR = np.inf


@dataclass(frozen=True)
class Paint:
    """Colour ``[3]`` in 0 .. 1, texture of the atlas, metres that one tile of it covers, and its contrast."""

    colour: np.ndarray
    texture: int
    tile: float
    contrast: float


@dataclass(frozen=True)
class Solid:
    """A ball, an upright cylinder or a box standing on its base, turned about the upright axis.

    ``at`` is the middle of the base (of a ball its lowest point), ``half`` half its extent along its own axes.
    """

    kind: str
    at: np.ndarray
    half: np.ndarray
    turn: float
    paint: Paint

    @property
    def centre(self) -> np.ndarray:
        """The middle of the solid, world coordinates ``[3]``."""
        return self.at + np.array([0.0, self.half[1], 0.0])


@dataclass(frozen=True)
class Panel:
    """A flat rectangle on a face of the room: ``low`` and ``high`` are corners in the face's two coordinates."""

    kind: str
    face: int
    low: np.ndarray
    high: np.ndarray
    paint: Paint


@dataclass(frozen=True)
class Scene:
    """Everything a picture depends on. ``room`` is its extent ``[3]``; faces: x=0, x=max, y=0, y=max, z=0, z=max."""

    room: np.ndarray
    faces: tuple[Paint, ...]
    panels: tuple[Panel, ...]
    solids: tuple[Solid, ...]
    eye: np.ndarray
    yaw: float
    pitch: float
    focal: float
    light: np.ndarray
    light_colour: np.ndarray
    ambient: float


@dataclass(frozen=True)
class Hits:
    """What rays meet: distance along the ray, class, normal ``[n, 3]``, paint number and texture coordinates."""

    distance: np.ndarray
    label: np.ndarray
    normal: np.ndarray
    paint: np.ndarray
    uv: np.ndarray


def camera(scene: Scene) -> np.ndarray:
    """Rows: the camera's right, up and forward directions in world coordinates."""
    cy, sy, cp, sp = np.cos(scene.yaw), np.sin(scene.yaw), np.cos(scene.pitch), np.sin(scene.pitch)
    forward = np.array([sy * cp, sp, cy * cp])
    right = np.array([cy, 0.0, -sy])
    return np.stack([right, np.cross(forward, right), forward])


def rays(scene: Scene, size: tuple[int, int] = SIZE, samples: int = 1) -> np.ndarray:
    """Directions ``[H * samples * W * samples, 3]`` through the pixels, of length 1 along the camera's forward axis,
    so that the distance of a hit is its depth."""
    height, width = size[0] * samples, size[1] * samples
    focal = scene.focal * width
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (height / 2 - np.arange(height) - 0.5) / focal
    right, up, forward = camera(scene)
    return (forward + y[:, None, None] * up + x[None, :, None] * right).reshape(-1, 3)


def cast(scene: Scene, origin: np.ndarray, directions: np.ndarray) -> Hits:
    """The nearest surface along each ray from ``origin`` (``[3]`` or ``[n, 3]``)."""
    best = _room(scene, origin, directions)
    for number, solid in enumerate(scene.solids):
        distance, normal, uv = meet(solid, origin, directions)
        nearer = distance < best.distance
        best.distance[nearer] = distance[nearer]
        best.normal[nearer] = normal[nearer]
        best.uv[nearer] = uv[nearer]
        best.label[nearer] = CLASSES.index(solid.kind)
        best.paint[nearer] = 6 + len(scene.panels) + number
    return best


def _room(scene: Scene, origin: np.ndarray, directions: np.ndarray) -> Hits:
    """The inner faces of the room and the panels on them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.where(directions > 0, scene.room, 0.0)
        exits = np.where(directions != 0, (bound - origin) / directions, FAR)
    axis = exits.argmin(1)
    rows = np.arange(len(directions))
    distance = exits[rows, axis]
    positive = directions[rows, axis] > 0
    normal = np.zeros_like(directions)
    normal[rows, axis] = np.where(positive, -1.0, 1.0)
    face = 2 * axis + positive
    points = origin + distance[:, None] * directions
    uv = np.stack([points[rows, np.where(axis == 0, 2, 0)], points[rows, np.where(axis == 1, 2, 1)]], 1)
    label = np.select([face == 2, face == 3], [CLASSES.index("floor"), CLASSES.index("ceiling")], CLASSES.index("wall"))
    paint = face.copy()
    for number, panel in enumerate(scene.panels):
        inside = (face == panel.face) & (uv > panel.low).all(1) & (uv < panel.high).all(1)
        label[inside], paint[inside] = CLASSES.index(panel.kind), 6 + number
        if panel.kind == "picture":
            uv[inside] = (uv[inside] - panel.low) / (panel.high - panel.low) * panel.paint.tile
    return Hits(distance, label, normal, paint, uv)


def meet(solid: Solid, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance (infinite without a hit), outward normal and texture coordinates of one solid, seen from outside."""
    c, s = np.cos(solid.turn), np.sin(solid.turn)
    turn = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    start = np.broadcast_to((origin - solid.centre) @ turn.T, directions.shape)
    way = directions @ turn.T
    surface = {"box": _box, "ball": _ball, "cylinder": _cylinder}[solid.kind](start, way, solid.half)
    distance, normal = surface
    hit = np.isfinite(distance)
    points = start + np.where(hit, distance, 0.0)[:, None] * way
    flat = np.abs(normal[:, 1]) > 0.7
    around = np.arctan2(points[:, 0], points[:, 2]) * solid.half[0] if solid.kind != "box" else None
    side = np.where(np.abs(normal[:, 0]) > 0.7, points[:, 2], points[:, 0]) if around is None else around
    uv = np.stack([np.where(flat, points[:, 0], side), np.where(flat, points[:, 2], points[:, 1])], 1)
    return distance, normal @ turn, uv


def _box(start: np.ndarray, way: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = (-half * np.sign(way) - start) / way, (half * np.sign(way) - start) / way
    parallel = way == 0
    outside = parallel & (np.abs(start) > half)
    near, far = np.where(parallel, -FAR, near), np.where(parallel, FAR, far)
    axis, enter, leave = near.argmax(1), near.max(1), far.min(1)
    hit = (enter < leave) & (enter > 1e-9) & ~outside.any(1)
    normal = np.zeros_like(way)
    rows = np.arange(len(way))
    normal[rows, axis] = -np.sign(way[rows, axis])
    return np.where(hit, enter, FAR), normal


def _ball(start: np.ndarray, way: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance = _quadratic((way**2).sum(1), (start * way).sum(1), (start**2).sum(1) - half[0] ** 2)
    return distance, (start + np.where(np.isfinite(distance), distance, 0.0)[:, None] * way) / half[0]


def _cylinder(start: np.ndarray, way: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = [0, 2]
    a, b = (way[:, flat] ** 2).sum(1), (start[:, flat] * way[:, flat]).sum(1)
    side = _quadratic(a, b, (start[:, flat] ** 2).sum(1) - half[0] ** 2)
    height = start[:, 1] + np.where(np.isfinite(side), side, 0.0) * way[:, 1]
    side = np.where(np.abs(height) <= half[1], side, FAR)
    with np.errstate(divide="ignore", invalid="ignore"):
        cap = np.where(way[:, 1] != 0, (np.sign(-way[:, 1]) * half[1] - start[:, 1]) / way[:, 1], FAR)
    points = start[:, flat] + np.where(np.isfinite(cap), cap, 0.0)[:, None] * way[:, flat]
    cap = np.where((cap > 1e-9) & ((points**2).sum(1) <= half[0] ** 2), cap, FAR)
    distance = np.minimum(side, cap)
    points = start + np.where(np.isfinite(distance), distance, 0.0)[:, None] * way
    normal = np.where(
        (cap < side)[:, None], [0.0, 1.0, 0.0] * -np.sign(way[:, 1:2]), points * [1.0, 0.0, 1.0] / half[0]
    )
    return distance, normal


def _quadratic(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The smaller positive root of ``a t^2 + 2 b t + c`` from outside the solid, else infinite."""
    inside = b * b - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        root = (-b - np.sqrt(np.maximum(inside, 0.0))) / a
    return np.where((inside > 0) & (a > 0) & (root > 1e-9), root, FAR)


@dataclass(frozen=True)
class Picture:
    """One rendered scene: ``image`` uint8 ``[H, W, 3]``, ``label`` int8 ``[H, W]``, ``depth`` metres ``[H, W]`` and
    unit ``normal`` ``[H, W, 3]`` in camera axes, both float64."""

    image: np.ndarray
    albedo: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def render(scene: Scene, textures: np.ndarray, noise: np.random.Generator, size: tuple[int, int] = SIZE) -> Picture:
    """Colour from two by two rays a pixel with shadows and noise; class, depth and normal of the pixel's middle.

    Args:
        textures: ``[T, S, S]`` uint8, tiled over surfaces.
        noise: of the sensor, one grey level of 255.
    """
    axes = camera(scene)
    middle = cast(scene, scene.eye, rays(scene, size))
    fine = rays(scene, size, 2)
    hits = cast(scene, scene.eye, fine)
    albedo = _albedo(scene, hits, textures)
    colour = albedo * _light(scene, scene.eye + hits.distance[:, None] * fine, hits.normal)
    shrink = [_pooled(x, size) for x in (colour, albedo)]
    image = 255 * np.clip(shrink[0], 0, 1) ** (1 / 2.2) + noise.normal(0, 1, (*size, 3))
    normal = middle.normal @ (axes * [[1.0], [1.0], [-1.0]]).T
    return Picture(
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        np.clip(np.rint(255 * np.clip(shrink[1], 0, 1) ** (1 / 2.2)), 0, 255).astype(np.uint8),
        middle.label.reshape(size).astype(np.int8),
        middle.distance.reshape(size),
        normal.reshape(*size, 3),
    )


def _pooled(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return values.reshape(size[0], 2, size[1], 2, 3).mean((1, 3))


def _albedo(scene: Scene, hits: Hits, textures: np.ndarray) -> np.ndarray:
    """Colour without light ``[n, 3]``, linear."""
    paints = [*scene.faces, *(p.paint for p in scene.panels), *(s.paint for s in scene.solids)]
    out = np.empty((len(hits.paint), 3))
    side = textures.shape[1]
    for number, paint in enumerate(paints):
        mine = hits.paint == number
        cell = (np.floor(hits.uv[mine] / paint.tile * side).astype(int)) % side
        grain = textures[paint.texture, side - 1 - cell[:, 1], cell[:, 0]] / 255.0
        out[mine] = paint.colour * (1 + paint.contrast * (grain - 0.5) * 2)[:, None]
    return out.clip(0, 1)


def _light(scene: Scene, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Ambient light and a lamp with shadows, ``[n, 3]``."""
    towards = scene.light - points
    far = np.sqrt((towards**2).sum(1))
    facing = ((normal * towards).sum(1) / far).clip(min=0)
    start = points + 1e-4 * normal
    lit = np.ones(len(points), dtype=bool)
    for solid in scene.solids:
        distance, _, _ = meet(solid, start, scene.light - start)
        lit &= ~(distance < 1)
    strength = facing * lit * 3.0 / (1.0 + 0.25 * far**2)
    return scene.ambient + strength[:, None] * scene.light_colour
