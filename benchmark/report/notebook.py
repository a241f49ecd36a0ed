"""The notebook of figures: executed in place, and what its cells use. No torch."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.figure import Figure

from benchmark.board import leaderboard
from benchmark.board.rows import Board
from benchmark.common.errors import UserError, shown
from benchmark.common.escapes import inline
from benchmark.common.files import write_atomic
from benchmark.common.project import DEFAULT_SUITE
from benchmark.common.project import RESULTS as DEFAULT_RESULTS
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.report.captions import caption
from benchmark.studies.places import Places
from benchmark.submissions.package import accepted

NAME = "plots.ipynb"
RESULTS = "SYMERGE_RESULTS"
WIDTH = 110
"""Characters of the board at the top."""
DOTS = 90
"""Per inch; a figure is some 7 inches wide, a browser's column some 800 dots."""


def execute(source: Path, results: Path, timeout: int = 600) -> Path:
    """Run the notebook ``source`` on a results folder and write it there with its outputs; its path.

    Nothing in it depends on the machine or the hour, so that the same records give the same text.

    Raises:
        UserError: its packages are not installed, or a cell failed.
    """
    try:
        import nbclient
        import nbformat
        from traitlets.config import Config
    except ImportError as error:
        raise UserError(f"the notebook needs {error.name}", 'Type: pip install -e ".[notebook]"') from None
    book: Any = nbformat.read(source, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:
        client = nbclient.NotebookClient(
            book,
            timeout=timeout,
            startup_timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(results)}},
            # Sockets in a folder of this user's: nobody else on the machine or the network can talk to the kernel.
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        try:
            client.execute(env={**os.environ, RESULTS: str(results.resolve())})
        except nbclient.exceptions.CellExecutionError as error:
            raise UserError(f"a cell of {shown(source)} failed", str(error)) from None
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                     "language_info": {"name": "python"}}  # fmt: skip
    target = results / NAME
    write_atomic(target, nbformat.writes(book) + "\n")
    return target


def read(results: Path | None = None) -> tuple[list[Record], Places]:
    """Records of methods in a results folder, and where its studies are; by default the one named in SYMERGE_RESULTS.

    The project's own folder has them apart: its own in ``reference``, those of third parties in ``submitted``.
    """
    results = results or Path(os.environ.get(RESULTS) or DEFAULT_RESULTS)
    own, sent = results / "reference", results / "submitted"
    apart = own.is_dir() or sent.is_dir()
    records = Store(own if apart else results, read_only=True).all() + accepted(sent)
    return records, Places(results, reference=apart)


def first(boards: Sequence[Board]) -> None:
    """Print the default suite's board, or the first one where that has none."""
    ordered = sorted((board for board in boards if len(board.rows)), key=lambda board: board.suite != DEFAULT_SUITE)
    for board in ordered[:1]:
        leaderboard.print_board(board, width=WIDTH)


def sentence(name: str, kind: str, boards: Sequence[Board]) -> str:
    """What the figure of this name shows: of its board, or of the studies."""
    return caption(kind, next((board for board in boards if name == f"{board.name}--{kind}"), None))


def show(figure: Figure, name: str, about: str = "") -> None:
    """Put the figure into the notebook, under the name of the file that ``board --plots`` writes, and close it.

    ``about``: what it shows.
    """
    import PIL.Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS, format="png")
    pyplot.close(figure)
    with PIL.Image.open(drawn) as image:
        # Charts need no more than 128 colours, which take a third of the bytes of all.
        _show(
            image.convert("RGB").quantize(128, dither=PIL.Image.Dither.NONE), f"plots/{name}.png", about, format="png"
        )


def show_picture(path: Path) -> None:
    """Put a picture of many colours from ``plots`` into the notebook, as JPEG."""
    import PIL.Image

    with PIL.Image.open(path) as image:
        _show(image.convert("RGB"), f"plots/{path.name}", "", format="jpeg", quality=90, subsampling=0)


def _show(picture: Any, name: str, about: str, **how: Any) -> None:
    from IPython.display import Image, Markdown, display

    small = io.BytesIO()
    picture.save(small, optimize=True, **how)
    display(Markdown(f"`{name}`" + (f" {inline(about)}" if about else "")), Image(small.getvalue()))


def contents(records: Iterable[Record], studies: Places) -> str:
    """A line for each suite and one for the studies: how many runs, and twelve digits that change with any score."""
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        parts[record.spec.suite].append(record)
    parts["studies"] = studies.derived.all()
    return "\n".join(f"{name:32} {len(parts[name]):5} runs  {digest(parts[name])}" for name in sorted(parts))


def digest(records: Iterable[Record]) -> str:
    """Twelve digits that change with any run or score."""
    held = sorted((each.run_id, sorted((name, task.value) for name, task in each.tasks.items())) for each in records)
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:12]
