"""``symerge-bench assets experts SUITE [--retrain [--base]]``: the mini family's scores, or the family made again.

The folder given by ``--out`` becomes a whole family. The same command continues where it was killed. Of a suite whose
experts come from two bases it is the second base's family, with that base's seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.common.paths import resolved
from benchmark.common.project import RETRAINED, ROOT


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports no torch."""
    p = argparse.ArgumentParser(
        prog="symerge-bench assets experts",
        description="Shows the scores of the committed base and experts of a mini suite; with --retrain, trains them "
        "again. An expert takes about 80 seconds on one core, the base 6 to 8 minutes on two.",
    )
    p.add_argument(
        "suite",
        help="vision-mini-8, vision-mini-14 or vision-mini-20; or vision-mini-8-disjoint: its "
        "second base and the four experts of it",
    )
    p.add_argument("--retrain", action="store_true", help="fine-tune the suite's experts again from the committed base")
    p.add_argument(
        "--base",
        action="store_true",
        help="with --retrain: the base and its heads too; needs the packages of the data build",
    )
    p.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="with --base: of the base's initial weights and batches (default the committed base's: 0, of "
        "the second base 1); another seed is an independent base",
    )
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the suite")
    p.add_argument(
        "--device", default="cpu", help="cpu, cuda, cuda:N or auto; default cpu, on which the committed files were made"
    )
    p.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads (default 1, as for the committed experts; their base had 2; another number rounds "
        "differently)",
    )
    p.add_argument(
        "--out",
        type=resolved,
        metavar="DIR",
        help=f"where to write (default {_short(RETRAINED)}/ViT-mini, or ViT-mini-disjoint)",
    )
    p.add_argument("--sources", type=resolved, metavar="DIR", help="with --base: unpacked packages of the data build")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Tables go to stdout, progress to stderr."""
    args = parser().parse_args(argv)
    from benchmark.assets.vision.family import Settings, make_family, manifest_of
    from benchmark.suites.bench import resolve_device

    try:
        folder, all_tasks, seed = _family(args.suite)
        tasks = _chosen(all_tasks, args.tasks, args.suite)
        committed = manifest_of(folder)
        if not args.retrain:
            print(table(committed, None, tasks, args.suite))
            return 0
        if args.seed and not args.base:
            raise ValueError(f"--seed {args.seed} is the base's; add --base")
        settings = Settings(base_seed=seed if args.seed is None else args.seed)
        out = args.out or RETRAINED / folder.name
        device = str(resolve_device(args.device))
        manifest = make_family(
            args.suite,
            tasks,
            out,
            settings=settings,
            base=args.base,
            device=device,
            threads=args.threads,
            sources=args.sources,
            committed=folder,
        )
        same_place = out.resolve() == folder.resolve()
        print(table(manifest, None if same_place else committed or None, tasks, args.suite))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not same_place:
        print(f"\nwritten to {_short(out)}; the suite keeps to the committed files")
    return 0


def table(manifest: dict[str, Any], committed: dict[str, Any] | None, tasks: list[str], suite: str) -> str:
    """The scores in per cent as text; beside ``committed`` ones, the differences."""
    scores = manifest.get("scores", {})
    individual = scores.get("test", {}).get("individual", {})
    if absent := [t for t in tasks if t not in individual]:
        raise ValueError(f"no scores for {', '.join(absent)}; type: symerge-bench assets experts {suite} --retrain")
    heading = f"{'task':20}{'base, test':>12}{'expert, test':>14}{'expert, val':>13}"
    lines = [heading + (f"{'committed, test':>17}{'difference':>12}  file" if committed else "")]
    rows = []
    for task in tasks:
        row = [scores["test"]["pretrained"][task], individual[task], scores["validation"]["individual"][task]]
        line = f"{task:20}{row[0]:12.2f}{row[1]:14.2f}{row[2]:13.2f}"
        if committed:
            row.append(committed["scores"]["test"]["individual"].get(task, float("nan")))
            name = f"{task}.safetensors"
            same = manifest["files"][name]["sha256"] == committed["files"].get(name, {}).get("sha256")
            line += f"{row[3]:17.2f}{row[1] - row[3]:+12.2f}  {'bit-identical' if same else 'differs'}"
        lines.append(line)
        rows.append(row)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    last = f"{'mean':20}{mean[0]:12.2f}{mean[1]:14.2f}{mean[2]:13.2f}"
    return "\n".join([*lines, last + (f"{mean[3]:17.2f}{mean[1] - mean[3]:+12.2f}" if committed else "")])


def _family(suite: str) -> tuple[Path, list[str], int]:
    """The folder of a suite's committed experts, or of its second base's; their tasks; the seed of their base."""
    from benchmark import suites
    from benchmark.assets.vision.family import BACKBONE, FOLDER
    from benchmark.checkpoints.families import read_manifest
    from benchmark.domains.vision import embedded as vision
    from benchmark.domains.vision.family import second_base

    if suite in vision.SUITES or suite not in suites.names() or suites.load(suite).scale != "mini":
        return FOLDER, vision.tasks(suite), 0
    definition = suites.load(suite)
    folder = second_base(definition.families[0], BACKBONE.name)
    manifest = read_manifest(folder)
    return folder, [t for t in definition.tasks if t in manifest["classes"]], manifest["made"]["base"]["seed"]


def _chosen(tasks: list[str], wanted: list[str] | None, suite: str) -> list[str]:
    unknown = [t for t in wanted or [] if t not in tasks]
    if unknown:
        raise ValueError(f"{suite} has no task {', '.join(unknown)}; it has: {', '.join(tasks)}")
    return [t for t in tasks if not wanted or t in wanted]


def _short(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
