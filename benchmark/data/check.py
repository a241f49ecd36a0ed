"""`symerge-bench assets data check|fetch`: whether local copies of the data sets are what the suites expect."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import suites
from benchmark.data import full, vision
from benchmark.data.local import encoded
from benchmark.errors import UserError, unknown
from benchmark.paths import resolved
from benchmark.store import write_atomic

ORIGIN = ".origin.json"


@dataclass
class Finding:
    """What stands in one data set's folder. ``level`` is the worst of ``ok``, ``warning`` and ``error``."""

    task: str
    level: str = "ok"
    found: str = "-"
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
    """Check the test split of one data set (count, class order, readable, hash) and that train is there."""
    about, made = full.info(task, family), Finding(task)
    try:
        copy = full.copy_of(about, root)
        own = about.splits["test"]
        image, label, names = copy.columns(own, about.label)
        rows, sha256 = copy.facts(own)
        first = next(iter(copy.rows(own, image, label)), None)
        made.found = f"{copy.layout(own)}, {origin(copy.folder)}"
        made.count, made.sha256 = f"{rows:,}", sha256[:16]
        made.sample = sample_sha256(encoded(first[image]))[:16] if first else "-"
        made.add(*full.compare_count(about, rows))
        level, message = full.compare_classes(about, names)
        made.classes = {"ok": message, "warning": "not comparable", "error": "wrong"}[made.add(level, message)]
        if about.splits["train"] not in copy.splits:
            made.add("warning", f"no split {about.splits['train']!r}: methods that read train or val cannot run")
        if made.level == "error":
            made.notes += [f"known trap: {trap}" for trap in about.traps]
    except UserError as error:
        made.add("error", str(error))
    return made


def check_embedded(task: str) -> Finding:
    """Check one task of the mini suites: every split is read and compared with the manifest's hashes."""
    made = Finding(task, found="embedded, parquet")
    try:
        about = vision.info(task)
        for split in about.counts:
            vision.load_split(task, split)
        made.count, made.classes = f"{about.counts['test']:,}", f"{len(about.classes)} classes in the head's order"
        made.sha256 = about.arrays_sha256["test"][:16]
    except vision.DataError as error:
        made.add("error", str(error))
    return made


def sample_sha256(image: bytes) -> str:
    """sha256 of an image's RGB pixels: the same for every lossless container of the same picture."""
    from PIL import Image

    try:
        return hashlib.sha256(Image.open(io.BytesIO(image)).convert("RGB").tobytes()).hexdigest()
    except OSError as error:
        raise UserError(f"the first test image is damaged: {error}", "Fetch the files again.") from None


def origin(folder: Path) -> str:
    """Which hub revision a folder was fetched from, as `fetch` noted it."""
    try:
        noted = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        return f"{noted['hub']} at {noted['revision'][:12]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "origin unknown"


def tasks_of(names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """``(task, embedded)`` of each suite or task named, each once. Raises UserError for an unknown name."""
    seen = set()
    for name in names:
        if name in suites.names():
            suite = suites.load(name)
            if suite.domain != "vision":
                raise UserError(f"{name} is no vision suite", "Its data are checked when it is run.")
            found = [(task, suite.scale == "mini") for task in suite.tasks]
        elif name in full.names():
            found = [(name, False)]
        else:
            raise unknown("suite or data set", name, [*suites.names(), *full.names()])
        for pair in found:
            if pair not in seen:
                seen.add(pair)
                yield pair


def fetch(task: str, root: Path, revision: str | None, family: str | None = None) -> str:
    """Download a data set's hub copy at one commit into its folder under ``root``; returns that commit.

    ``revision``: a commit, or a branch that is resolved to its present commit; default the manifest's.
    Raises UserError where no revision is pinned or given, no hub copy is known, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    about = full.info(task, family)
    if about.hub is None:
        raise UserError(f"no hub copy of {task} is known", f"Copy one to {root / about.folder}. {about.traps[0]}")
    revision = revision or about.revision
    if revision is None:
        raise UserError(
            f"{task} ({about.hub}) is {about.pinned}",
            f"Type --revision {task}=COMMIT, or {task}=main for its present commit, which is then noted.",
        )
    folder = root / about.folder
    try:
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            revision = str(HfApi().dataset_info(about.hub, revision=revision).sha)
        snapshot_download(about.hub, repo_type="dataset", revision=revision, local_dir=folder)
    except Exception as error:
        raise UserError(f"{about.hub} at {revision} could not be fetched: {error}", "Or copy it there.") from None
    write_atomic(folder / ORIGIN, json.dumps({"hub": about.hub, "revision": revision}) + "\n")
    return revision


def show(findings: Sequence[Finding]) -> str:
    """The findings as a table, each with what is wrong below it."""
    columns = ("task", "level", "found", "count", "classes", "sha256", "sample")
    rows = [columns, *(tuple(str(getattr(f, c)) for c in columns) for f in findings)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
    shown = lines[:1]
    for line, finding in zip(lines[1:], findings, strict=True):
        shown += [line, *("    " + note.replace("\n", "\n    ") for note in finding.notes)]
    return "\n".join(shown)


def parser() -> argparse.ArgumentParser:
    """Arguments of both commands."""
    top = argparse.ArgumentParser(prog="symerge-bench assets data", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="check|fetch|build")
    check = verbs.add_parser("check", help="count, class order and hash of each data set of a suite")
    get = verbs.add_parser("fetch", help="download hub copies, each at one commit")
    verbs.add_parser("build", help="make the embedded data again; see: assets data build --help")
    for one in (check, get):
        one.add_argument("names", nargs="+", metavar="SUITE|TASK", help="suites (vision-8, ...) or single data sets")
        one.add_argument("--root", type=resolved, metavar="DIR", help="the data root; default $SYMERGE_DATA")
        one.add_argument("--family", help="checkpoint family, where it decides the data set (EMNIST)")
    get.add_argument("--revision", nargs="+", default=[], metavar="TASK=COMMIT", help="of data sets not pinned here")
    get.add_argument("--download", action="store_true", help="use the network; without it only the plan is shown")
    return top


def main(argv: Sequence[str]) -> int:
    """0 where every data set is as expected or fetched, 1 where one is not."""
    given = parser().parse_args(argv)
    chosen = list(tasks_of(given.names))
    if given.verb == "check":
        findings = [
            check_embedded(task) if embedded else check_set(task, given.root, given.family) for task, embedded in chosen
        ]
        print(show(findings))
        return 1 if any(f.level == "error" for f in findings) else 0
    revisions = dict(_revision(text) for text in given.revision)
    root = full.data_root(given.root)
    wanted = [task for task, embedded in chosen if not embedded]
    if not given.download:
        for task in wanted:
            about = full.info(task, given.family)
            where = f"{about.hub} at {revisions.get(task) or about.pinned}" if about.hub else "no hub copy is known"
            print(f"{task}: {where} -> {root / about.folder}", flush=True)
        raise UserError("nothing was fetched: the network is used only when asked for", "Add --download to fetch them.")
    for task in wanted:
        print(f"{task}: fetched {fetch(task, root, revisions.get(task), given.family)}", file=sys.stderr)
    return 0


def _revision(text: str) -> tuple[str, str]:
    task, equals, commit = text.partition("=")
    if not equals or not commit or task not in full.names():
        raise UserError(f"--revision {text!r} is not TASK=COMMIT", "Write e.g. --revision MNIST=main")
    return task, commit
