"""This project beside FusionBench and mergekit, whole processes in turns: ``./run_all.sh --bench peers``.

Each merge of the same files is a process (`tests/benchmarks/peer_merge.py`) in the interpreter of whoever does it;
start, reading and writing are included. A row is the fastest of its rounds; the peak of anonymous memory, which mapped
files are no part of, is the least. A peer that cannot run a method shows its own error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.harness.measure import anonymous_bytes

ROOT = Path(__file__).parents[2]
CHILD = ROOT / "tests" / "benchmarks" / "peer_merge.py"
OURS = "symerge-bench"
#: Which peers have a method, and what is to be known of its result.
METHODS: dict[str, dict[str, str]] = {
    "task_arithmetic": {"fusionbench": "", "mergekit": ""},
    "ties": {"fusionbench": "", "mergekit": "a threshold for each tensor there"},
    "dare": {"fusionbench": "drawn at random", "mergekit": "drawn at random"},
    "breadcrumbs": {"mergekit": "a threshold for each tensor there"},
    "tsv_m": {"fusionbench": ""},
    "iso_c": {"fusionbench": ""},
    "iso_cts": {"fusionbench": ""},
    "wudi": {"fusionbench": ""},
    "doge": {"fusionbench": "400 steps there, whatever is asked"},
    "regmean": {"fusionbench": "the solve alone, from Gram matrices in files"},
    "emr": {"fusionbench": "the shared model alone"},
    "model_stock": {"fusionbench": "", "mergekit": ""},
    "slerp": {"fusionbench": "", "mergekit": ""},
    "karcher": {"mergekit": ""},
    "adamerging": {"fusionbench": "two steps of 16 images of each task; ViT-B-32 alone"},
}
PAIRS = ("slerp",)
WITH_GRAMS = ("regmean",)


@dataclass
class Run:
    """What one process took, or the last line of what it said of its failure."""

    wall: float = 0.0
    cpu: float = 0.0
    anonymous: float = 0.0
    error: str = ""


@dataclass
class Row:
    """A method of this project beside one peer's."""

    method: str
    peer: str
    note: str = ""
    ours: list[Run] = field(default_factory=list)
    theirs: list[Run] = field(default_factory=list)
    apart: float | None = None
    """The largest difference of two entries of the results."""


def least(runs: Sequence[Run]) -> Run | None:
    """The least of each quantity over the runs that ended well."""
    well = [run for run in runs if not run.error]
    if not well:
        return None
    return Run(min(r.wall for r in well), min(r.cpu for r in well), min(r.anonymous for r in well))


