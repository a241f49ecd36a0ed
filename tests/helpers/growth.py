"""How merging grows with experts, parameters and a matrix's side: ``./run_all.sh --bench growth``.

Random transformers as float16 files; every point is a merge in a process of its own, after a small one that loads what
is loaded once. CPU seconds are the least of its rounds, memory is the peak of anonymous memory beyond the start (mapped
files are none, what the merge gives is), the least as well. Exponents are slopes of least squares in log-log. The
points go to `docs/figures/growth.csv`, from which figure and table are made; methods that are not run keep theirs.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"
#: One of each class of method, and what it does to a task vector.
METHODS = {
    "task_arithmetic": "linear",
    "ties": "sorts entries",
    "iso_c": "one decomposition",
    "iso_cts": "K + 1 decompositions",
    "tsv_m": "K decompositions",
    "regmean": "statistics",
}
SPECTRAL = ("iso_c", "iso_cts", "tsv_m")
K_OF_EXPERTS, K_OF_PARAMETERS, K_OF_SIDES = (2, 4, 8, 20, 64), 4, 8
#: Blocks and width; the first two are a DeiT-Ti and a ViT-S in size, the others ViT-B, ViT-L and GPT-2 XL.
SMALL, TOWERS = (12, 384), ((12, 192), (12, 384), (12, 768), (24, 1024))
STREAMED = (48, 1600)
SIDES = (256, 512, 1024, 2048)
#: What is run at the largest of these, where the others take minutes.
LARGE = ("task_arithmetic", "ties", "iso_c")
#: Exponents that the maths needs, of K in time and memory. Those of P and of a side follow from :func:`work`.
NEEDED_K = {
    "task_arithmetic": ("1", "0"),
    "ties": ("1", "0"),
    "iso_c": ("0 to 1", "0"),
    "iso_cts": ("1", "0"),
    "tsv_m": ("1", "0"),
    "regmean": ("1", "0"),
}
AXES = {"experts": "K", "parameters": "P", "side": "side"}


@dataclass(frozen=True)
class Point:
    """One merge: ``series`` says what grows."""

    series: str
    method: str
    tasks: int
    blocks: int
    width: int
    cpu: float = 0.0
    wall: float = 0.0
    mib: float = 0.0

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in shapes(self.blocks, self.width).values())

    @property
    def x(self) -> float:
        """What grows along the series."""
        return {"experts": self.tasks, "parameters": self.parameters, "side": self.width}[self.series]


def shapes(blocks: int, width: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a transformer's blocks; of none, one matrix ``[4 width, width]``."""
    if not blocks:
        return {"fc.weight": (4 * width, width)}
    linear = {"attn.qkv": (3, 1), "attn.out": (1, 1), "mlp.fc": (4, 1), "mlp.proj": (1, 4)}
    found: dict[str, tuple[int, ...]] = {}
    for block in range(blocks):
        for name, (rows, columns) in linear.items():
            found[f"blocks.{block}.{name}.weight"] = (rows * width, columns * width)
            found[f"blocks.{block}.{name}.bias"] = (rows * width,)
        found |= {f"blocks.{block}.ln{i}.{kind}": (width,) for i in (1, 2) for kind in ("weight", "bias")}
    return found


def plan(methods: Sequence[str]) -> list[Point]:
    """All points, those of one tower together."""
    every = [m for m in METHODS if m in methods]
    points = [Point("experts", m, k, *SMALL) for k in K_OF_EXPERTS for m in every]
    points += [
        Point("parameters", m, K_OF_PARAMETERS, *tower)
        for tower in TOWERS
        for m in every
        if tower != TOWERS[-1] or m in LARGE
    ]
    points += [Point("side", m, K_OF_SIDES, 0, side) for side in SIDES for m in every if m in SPECTRAL]
    if "task_arithmetic" in every:
        points.append(Point("parameters", "task_arithmetic", K_OF_PARAMETERS, *STREAMED))
    return points


