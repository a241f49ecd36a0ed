"""Pictures of what merged models predict: image, truth, and each run's prediction for the three dense tasks.

``symerge-bench board --plots`` writes them for the runs of a results folder whose merged models were kept;
``python -m benchmark.report.panels`` chooses rows and images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from benchmark.common.project import LOCAL

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: E402

from benchmark import suites  # noqa: E402
from benchmark.common.errors import UserError, shown  # noqa: E402
from benchmark.common.paths import resolved
from benchmark.domains.dense.bench import DenseBench  # noqa: E402
from benchmark.records.record import Record, commits_text  # noqa: E402
from benchmark.records.store import Store  # noqa: E402
from benchmark.report import plots
from benchmark.suites import Suite  # noqa: E402
from methods.api import Merged  # noqa: E402

MERGED = "merged.safetensors"
# Okabe and Ito's colours and seven darker ones, enough for 13 classes; pixels without truth are white.
COLOURS = [
    "#E69F00", "#DDDDDD", "#56B4E9", "#D55E00", "#F0E442", "#0072B2", "#009E73", "#CC79A7", "#7F4F00", "#555555",
    "#00405F", "#5F2A00", "#004F39",
]  # fmt: skip


def draw(
    images: np.ndarray, rows: Mapping[str, Mapping[str, np.ndarray]], classes: int, about: str | None = None
) -> Figure:
    """A block of columns an image, one for each task: above, the image; below, a line for the truth and each run.

    Args:
        images: uint8 ``[n, H, W, 3]``.
        rows: ``{"truth" or a run: {"segmentation": [n, H, W], "depth": [n, H, W], "normals": [n, 3, H, W]}}``; truth
            sets the range of depths.
        about: the title.
    """
    names = list(rows)
    tasks = list(rows[names[0]])
    across, height = len(images) * len(tasks), 1.15 * images.shape[1] / images.shape[2]
    figure, axes = plt.subplots(1 + len(names), across, figsize=(1.2 + 1.15 * across, 0.7 + height * (1 + len(names))),
                                squeeze=False,
                                layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0))  # fmt: skip
    depth = rows[names[0]]["depth"]
    deepest = [float(d[d > 0].max()) if (d > 0).any() else 1.0 for d in depth]
    colours = ListedColormap(COLOURS[:classes])
    for i, image in enumerate(images):
        first = i * len(tasks)
        axes[0, first + len(tasks) // 2].imshow(image)
        for line, name in zip(axes[1:], names, strict=True):
            for column, task in zip(line[first:], tasks, strict=False):
                picture = rows[name][task][i]
                if task == "segmentation":
                    column.imshow(np.ma.masked_less(picture, 0), cmap=colours, vmin=0, vmax=classes - 1)
                elif task == "depth":
                    column.imshow(np.ma.masked_equal(picture, 0), cmap="viridis", vmin=0, vmax=deepest[i])
                else:
                    column.imshow(((picture.transpose(1, 2, 0) + 1) / 2).clip(0, 1))
        for column, task in zip(axes[1, first:], tasks, strict=False):
            column.set_title(task, fontsize=7)
    for line, name in zip(axes, ["image", *names], strict=True):
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=7)
        for column in line:
            column.set_axis_off()
    if about:
        figure.suptitle(about, fontsize=8)
    return figure


def predictions(bench: DenseBench, merged: Merged, index: torch.Tensor) -> dict[str, np.ndarray]:
    """What a merged model says of test images: classes, depth and unit normals."""
    maps = {}
    for task in bench.tasks:
        inputs, _ = bench.source(task, "test", bench.dtype)[index]
        with torch.inference_mode():
            out = merged.model(task).to(bench.device, bench.dtype)(inputs).float().cpu()
        maps[task] = {"segmentation": lambda o: o.argmax(1), "depth": lambda o: o[:, 0]}.get(task, lambda o: o)(
            out
        ).numpy()
    return maps


def truth(bench: DenseBench, index: torch.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and truth of test images, as :func:`draw` takes them."""
    sources = {task: bench.source(task, "test") for task in bench.tasks}
    image = next(iter(sources.values())).read(index.numpy()).image
    labels = {task: source[index][1].numpy() for task, source in sources.items()}
    return image, {task: label[:, 0] if task == "depth" else label for task, label in labels.items()}


