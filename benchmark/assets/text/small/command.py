"""``symerge-bench assets experts llm-small [--family F] [--retrain]``: the experts' scores, or experts from the base.

The committed family is made again beside the committed files; the other, which is not committed, where the suite looks
for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark import suites
from benchmark.assets.text.small import SUITE
from benchmark.common.errors import shown, unknown
from benchmark.common.paths import resolved
from benchmark.common.project import RETRAINED


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports no torch."""
    p = argparse.ArgumentParser(
        prog="symerge-bench assets experts",
        description="Shows what the committed experts of llm-small score on validation questions; with --retrain, "
        "trains them again: three to six minutes an expert on one core. It goes on where it was stopped. A further "
        "family is made on the user's machine: whole fine-tunings.",
    )
    p.add_argument("suite", choices=[SUITE])
    p.add_argument(
        "--family",
        choices=suites.load(SUITE).families,
        default=suites.load(SUITE).families[0],
        help="small: LoRA of rank 8, committed (default); full: whole fine-tunings, 40 MB each",
    )
    p.add_argument("--retrain", action="store_true", help="train the experts from the base")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the suite")
    p.add_argument("--threads", type=int, default=1, help="CPU threads; 1 as for the committed ones")
    p.add_argument(
        "--out",
        type=resolved,
        metavar="DIR",
        help="where to write; default .cache/retrained/SmolLM2-135M, of the other family where the suite reads it",
    )
    return p


def main(rest: Sequence[str]) -> int:
    """Run the command; returns the exit status. Tables go to stdout, progress to stderr. Raises :class:`UserError`."""
    args = parser().parse_args(rest)
    known = suites.load(SUITE).tasks
    for task in args.tasks or []:
        if task not in known:
            raise unknown(f"task of {SUITE}", task, known)
    from benchmark.assets.text.small import make
    from benchmark.domains.text.chat_family import COMMITTED, folder_of, mend_of
    from benchmark.domains.text.family import read_manifest

    tasks = [t for t in known if t in (args.tasks or known)]
    place = folder_of(args.family)
    again = args.family == COMMITTED
    if not args.retrain:
        print(table(read_manifest(place, mend_of(args.family, place)), tasks))
        return 0
    out = args.out or (RETRAINED / place.name if again else place)
    committed = read_manifest(place, mend_of(args.family, place)) if again else None
    settings = make.Settings.of(committed["settings"]) if committed else None
    made = make.make_family(tasks, out, settings=settings, threads=args.threads, name=args.family)
    print(table(made, tasks, committed))
    print(f"written to {shown(out)}", file=sys.stderr)
    return 0


def table(manifest: Mapping[str, Any], tasks: Sequence[str], committed: Mapping[str, Any] | None = None) -> str:
    """Accuracy on validation questions in per cent, as text; beside ``committed`` ones, whether each file is the same.

    Other library versions, processors and numbers of threads round differently, and training carries that on.
    """
    scores = manifest["validation"]
    rows = {t: (scores["pretrained"][t], scores["individual"][t]) for t in tasks}
    rows["mean"] = tuple(sum(column) / len(tasks) for column in zip(*rows.values(), strict=True))
    lines = [f"{'task':20}{'base':>8}{'expert':>9}   (validation questions)"]
    for task, (base, expert) in rows.items():
        same = ""
        if committed and task in tasks:
            name = next(file for file in manifest["files"] if file.startswith(f"{task}/"))
            alike = manifest["files"][name]["sha256"] == committed["files"].get(name, {}).get("sha256")
            same = "  the committed file" if alike else "  another file than the committed one"
        lines.append(f"{task:20}{base:8.2f}{expert:9.2f}{same}")
    return "\n".join(lines)