def work(method: str, point: Point) -> float:
    """Operations of the leading term, up to a factor that the tower does not change."""
    cubes = max(1, point.blocks) * point.width**3
    return cubes if method in (*SPECTRAL, "regmean") else point.parameters


def write(folder: Path, point: Point) -> None:
    """Base and experts of a point's tower, those that are missing. All tasks of 1.5 G have one expert."""
    import torch
    from safetensors.torch import save_file

    for k in range(1 + (1 if (point.blocks, point.width) == STREAMED else point.tasks)):
        path = folder / f"{k}.safetensors"
        if path.exists():
            continue
        generator = torch.Generator().manual_seed(k)
        state = {}
        for name, shape in shapes(point.blocks, point.width).items():
            moved = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(len(state)))
            state[name] = (moved + 0.002 * torch.randn(shape, generator=generator) * bool(k)).half()
        save_file(state, path)


def merge(point: Point, folder: Path) -> tuple[float, float, float]:
    """CPU and wall seconds and MiB of one merge, in this process."""
    import torch

    import methods
    from helpers.measure import Measure
    from methods import regmean
    from methods.api import Experts
    from methods.core.states import StateFile

    streamed = (point.blocks, point.width) == STREAMED
    paths = [folder / f"{1 if streamed else k + 1}.safetensors" for k in range(point.tasks)]
    experts = Experts.from_state_dicts(folder / "0.safetensors", {f"t{k}": path for k, path in enumerate(paths)})

    def once(experts: Experts, grams: Mapping[str, Any] | None) -> None:
        merged = methods.get(point.method)(experts) if grams is None else regmean.from_grams(experts, grams)
        state = merged.state_dict()
        for name in experts.names:
            state[name]

    def statistics(sizes: Mapping[str, tuple[int, ...]], tasks: Sequence[str]) -> dict[str, dict[str, Any]] | None:
        if point.method != "regmean":
            return None
        each = {}
        for name, shape in sizes.items():
            if len(shape) == 2:
                inputs = torch.randn(64, shape[1], generator=torch.Generator().manual_seed(0))
                each[name] = inputs.T @ inputs + torch.eye(shape[1])
        return dict.fromkeys(tasks, each)

    tiny = {n: torch.randn(s) for n, s in shapes(1, 192).items()}
    few = Experts.from_state_dicts(tiny, {f"t{k}": {n: t + 0.1 * torch.randn(t.shape) for n, t in tiny.items()}
                                          for k in range(2)})  # fmt: skip
    once(few, statistics({n: tuple(t.shape) for n, t in tiny.items()}, few.tasks))
    grams = statistics(shapes(point.blocks, point.width), experts.tasks)
    began = time.process_time()
    with Measure(interval=0.002) as used:
        if streamed:
            # A block at a time, as `merge` does with methods whose merge is made tensor by tensor.
            base, other = StateFile(folder / "0.safetensors"), StateFile(paths[0])
            for block in range(point.blocks):
                names = [n for n in base if n.startswith(f"blocks.{block}.")]
                expert = {n: other[n] for n in names}
                once(Experts.from_state_dicts({n: base[n] for n in names}, dict.fromkeys(experts.tasks, expert)), None)
        else:
            once(experts, grams)
    assert used.peak_anonymous_mb is not None, "needs /proc/self/status"
    return time.process_time() - began, used.seconds, used.peak_anonymous_mb


