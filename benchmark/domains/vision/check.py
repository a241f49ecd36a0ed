"""`symerge-bench assets data check`: whether local copies of the data sets are what the suites expect."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import suites
from benchmark.common import damage
from benchmark.common.damage import Damage
from benchmark.common.errors import UserError, unknown
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision import public as full
from benchmark.domains.vision.images import picture


@dataclass
class Finding:
    """What stands in one data set's folder. ``level`` is the worst of ``ok``, ``warning`` and ``error``."""

    task: str
    level: str = "ok"
    place: str = "-"
    count: str = "-"
    classes: str = "-"
    sha256: str = "-"
    sample: str = "-"
    notes: list[str] = field(default_factory=list)

    def add(self, level: str, message: str) -> str:
        """Note a message that is no plain success; returns its level."""
        if level != "ok":
            self.notes.append(f"{level}: {message}")
            self.level = "error" if "error" in (level, self.level) else level
        return level


def check_set(task: str, root: str | os.PathLike | None, family: str | None = None) -> Finding:
    """Check one data set: count, class order and hash of the test split, and every image and label of both splits.

    All damaged samples are noted, by set, split, and file or row.
    """
    about, finding = full.info(task, family), Finding(task)
    with _noting(finding):
        copy = full.copy_of(about, root)
        own = about.splits["test"]
        image, label, names = copy.columns(own, about.label)
        finding.place = f"{copy.layout(own)}, {origin(copy.folder)}"
        with contextlib.suppress(StopIteration, Damage):
            finding.sample = sample_sha256(next(copy.samples(own, image, label)).encoded())[:16]
        with _noting(finding):
            rows, sha256 = copy.facts(own)
            finding.count, finding.sha256 = f"{rows:,}", sha256[:16]
            finding.add(*full.compare_count(about, rows))
        level, message = full.compare_classes(about, names)
        finding.classes = {"ok": message, "warning": "not comparable", "error": "wrong"}[finding.add(level, message)]
        if about.splits["train"] not in copy.splits:
            finding.add("warning", f"no split {about.splits['train']!r}: methods that read train or val cannot run")
        if finding.level == "error":
            finding.notes += [f"known trap: {trap}" for trap in about.traps]
        for split in [split for split in about.splits.values() if split in copy.splits]:
            with _noting(finding):
                if lines := full.damaged(about, copy, split):
                    finding.add("error", damage.message(f"{task}, split {split!r}", lines))
    return finding


@contextlib.contextmanager
def _noting(finding: Finding) -> Iterator[None]:
    """Note a UserError instead of raising it."""
    try:
        yield
    except UserError as error:
        finding.add("error", str(error))


def check_embedded(task: str) -> Finding:
    """Check one task of the mini suites: every split is read and compared with the manifest's hashes."""
    finding = Finding(task, place="embedded, parquet")
    try:
        about = vision.info(task)
        for split in about.counts:
            vision.load_split(task, split)
        finding.count, finding.classes = (
            f"{about.counts['test']:,}",
            f"{len(about.classes)} classes in the head's order",
        )
        finding.sha256 = about.arrays_sha256["test"][:16]
    except vision.DataError as error:
        finding.add("error", str(error))
    return finding


def sample_sha256(image: bytes) -> str:
    """sha256 of an image's RGB pixels: the same for every lossless container of the same picture. Raises Damage."""
    return hashlib.sha256(picture(image).convert("RGB").tobytes()).hexdigest()


def origin(folder: Path) -> str:
    """What a folder was fetched or converted from, as `fetch` or `convert` noted it."""
    noted = full.noted_origin(folder)
    if "published" in noted:
        return f"converted from {noted['published']}"
    return f"{noted['hub']} at {str(noted.get('revision'))[:12]}" if "hub" in noted else "origin unknown"


def tasks_of(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """``(task, embedded)`` of each suite or task named, each once. Raises UserError for an unknown name."""
    seen = set()
    for name in names:
        if name in suites.names():
            suite = suites.load(name)
            if suite.domain != "vision":
                raise UserError(f"{name} is no vision suite", "Its data are checked when it is run.")
            pairs = [(task, suite.embedded) for task in suite.tasks]
        elif name in full.names():
            pairs = [(name, False)]
        else:
            raise unknown("suite or data set", name, [*suites.names(), *full.names()])
        for pair in pairs:
            if pair not in seen:
                seen.add(pair)
                yield pair


def show(findings: Sequence[Finding]) -> str:
    """The findings as a table, each with what is wrong below it."""
    columns = ("task", "level", "place", "count", "classes", "sha256", "sample")
    rows = [columns, *(tuple(str(getattr(f, c)) for c in columns) for f in findings)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
    shown = lines[:1]
    for line, finding in zip(lines[1:], findings, strict=True):
        shown += [line, *("    " + note.replace("\n", "\n    ") for note in finding.notes)]
    return "\n".join(shown)


def show_all(names: Sequence[str], root: Path | None, family: str | None) -> int:
    """Check suites and data sets and print what stands there; 0 where every one is as expected, 1 where one is not."""
    findings = [
        check_embedded(task) if embedded else check_set(task, root, family) for task, embedded in tasks_of(names)
    ]
    print(show(findings))
    return 1 if any(f.level == "error" for f in findings) else 0
