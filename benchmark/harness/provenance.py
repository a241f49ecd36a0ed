"""Where a run's numbers come from: commit, versions, machine, data. No path of the machine enters a record."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmark.common.paths import home
from benchmark.common.project import ROOT
from benchmark.records.record import Provenance
from benchmark.suites.bench import Bench

#: The commit of a copy without its history, such as a cluster's workers are sent: ``HASH`` or ``HASH dirty``.
COMMIT = "SYMERGE_COMMIT"
PACKAGES = ("torch", "numpy", "open_clip_torch", "safetensors", "scipy", "torchmetrics", "transformers", "datasets")


def relative(text: str) -> str:
    """``text`` with the project's folder, the environment's and the home folder taken out of its paths."""
    for folder, name in (
        (ROOT, "."),
        (Path(sys.prefix).resolve(), "ENV"),
        (Path(sys.base_prefix).resolve(), "PYTHON"),
        (home(), "~"),
    ):
        if folder is not None and len(str(folder)) > 1:
            text = text.replace(str(folder), name)
    return text


@functools.lru_cache(maxsize=1)
def git_state() -> tuple[str | None, bool | None]:
    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        added = ask("ls-files", "--others", "--exclude-standard", "--", "benchmark", "methods")
        # A new method's own file is told by its version in the record.
        others = [name for name in added.split() if not re.fullmatch(r"methods/[^/]+\.py", name)]
        return ask("rev-parse", "HEAD").strip(), bool(changed.strip() or others)
    except (OSError, subprocess.SubprocessError):
        commit, _, state = os.environ.get(COMMIT, "").partition(" ")
        return (commit, state == "dirty") if commit else (None, None)


def holds(commit: str, file: str) -> bool | None:
    """Whether a commit holds a file, named from the project's folder, as it is now; None where it is not known here."""
    try:
        ask = ["git", "-C", str(ROOT)]
        if subprocess.run([*ask, "cat-file", "-e", commit], capture_output=True, timeout=10).returncode:
            return None
        shown = subprocess.run([*ask, "show", f"{commit}:{file}"], capture_output=True, timeout=10)
        return not shown.returncode and shown.stdout == (ROOT / file).read_bytes()
    except (OSError, subprocess.SubprocessError):
        return None


def as_variable() -> dict[str, str]:
    """The commit as the variable that tells it to a copy of this folder; empty where it is unknown."""
    commit, dirty = git_state()
    return {COMMIT: f"{commit} dirty" if dirty else commit} if commit else {}


@functools.lru_cache(maxsize=1)
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


@functools.lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe(bench: Bench, argv: Sequence[str], batch_size: int | None = None) -> Provenance:
    """The provenance of a run that starts now; ``batch_size`` of the evaluation where it is not the suite's."""
    commit, dirty = git_state()
    gpu = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else None
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions=_versions(),
        platform=f"{platform.system()} {platform.machine()}",
        device=str(bench.device),
        processor=_processor(),
        gpu=gpu,
        threads=torch.get_num_threads(),
        batch_size=batch_size or bench.suite.batch_size,
        argv=[_plain(word) for word in argv],
        notes=list(bench.notes),
    )


def _plain(word: str) -> str:
    """An argument as the user typed it, absolute paths cut down to their last part."""
    return Path(word).name if Path(word).is_absolute() else word