def measured(points: Sequence[Point], rounds: int, limit: float) -> Iterator[Point]:
    """The points with what they took, each from processes of its own; one that fails or takes too long is told."""
    environment = {**os.environ, "SYMERGE_CACHE": "", "CUDA_VISIBLE_DEVICES": "",
                   "OMP_NUM_THREADS": os.environ.get("SYMERGE_BENCH_THREADS", "1"),
                   "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}  # fmt: skip
    for tower in dict.fromkeys((p.blocks, p.width) for p in points):
        of_tower = [p for p in points if (p.blocks, p.width) == tower]
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), max(of_tower, key=lambda p: p.tasks))
            for point in of_tower:
                runs: list[list[float]] = []
                words = [sys.executable, "-P", "-m", "helpers.growth", "--point", json.dumps(asdict(point)), folder]
                for _ in range(rounds):
                    try:
                        told = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=limit)
                    except subprocess.TimeoutExpired:
                        print(f"{point}: not done within {limit:.0f} s", file=sys.stderr)
                        break
                    if told.returncode:
                        print(f"{point}: {told.stderr.splitlines()[-1:]}", file=sys.stderr)
                        break
                    runs.append(json.loads(told.stdout))
                    if runs[-1][0] > 10:
                        break
                if runs:
                    cpu, wall, mib = (min(column) for column in zip(*runs, strict=True))
                    yield Point(point.series, point.method, point.tasks, *tower, cpu, wall, mib)


def read(path: Path) -> list[Point]:
    """The points of a CSV."""
    if not path.is_file():
        return []
    kinds = {f.name: {"str": str, "int": int, "float": float}[str(f.type)] for f in fields(Point)}
    with path.open(encoding="utf-8", newline="") as stream:
        return [Point(**{n: kinds[n](v) for n, v in row.items() if n in kinds}) for row in csv.DictReader(stream)]