def table(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """Markdown: seconds, GiB and the ratio of each, ours over theirs, so that below 1 is ahead."""
    lines = [
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "| method | beside | wall s | ratio | CPU s | ratio | anonymous GiB | ratio | largest difference | |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        ours, theirs = least(row.ours), least(row.theirs)
        if ours is None or theirs is None:
            who, runs = (OURS, row.ours) if ours is None else (row.peer, row.theirs)
            told = next((run.error for run in runs if run.error), "was not run")
            alone = "" if ours is None else f"{ours.wall:.1f}"
            lines.append(f"| `{row.method}` | {row.peer} | {alone} | | | | | | | {who}: {cell(told)} |")
            continue
        pairs = ((ours.wall, theirs.wall, 1), (ours.cpu, theirs.cpu, 1), (ours.anonymous, theirs.anonymous, 2))
        cells = [f"{a:.{digits}f} / {b:.{digits}f} | {ratio(a, b)}" for a, b, digits in pairs]
        apart = "" if row.apart is None else f"{row.apart:.1g}"
        lines.append(f"| `{row.method}` | {row.peer} | {' | '.join(cells)} | {apart} | {row.note} |")
    return "\n".join(lines)


def ratio(ours: float, theirs: float) -> str:
    """Ours over theirs, in bold where we are not ahead."""
    if theirs <= 0:
        return ""
    value = ours / theirs
    return f"{value:.2f}" if value < 1 else f"**{value:.2f}**"


def cell(text: str, most: int = 160) -> str:
    """A line that a cell of a table may hold."""
    line = " ".join(text.replace("|", "\\|").split())
    return line if len(line) <= most else line[: most - 1] + "…"


def missing(python: Path) -> str:
    """What to say where the peers' environment is not there."""
    return (
        f"The peers' environment is missing: {python} is no interpreter.\n"
        "./run_all.sh --setup-peers makes it (FusionBench and mergekit, in a folder of their own, from the network);\n"
        "SYMERGE_PEERS names another folder."
    )


def last_words(text: str) -> str:
    """What a process ended with: of a traceback its error, all lines of it; else the last line that says something."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
    return " ".join(lines[errors[-1] if errors else -1 :]) or "ended without a word"


def measured(words: Sequence[str], path: str, limit: float, memory: float = math.inf) -> Run:
    """Run a process to its end; ``path`` is its PYTHONPATH, ``memory`` the GiB of data it may hold."""
    if memory < math.inf:
        words = ["prlimit", f"--data={int(memory * 2**30)}", "--", *words]
    before, began, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
    environment = {**os.environ, "PYTHONPATH": path, "SYMERGE_CACHE": "", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=said) as process:
            stop = threading.Event()

            def watch() -> None:
                nonlocal peak
                while not stop.wait(0.02):
                    peak = max(peak, anonymous_bytes(process.pid) or 0)

            thread = threading.Thread(target=watch)
            thread.start()
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                code = None
            stop.set()
            thread.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        said.seek(0)
        error = f"not done within {limit:.0f} s" if code is None else last_words(said.read()) if code else ""
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(time.perf_counter() - began, cpu, peak / 2**30, error)


@contextlib.contextmanager
def files(backbone: str, tasks: int, grams: bool) -> Iterator[Path]:
    """Random experts of a vision tower, and Gram matrices of its linear layers, as files; gone afterwards."""
    import torch
    from safetensors.torch import save_file

    from benchmark.domains.vision.backbones import create_encoder

    generator = torch.Generator().manual_seed(0)
    base = {f"encoder.{n}": t.detach().float().clone() for n, t in create_encoder(backbone).state_dict().items()}
    linear = [n.removesuffix(".weight") for n, t in base.items() if n.endswith(".weight") and t.ndim == 2]
    with tempfile.TemporaryDirectory() as place:
        save_file(base, f"{place}/base.safetensors")
        for k in range(tasks):
            moved = {n: t + 1e-3 * torch.randn(t.shape, generator=generator) for n, t in base.items()}
            save_file(moved, f"{place}/t{k}.safetensors")
            if grams:
                squares = {}
                for name in linear:
                    size = base[f"{name}.weight"].shape[1]
                    inputs = torch.randn(2 * size, size, generator=generator)
                    squares[name] = inputs.T @ inputs
                save_file(squares, f"{place}/grams-t{k}.safetensors")
        yield Path(place)


def difference(one: Path, other: Path) -> float:
    """The largest difference of two entries of the same name."""
    from safetensors.torch import load_file

    a, b = load_file(one), load_file(other)
    return max(float((a[n] - b[n]).abs().max()) for n in a.keys() & b.keys())


def compare(
    rows: Sequence[Row], folder: Path, tasks: int, options: argparse.Namespace, pythons: dict[str, str]
) -> None:
    """Fill the rows, both sides in turns; every row is printed when it is done."""

    def run(who: str, row: Row) -> Run:
        out = folder / f"out-{who}.safetensors"
        words = [pythons[who], str(CHILD), who, row.method, str(folder), str(count), str(options.steps), str(out)]
        return measured(words, str(ROOT) if who == OURS else "", options.limit, options.memory)

    for row in rows:
        count = 2 if row.method in PAIRS else tasks
        for _ in range(options.rounds):
            row.ours.append(run(OURS, row))
            if not row.theirs or not row.theirs[-1].error:
                row.theirs.append(run(row.peer, row))
        if least(row.ours) and least(row.theirs) and "random" not in row.note:
            row.apart = difference(folder / f"out-{OURS}.safetensors", folder / f"out-{row.peer}.safetensors")
        print(table([row], {}).splitlines()[-1], flush=True)


def versions(pythons: Mapping[str, str]) -> dict[str, str]:
    """The installed version of each side, and of what they share."""
    code = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({n: m.version(n) for n in ('fusion-bench', 'mergekit', 'torch', 'transformers', 'numpy')}))"
    )
    told = subprocess.run([pythons["mergekit"], "-c", code], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(told)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 unless the peers are missing."""
    parser = argparse.ArgumentParser(prog="./run_all.sh --bench peers", description=__doc__.partition("\n")[0])
    add: Any = parser.add_argument
    add("--backbone", default="ViT-B-32", help="of the random towers; ViT-mini takes minutes (default: %(default)s)")
    add("--tasks", type=int, default=8, metavar="K", help="experts (default: %(default)s)")
    add(
        "--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME", help="rows (default: all)"
    )
    add("--rounds", type=int, default=2, metavar="N", help="turns of both sides (default: %(default)s)")
    add("--steps", type=int, default=300, metavar="N", help="of methods that optimise (default: %(default)s)")
    add("--limit", type=float, default=3600.0, metavar="SECONDS", help="of one process (default: %(default)s)")
    add("--memory", type=float, default=math.inf, metavar="GIB",
        help="of data that one process may hold; beyond it ends with its own error (default: no limit)")  # fmt: skip
    add("--peers", default=os.environ.get("SYMERGE_PEERS", str(ROOT / ".peers")), help="folder of their environment")
    add("--out", type=Path, help="where the table goes as well")
    options = parser.parse_args(arguments)
    theirs = Path(options.peers) / "bin" / "python"
    if not theirs.is_file():
        print(missing(theirs), file=sys.stderr)
        return 2
    pythons = {OURS: sys.executable, "fusionbench": str(theirs), "mergekit": str(theirs)}
    rows = [Row(method, peer, note) for method in options.methods for peer, note in METHODS[method].items()]
    with files(options.backbone, options.tasks, any(m in WITH_GRAMS for m in options.methods)) as folder:
        compare(rows, folder, options.tasks, options, pythons)
    text = f"{options.tasks} x {options.backbone}, random weights; {table(rows, versions(pythons))}"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
