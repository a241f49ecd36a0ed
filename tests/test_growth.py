"""The figure of growth: its plan, its exponents, and a document that says what its points say."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import growth
from helpers.growth import Point

from benchmark.common.project import ROOT


def test_exponents_are_those_of_the_points_and_of_the_maths() -> None:
    cubic = [Point("side", "tsv_m", 8, 0, side, cpu=1e-9 * side**3, mib=1e-6 * side**2) for side in growth.SIDES]
    linear = [Point("experts", "ties", k, *growth.SMALL, cpu=0.1 * k, mib=100) for k in growth.K_OF_EXPERTS]
    lines = {line.split("`")[1]: line for line in growth.table([*cubic, *linear]).splitlines()[2:]}
    assert lines["tsv_m"].endswith("| 3.00, 3.00 |")
    assert "| 1.00, 1 | 0.00, 0 |" in lines["ties"]


def test_points_survive_the_file_and_those_of_other_methods_stay(tmp_path: Path) -> None:
    points = [
        Point("experts", "ties", 2, *growth.SMALL, 1.5, 2.5, 100.0),
        Point("side", "iso_c", 8, 0, 256, 0.1, 0.2, 7),
    ]
    growth.save(tmp_path / "growth.csv", points)
    assert growth.read(tmp_path / "growth.csv") == points
    assert growth.main(["--draw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "growth.png").stat().st_size > 1000 and growth.read(tmp_path / "growth.csv") == points


def test_sizes_of_towers_are_those_they_are_named_by() -> None:
    sizes = [Point("parameters", "ties", 4, *tower).parameters / 1e6 for tower in (*growth.TOWERS, growth.STREAMED)]
    assert [round(size) for size in sizes] == [5, 21, 85, 302, 1476]


@pytest.mark.parametrize("method", ["task_arithmetic", "regmean"])
def test_a_point_is_measured(tmp_path: Path, method: str) -> None:
    point = Point("experts", method, 2, 1, 64)
    growth.write(tmp_path, point)
    cpu, wall, mib = growth.merge(point, tmp_path)
    assert cpu > 0 and wall > 0 and mib >= 0


def test_the_document_says_what_the_points_say() -> None:
    points = growth.read(growth.FIGURES / "growth.csv")
    assert points and growth.table(points) in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert (growth.FIGURES / "growth.png").stat().st_size < 200_000