def save(path: Path, points: Sequence[Point]) -> None:
    """The points as CSV, in the order of the plan, with their parameters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        columns = [f.name for f in fields(Point)]
        writer = csv.DictWriter(stream, [*columns, "parameters"], lineterminator="\n")
        writer.writeheader()
        for p in points:
            writer.writerow({**asdict(p), "cpu": f"{p.cpu:.3g}", "wall": f"{p.wall:.3g}", "mib": f"{p.mib:.3g}",
                             "parameters": p.parameters})  # fmt: skip


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent that fits best: least squares of log y on log x.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    a, b = [math.log(x) for x in xs], [math.log(max(y, 1e-3)) for y in ys]
    mean, other = sum(a) / len(a), sum(b) / len(b)
    return sum((x - mean) * (y - other) for x, y in zip(a, b, strict=True)) / sum((x - mean) ** 2 for x in a)


def line(points: Sequence[Point], series: str, method: str) -> list[Point]:
    """The points of one line of the figure, rising."""
    return sorted((p for p in points if (p.series, p.method) == (series, method)), key=lambda p: p.x)


def table(points: Sequence[Point]) -> str:
    """Markdown: the exponents of each method, fitted and needed."""
    lines = [
        "| method | class | time with K | memory with K | time with P | memory with P | time with the side |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, kind in METHODS.items():
        cells = []
        for series in AXES:
            drawn = line(points, series, method)
            whole = [p for p in drawn if (p.blocks, p.width) != STREAMED]
            if len(whole) < 2:
                cells += ["", ""]
                continue
            xs = [p.x for p in whole]
            time_, memory = slope(xs, [p.cpu for p in whole]), slope(xs, [p.mib for p in whole])
            needs = f"{slope(xs, [work(method, p) for p in whole]):.2f}"
            by, held = NEEDED_K[method] if series == "experts" else (needs, "1")
            cells += [f"{time_:.2f}, {by}", f"{memory:.2f}, {held}"]
        lines.append(f"| `{method}` | {kind} | {' | '.join(cells[:5])} |")
    return "\n".join(lines)


def draw(points: Sequence[Point], path: Path) -> None:
    """The figure: CPU time above, memory below, against K, P and a matrix's side."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from benchmark.report.plots import COLOURS, MARKERS

    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.0), layout="constrained")
    titles = (f"P = {Point('experts', '', 1, *SMALL).parameters / 1e6:.0f} M", f"K = {K_OF_PARAMETERS}",
              f"one matrix, 4 sides x side, K = {K_OF_SIDES}")  # fmt: skip
    labels = ("experts K", "parameters P", "side")
    for column, series in enumerate(AXES):
        for row, (quantity, unit) in enumerate((("cpu", "CPU s"), ("mib", "memory, MiB"))):
            panel = axes[row][column]
            ends: list[tuple[float, float, float, float, str]] = []
            for number, method in enumerate(METHODS):
                drawn = line(points, series, method)
                whole = [p for p in drawn if (p.blocks, p.width) != STREAMED]
                if len(whole) < 2:
                    continue
                ys = [max(getattr(p, quantity), 1e-3) for p in whole]
                panel.plot([p.x for p in whole], ys, color=COLOURS[number], marker=MARKERS[number], markersize=4,
                           linewidth=1.2, label=f"{method}")  # fmt: skip
                ends.append((math.log(ys[-1]), whole[-1].x, ys[-1], slope([p.x for p in whole], ys), COLOURS[number]))
                for p in drawn[len(whole):]:  # fmt: skip
                    panel.plot(p.x, getattr(p, quantity), color=COLOURS[number], marker=MARKERS[number], markersize=5,
                               markerfacecolor="white", linestyle="")  # fmt: skip
            panel.set(xscale="log", yscale="log", xlabel=labels[column], ylabel=unit if column == 0 else None)
            panel.margins(x=0.18)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            height = math.log(panel.get_ylim()[1] / panel.get_ylim()[0])
            below = -math.inf
            for place, x, y, power, colour in sorted(ends):
                below = max(place, below + 0.045 * height)  # so that numbers do not lie on one another
                panel.annotate(f"{power:.2f}", (x, y), xytext=(panel.get_xlim()[1], math.exp(below)),
                               textcoords="data", fontsize=7, color=colour, va="center",
                               ha="right", annotation_clip=False)  # fmt: skip
            panel.grid(alpha=0.25, linewidth=0.5)
            if series != "parameters":
                ticks = K_OF_EXPERTS if series == "experts" else SIDES
                panel.set_xticks(ticks, [str(t) for t in ticks], minor=False)
                panel.minorticks_off()
            if row == 0:
                panel.set_title(titles[column], fontsize=9)
    handles, names = axes[0][0].get_legend_handles_labels()
    extra, others = axes[0][2].get_legend_handles_labels()
    entries = {**dict(zip(names, handles, strict=True)), **dict(zip(others, extra, strict=True))}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=len(entries), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="./run_all.sh --bench growth", description=__doc__.partition("\n")[0])
    add: Any = parser.add_argument
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME", help="default: all")
    add("--series", nargs="+", choices=list(AXES), default=list(AXES), metavar="WHAT", help="what grows; default: all")
    add("--rounds", type=int, default=2, metavar="N", help="of points below 10 s (default: %(default)s)")
    add("--limit", type=float, default=1800.0, metavar="SECONDS", help="of one merge (default: %(default)s)")
    add("--out", type=Path, default=FIGURES, help="folder of growth.csv and growth.png (default: docs/figures)")
    add("--missing", action="store_true", help="only points that are not there yet, so that a long run goes on")
    add("--draw", action="store_true", help="figure and table of the points that are there")
    add("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point:
        print(json.dumps(merge(Point(**json.loads(options.point[0])), Path(options.point[1]))))
        return 0
    path = options.out / "growth.csv"
    points = {(p.series, p.method, p.x): p for p in read(path)}
    wanted = [] if options.draw else [p for p in plan(options.methods) if p.series in options.series]
    if options.missing:
        wanted = [p for p in wanted if (p.series, p.method, p.x) not in points]
    for point in measured(wanted, options.rounds, options.limit):
        print(
            f"{point.method:16} {AXES[point.series]} {point.x:>10}: {point.cpu:.2f} s, {point.mib:.0f} MiB", flush=True
        )
        points[point.series, point.method, point.x] = point
        order = {(p.series, p.method, p.x): place for place, p in enumerate(plan(list(METHODS)))}
        save(path, sorted(points.values(), key=lambda p: order.get((p.series, p.method, p.x), len(order))))
    draw(list(points.values()), options.out / "growth.png")
    print(table(list(points.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
