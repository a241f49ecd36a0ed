"""The renderer's geometry against formulas, and the committed scenes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark.assets.dense import render as rendering
from benchmark.assets.dense.design import design, seeds
from benchmark.common.errors import UserError
from benchmark.domains.dense import scenes as scenes_data
from benchmark.domains.dense.ray_caster import CLASSES, Paint, Panel, Scene, Solid, camera, cast, meet, rays, render

PAINT = Paint(np.array([0.5, 0.5, 0.5]), 0, 1.0, 0.5)
GREY = np.full((1, 4, 4), 128, np.uint8)
FORWARD = np.array([[0.0, 0.0, 1.0]])


def scene(*solids: Solid, panels: tuple[Panel, ...] = (), yaw: float = 0.0, pitch: float = 0.0) -> Scene:
    """A room of 4 x 3 x 6 metres seen from one metre inside, in the middle, at half its height."""
    return Scene(
        np.array([4.0, 3.0, 6.0]), (PAINT,) * 6, panels, solids, np.array([2.0, 1.5, 1.0]), yaw, pitch, 0.8,
        np.array([2.0, 2.8, 3.0]), np.ones(3), 0.3,
    )  # fmt: skip


def solid(kind: str, at: tuple[float, float, float], half: tuple[float, float, float], turn: float = 0.0) -> Solid:
    return Solid(kind, np.array(at), np.array(half), turn, PAINT)


def test_an_empty_room_has_the_depth_of_its_walls() -> None:
    hits = cast(scene(), scene().eye, np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, -0.6, 1.0]]))
    assert np.allclose(hits.distance, [5.0, 2.0, 1.5, 1.5, 1.5 / 0.6])
    assert [CLASSES[k] for k in hits.label] == ["wall", "wall", "floor", "ceiling", "floor"]
    assert np.allclose(hits.normal, [[0, 0, -1], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 1, 0]])


def test_a_ball_is_met_at_its_nearest_point_and_at_its_rim_not_at_all() -> None:
    ball = solid("ball", (2.0, 1.1, 4.0), (0.4, 0.4, 0.4))
    distance, normal, _ = meet(ball, np.array([2.0, 1.5, 1.0]), np.array([[0.0, 0.0, 1.0], [0.0, 0.15, 1.0]]))
    assert np.isclose(distance[0], 2.6) and np.allclose(normal[0], [0, 0, -1])
    assert np.isinf(distance[1]), "0.15 of 3 metres is 0.45, past a radius of 0.4"


def test_a_cylinder_is_met_on_its_side_and_on_its_lid() -> None:
    tin = solid("cylinder", (2.0, 0.0, 4.0), (0.5, 0.5, 0.5))
    ways = np.array([[0.0, -0.25, 1.0], [0.0, -0.5 / 2.9, 1.0], [0.0, 0.0, 1.0]])
    distance, normal, _ = meet(tin, np.array([2.0, 1.5, 1.0]), ways)
    assert np.isclose(distance[0], 2.5) and np.allclose(normal[0], [0, 0, -1]), "at height 0.875 its side"
    assert np.isclose(distance[1], 2.9) and np.allclose(normal[1], [0, 1, 0]), "from above its lid at height 1"
    assert np.isinf(distance[2])


def test_a_turned_box_shows_its_edge_nearer_than_its_face() -> None:
    straight, turned = (solid("box", (2.0, 0.0, 4.0), (0.5, 1.0, 0.5), turn) for turn in (0.0, np.pi / 4))
    way = np.array([[1e-6, 0.0, 1.0]])
    near, face, _ = meet(straight, np.array([2.0, 1.5, 1.0]), way)
    edge, side, _ = meet(turned, np.array([2.0, 1.5, 1.0]), way)
    assert np.isclose(near[0], 2.5) and np.allclose(face[0], [0, 0, -1])
    assert np.isclose(edge[0], 3 - 0.5 * np.sqrt(2), atol=1e-4)
    assert np.allclose(np.abs(side[0]), [np.sqrt(0.5), 0, np.sqrt(0.5)]) and side[0, 2] < 0


def test_the_nearer_of_two_solids_is_seen_and_a_rug_is_the_floor_with_another_class() -> None:
    far, near = solid("ball", (2.0, 1.1, 5.0), (0.4, 0.4, 0.4)), solid("box", (2.0, 1.0, 3.0), (0.3, 0.6, 0.3))
    rug = Panel("rug", 2, np.array([1.0, 2.0]), np.array([3.0, 5.0]), PAINT)
    hits = cast(
        scene(far, near, panels=(rug,)), scene().eye, np.array([[0.0, 0.0, 1.0], [0.3, -0.6, 1.0], [0.7, -0.6, 1.0]])
    )
    assert [CLASSES[k] for k in hits.label] == ["box", "rug", "floor"]
    assert np.allclose(hits.distance[1:], 2.5) and np.allclose(hits.normal[1:], [0, 1, 0])


def test_depth_is_along_the_cameras_axis_and_normals_are_in_its_frame() -> None:
    there = scene(yaw=0.4, pitch=-0.3)
    axes = camera(there)
    assert np.allclose(axes @ axes.T, np.eye(3)) and axes[1, 1] > 0.9 and axes[0, 0] > 0.9
    assert np.allclose(rays(there) @ axes[2], 1.0), "so the distance of a hit is its depth"
    picture = render(scene(), GREY, np.random.default_rng(0), (12, 16))
    middle = picture.label == CLASSES.index("wall")
    assert np.allclose(picture.normal[6, 8], [0, 0, 1]), "the wall opposite faces the viewer"
    assert np.allclose(picture.depth[6, 8], 5.0) and middle[6, 8]
    assert np.allclose(picture.normal[11, 8], [0, 1, 0]) and picture.label[11, 8] == CLASSES.index("floor")


@pytest.mark.parametrize("index", range(4))
def test_normals_are_unit_and_agree_with_the_slope_of_depth(index: int) -> None:
    random = seeds("train", index)
    there = design(random)
    picture = render(there, np.zeros((10, 4, 4), np.uint8), random)
    assert np.allclose(np.linalg.norm(picture.normal, axis=-1), 1)
    assert picture.depth.min() > 0.05 and np.isfinite(picture.depth).all()
    axes = camera(there) * [[1.0], [1.0], [-1.0]]
    points = (picture.depth.reshape(-1, 1) * rays(there)).reshape(*picture.depth.shape, 3) @ axes.T
    across, down = points[:, 1:] - points[:, :-1], points[1:] - points[:-1]
    flat = np.isin(picture.label, [CLASSES.index(c) for c in ("floor", "wall", "ceiling", "box", "rug", "picture")])
    checked = 0
    for step, first, second in ((across, np.s_[:, :-1], np.s_[:, 1:]), (down, np.s_[:-1], np.s_[1:])):
        same = flat[first] & flat[second] & (picture.label[first] == picture.label[second])
        same &= (picture.normal[first] * picture.normal[second]).sum(-1) > 1 - 1e-9
        same &= np.abs((step * picture.normal[first]).sum(-1)) < 0.5
        gap = np.abs((step * picture.normal[first]).sum(-1))[same]
        assert np.mean(gap < 1e-9) > 0.97, "on a plane a step between pixels is perpendicular to the normal"
        checked += int(same.sum())
    assert checked > 1500


def test_a_shadow_is_darker_than_the_light_beside_it() -> None:
    lamp = dataclasses.replace(scene(), light=np.array([2.0, 2.9, 3.0]), faces=(PAINT,) * 6, pitch=-0.6)
    shade = dataclasses.replace(lamp, solids=(solid("box", (2.0, 2.0, 3.0), (0.4, 0.05, 0.4)),))
    light, dark = (render(s, GREY, np.random.default_rng(0)).image.astype(int) for s in (lamp, shade))
    floor = render(shade, GREY, np.random.default_rng(0)).label == CLASSES.index("floor")
    assert (light[floor] - dark[floor]).max() > 30


def test_scenes_come_again_from_their_seeds_and_splits_share_none() -> None:
    atlas = rendering.textures()
    for split in ("train", "test"):
        again, kept = rendering.render_split(split, 2, atlas), scenes_data.load_split(split)
        for part in scenes_data.PARTS:
            assert np.array_equal(again[part], getattr(kept, part)[:2]), f"{split}: {part}"
    first = [scenes_data.load_split(s).image[0] for s in scenes_data.SPLITS]
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[1], first[2])


def test_every_class_is_in_every_split_and_truth_is_whole() -> None:
    for split, count in rendering.COUNTS.items():
        rows = scenes_data.load_split(split)
        assert len(rows) == count
        assert set(np.unique(rows.label)) == set(range(len(CLASSES)))
        assert (rows.depth > 0).all() and np.abs(np.linalg.norm(rows.normal.astype(float), axis=-1) - 1).max() < 2e-3


def test_a_damaged_or_altered_scene_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes_data.FOLDER, folder)
    path = folder / "val-label.npy.xz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="val-label"):
        scenes_data.load_split("val", folder)
    rows = scenes_data.load_split("val")
    altered = {part: getattr(rows, part).copy() for part in scenes_data.PARTS}
    altered["label"][0, 0, 0] += 1
    rendering.write_split(folder, "val", altered)
    scenes_data.load_split.cache_clear()
    with pytest.raises(UserError, match="sha256"):
        scenes_data.load_split("val", folder)
