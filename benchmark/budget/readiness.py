"""Before a full suite runs: what of its data and checkpoints is there, what is missing or wrong, and what mends it.

What stands of a part is what the run itself would say of it: each is checked by the functions that open the bench and
read the splits (`domains/*/parts.py`), on the splits that the plan's methods read.
"""

from __future__ import annotations

import importlib
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark import importers
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import GIB, Machine, Setting, amount
from benchmark.common.errors import UserError, shown
from benchmark.harness.job import Job, Options
from benchmark.suites.parts import Finding, Part, look

#: A GPU where none is here to be measured: float operations and bytes a second, sustained; as `schedule` assumes.
ASSUMED = 20e12, 1e12
WIDTH = 100
HEADER = ("", "task", "is", "disk GiB", "to fetch GiB", "mend")
ABOUT = "~"


@dataclass(frozen=True)
class Readiness:
    """What stands of every part of one suite, and its plan."""

    bench: dry_run.Planned
    jobs: Sequence[Job]
    findings: Sequence[Finding]
    options: Options = Options()

    @property
    def lacking(self) -> list[Finding]:
        """The parts that are missing or wrong."""
        return [finding for finding in self.findings if finding.state != "there"]

    def error(self) -> UserError:
        """What a run that cannot start says."""
        states = [finding.state for finding in self.findings]
        said = " and ".join(f"{states.count(s)} {s}" for s in ("missing", "wrong") if s in states)
        return UserError(
            f"{self.bench.suite.name} cannot start: of {len(states)} data sets and checkpoints {said}",
            "The table says what mends each.",
        )


def inspect(
    bench: dry_run.Planned,
    jobs: Sequence[Job],
    *,
    data_root: Path | None,
    checkpoints: Path | None,
    options: Options = dry_run.USUAL,
) -> Readiness:
    """Check every part that the jobs of a full suite read. Nothing is fetched or changed."""
    splits = sorted({"test", *(split for job in jobs for split, _ in job.access.items())})
    suite = bench.suite
    domain = importlib.import_module(f"benchmark.domains.{suite.domain}.parts")
    parts: list[Part] = domain.parts(
        suite, bench.backbone, bench.family, splits, data_root=data_root, checkpoints=checkpoints
    )
    parts = [part if part.mend else replace(part, mend=_import(part, bench, checkpoints)) for part in parts]
    return Readiness(bench, jobs, [look(part) for part in parts], options)


def _import(part: Part, bench: dry_run.Planned, checkpoints: Path | None) -> str:
    """What makes base, experts or heads of a public vision family."""
    family, more = importers.get(bench.family), ["--backbone", bench.backbone, "--suite", bench.suite.name]
    if checkpoints is not None:
        more += ["--out", shown(checkpoints)]
    verb = ["./run_all.sh", "assets", "checkpoints"]
    if part.kind == "head" and family.head is None:
        return shlex.join([*verb, "heads", family.name, *more, "--text", "CLIP"])
    source = ["--download", "--revision", "main"] if family.hub else ["PATH"]
    activation = ["--activation", "quick_gelu"] if family.quick_gelu is None else []
    return shlex.join([*verb, "import", family.name, *source, *more, *activation])