def chosen(store: Store, suite: str, wanted: Sequence[str] | None) -> list[Record]:
    """One finished run of each row (the lowest seed) whose merged model was kept, best first."""
    done = [r for r in store.all(suite) if r.status == "done" and (store.folder(r.spec) / MERGED).is_file()]
    first: dict[str, Record] = {}
    for record in sorted(done, key=lambda r: (r.spec.seed or 0, r.variant)):
        first.setdefault(record.variant, record)
    absent = [name for name in wanted or [] if name not in first]
    if absent or not first:
        raise UserError(
            f"no finished run of {', '.join(absent) or suite} with its merged model; there are "
            f"{', '.join(first) or 'none'}",
            f"Run it without --discard-merged: ./run_all.sh --suite {suite}",
        )
    return [first[name] for name in (wanted or first)]


def seeds_text(records: Sequence[Record]) -> str:
    """Seeds and commits of the runs, for a title."""
    seeds = sorted({record.spec.seed for record in records if record.spec.seed is not None})
    said = f"seed {', '.join(map(str, seeds))} of what is stochastic, " if seeds else ""
    return f"{said}commit {commits_text(record.provenance.commit or '' for record in records)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; returns the exit status."""
    p = argparse.ArgumentParser(
        prog="python -m benchmark.report.panels", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    p.add_argument("--suite", default="dense-mini", help="a dense suite, default dense-mini")
    p.add_argument("--methods", nargs="+", metavar="NAME[:key=value,...]", help="rows, in this order; default all")
    p.add_argument("--images", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="numbers of test images")
    p.add_argument("--results", type=resolved, metavar="DIR", help="default results/local")
    p.add_argument("--data-root", type=resolved, metavar="DIR", help="of a full suite")
    p.add_argument("--checkpoints", type=resolved, metavar="DIR", help="of a full suite")
    p.add_argument("--out", type=resolved, metavar="FILE", help="default DIR/plots/<suite>--panels.png")
    words = p.parse_args(argv)
    suite, results = suites.load(words.suite), words.results or LOCAL
    out = words.out or results / "plots" / f"{suite.name}--panels.png"
    roots = {"data_root": words.data_root, "checkpoints": words.checkpoints}
    write(suite, results, out, names=words.methods, images=words.images, **roots)
    return 0


def write(
    suite: Suite,
    results: Path,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    images: Sequence[int] = (0, 1, 2),
    data_root: Path | None = None,
    checkpoints: Path | None = None,
) -> None:
    """The picture of some test images under the runs of a results folder whose merged models were kept.

    Args:
        names: rows, in this order; None: all.
        images: numbers of test images.

    Raises:
        UserError: a suite that predicts no maps, no such run, no such image.
    """
    if suite.domain != "dense":
        raise UserError(f"{suite.name} predicts no maps", "Panels exist for dense-mini and nyuv2.")
    store = Store(results, read_only=True)
    records = chosen(store, suite.name, names)
    bench: Any = suites.open_bench(suite, data_root=data_root, checkpoints=checkpoints)
    index = torch.tensor(list(images))
    size = len(bench.source(suite.tasks[0], "test"))
    if int(index.max()) >= size or int(index.min()) < 0:
        raise UserError(f"--images {' '.join(map(str, images))}: there are 0 .. {size - 1}", "Type e.g. --images 0 5")
    pictures, labels = truth(bench, index)
    rows = {"truth": labels}
    experts = bench.experts()
    for record in records:
        print(record.variant, file=sys.stderr)
        rows[record.variant] = predictions(bench, Merged.load(store.folder(record.spec) / MERGED, experts), index)
    about = f"{suite.name}: predictions on test images {', '.join(map(str, images))} of {size}\n{seeds_text(records)}"
    figure = draw(pictures, rows, bench.channels["segmentation"], about)
    print(f"wrote {shown(plots.save(figure, out))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
