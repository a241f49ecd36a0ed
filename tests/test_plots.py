"""Figures show the numbers of the boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import leaderboard, plots

ROOT = Path(__file__).parents[1]


def test_lines_are_the_means_of_the_boards(tmp_path: Path) -> None:
    boards = leaderboard.load(ROOT / "results" / "reference")
    if not boards:
        pytest.skip("no reference records in this checkout")
    figure = plots.by_number_of_tasks(boards, ["individual", "ties", "no such method"])
    (axes,) = figure.axes
    drawn = {c.get_label(): [tuple(p) for p in c.lines[0].get_xydata()] for c in axes.containers}
    assert set(drawn) == {"individual", "ties"}
    for name, points in drawn.items():
        for board in boards:
            row = board.rows[board.rows["method"] == name].iloc[0]
            assert (len(board.tasks), pytest.approx(row["mean"])) in points
    path = plots.save(figure, tmp_path / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