def show(ready: Readiness, machine: Machine) -> str:
    """The table of all parts, what mends them, and what the plan takes by estimate; no line wider than `WIDTH`.

    Args:
        machine: this one; its speed where it has a GPU.
    """
    mends = list(dict.fromkeys(finding.part.mend for finding in ready.lacking))
    rows = [HEADER, *(_row(finding, mends) for finding in ready.findings)]
    disk = [
        part.disk if (stored := each.stored) is None else stored for each in ready.findings for part in (each.part,)
    ]
    rows.append(("total", "", "", _sum(disk), _sum(each.part.download for each in ready.lacking), ""))
    wide = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    aligned = ["<", "<", "<", ">", ">", "<"]
    suite = ready.bench.suite
    lines = [f"{suite.name} on {ready.bench.backbone}, family {ready.bench.family}"]
    for row, finding in zip(rows, [None, *ready.findings, None], strict=True):
        cells = [f"{cell:{to}{width}}" for cell, to, width in zip(row, aligned, wide, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
        if finding is not None and finding.state == "wrong":
            lines += _wrapped(finding.why, "      ")
    if mends:
        lines += ["", "  to mend:"]
        lines += [line for number, mend in enumerate(mends, 1) for line in _command(mend, f"  ({number}) ")]
        lines += _sources(ready)
    lines += ["", *estimates(ready, machine)]
    return "\n".join(lines)


def _row(finding: Finding, mends: Sequence[str]) -> tuple[str, ...]:
    part = finding.part
    stored = finding.stored
    disk = _size(stored) if stored is not None else _guess(part.disk)
    fetch = "-" if finding.state == "there" else _guess(part.download)
    mend = "" if finding.state == "there" else f"({mends.index(part.mend) + 1})"
    return part.kind, part.name, finding.state, disk, fetch, mend


def _size(size: float) -> str:
    return f"{size / GIB:.2f}" if size >= 0.005 * GIB or not size else "<0.01"


def _guess(size: int | None) -> str:
    return "?" if size is None else "-" if not size else f"{ABOUT}{_size(size)}"


def _sum(sizes: Any) -> str:
    known = list(sizes)
    unknown = sum(size is None for size in known)
    least = "more than " if unknown else ""
    return f"{least}{_guess(sum(size or 0 for size in known))}" if known else "-"


def _sources(ready: Readiness) -> list[str]:
    """Where files of a public family are from, and what the sizes are."""
    lines = []
    kinds = {finding.part.kind for finding in ready.lacking} - {"data"}
    if kinds and (where := _where(ready.bench)):
        lines += _wrapped(f"{ready.bench.family}: {where}", "  ")
    lines += _wrapped(
        f"{ABOUT}: by shapes, or as remembered of a public list; checkpoints are fetched in other forms, which are "
        "seldom smaller. ?: no source says. PATH, DIR, FROM, CLIP: files of yours",
        "  ",
    )
    return lines


def _where(bench: dry_run.Planned) -> str:
    """Where the files of the family are from; empty where they are made here."""
    if bench.suite.domain == "vision":
        return importers.get(bench.family).where
    if bench.suite.domain == "text":
        from benchmark.importers.text import FAMILIES

        return FAMILIES[bench.family]
    return ""


def estimates(ready: Readiness, machine: Machine) -> list[str]:
    """GPU hours and memory of the plan, one run after another."""
    around = dry_run.setting(ready.bench, "cuda", ready.options)
    speed = (machine.flops, machine.bandwidth)
    here = all(speed) and machine.device > 0
    flops, bandwidth = speed if here else ASSUMED
    gpu = replace(machine, flops=flops, bandwidth=bandwidth)
    needs = [(job, _need(job, around, gpu)) for job in ready.jobs]
    together = dry_run.total([need for _, need in needs])
    largest, most = max(needs, key=lambda pair: pair[1].device)
    where = "this GPU" if here else f"a GPU of {ASSUMED[0] / 1e12:g} TFLOP/s and {ASSUMED[1] / 1e12:g} TB/s (assumed)"
    hours, host = (together.seconds or 0.0) / 3600, amount(together.together)
    said = [
        f"{len(ready.jobs)} runs on {where}: about {hours:.{1 if hours >= 1 else 2}f} GPU hours",
        f"memory: {amount(most.device)} GiB of the GPU ({largest.variant}), {host} GiB of the host",
        f"disk beside the above: {amount(together.disk)} GiB of results, {amount(together.cache)} GiB of decoded "
        "samples",
    ]
    if together.unknown:
        said.append(f"not counted, since no source says how many: {', '.join(together.unknown)}")
    said.append("estimates from shapes, times within a factor of a few; --dry-run shows each run")
    return [line for text in said for line in _wrapped(text, "  ")]


def _need(job: Job, around: Setting, machine: Machine) -> estimate.Need:
    return estimate.need(job.spec.method, job.spec.parameters, around.at(job.precision), machine)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _command(text: str, mark: str) -> list[str]:
    """A command, broken between its words with a backslash where it is too long for the width."""
    lines, indent = [mark], " " * len(mark)
    for number, word in enumerate(text.split(" ")):
        if number and len(lines[-1]) + 1 + len(word) + 2 > WIDTH:
            lines[-1] += " \\"
            lines.append(indent + "  " + word)
        else:
            lines[-1] += word if not number else f" {word}"
    return lines
