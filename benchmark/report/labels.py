"""Names beside the points of a figure, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

#: Where a name may stand: offset in typographic points, and the side of the text that is at the point.
SIDES = [((5, 3), "left"), ((-5, 3), "right"), ((5, -8), "left"), ((-5, -8), "right")]


def place(
    axes: Axes, named: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]], always: int = 0
) -> None:
    """Write each name beside its point, on the side where it hides fewest ``points`` and no name or edge.

    Args:
        named: ``(x, y, name)``, the most important first; a name without room is left out.
        points: all points of the figure, in its data's units.
        always: how many of the first names are written even where they hide points.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    marks = axes.transData.transform(np.array(points))
    boxes: list[Bbox] = []
    for number, (x, y, name) in enumerate(named):
        best, fewest, where = None, 1 if number >= always else len(marks) + 1, Bbox.null()
        for offset, side in SIDES:
            text = axes.annotate(name, (x, y), textcoords="offset points", xytext=offset, ha=side, fontsize=6)
            box = text.get_window_extent()
            hidden = sum(box.padded(2).contains(*mark) for mark in marks)
            clear = axes.bbox.padded(1).containsx(box.x0) and axes.bbox.containsx(box.x1)
            if clear and hidden < fewest and not any(box.overlaps(other) for other in boxes):
                best, fewest, where = (offset, side), hidden, box
            text.remove()
        if best is not None:
            offset, side = best
            axes.annotate(name, (x, y), textcoords="offset points", xytext=offset, ha=side, fontsize=6)
            boxes.append(where)
