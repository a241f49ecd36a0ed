"""Which files of a folder are a family's base, experts and heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.checkpoints.files import has_weights
from benchmark.common.errors import UserError
from benchmark.importers import Definition


@dataclass
class FamilyFiles:
    """Where a family's files lie. In Hugging Face's layout base and experts are folders."""

    base: Path
    experts: dict[str, Path]
    heads: dict[str, Path] = field(default_factory=dict)


def find(family: Definition, path: Path, backbone: str, tasks: Sequence[str] | None = None) -> FamilyFiles:
    """The files of ``tasks`` (default: of all tasks that ``path`` has experts for).

    Raises:
        UserError: no such folder, no base, or a task asked for has no expert; says what was looked for.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder", _where(family))
    candidates = [path, *(path / family.fill(folder, backbone) for folder in family.folders)]
    base, root = _base(family, candidates, backbone)
    wanted = list(tasks or family.known_tasks())
    named = {task: family.fill(family.expert, backbone, task) for task in wanted}
    experts = {task: place for task, name in named.items() if (place := _at(root, name)) is not None}
    absent = [task for task in wanted if task not in experts]
    if (tasks and absent) or not experts:
        looked = ", ".join(named[task] for task in absent[:4])
        raise UserError(f"{root} has no expert for {', '.join(absent)}: looked for {looked}", _where(family))
    heads = {}
    if family.head:
        files = {task: root / family.fill(family.head, backbone, task) for task in experts}
        heads = {task: file for task, file in files.items() if file.is_file()}
    return FamilyFiles(base, experts, heads)


def _base(family: Definition, candidates: Sequence[Path], backbone: str) -> tuple[Path, Path]:
    names = [family.fill(name, backbone) for name in family.base]
    for folder in candidates:
        for name in names:
            if (place := _at(folder, name)) is not None:
                return place, folder
    looked = " or ".join(str(folder / names[0]) for folder in candidates)
    raise UserError(f"no base of {family.name}, {backbone}: looked for {looked}", _where(family))


def _at(root: Path, name: str) -> Path | None:
    """``root/name``; for a repository ``owner/name`` also ``root/name`` alone, or the hub cache's snapshot of it."""
    choices = [root / name]
    if name.count("/") == 1 and not name.endswith((".pt", ".safetensors")):
        snapshots = root / f"models--{name.replace('/', '--')}" / "snapshots"
        choices += [root / name.partition("/")[2], *(sorted(snapshots.iterdir()) if snapshots.is_dir() else [])]
        choices = [choice for choice in choices if (choice / "config.json").exists() or has_weights(choice)]
        if len(choices) > 1:
            raise UserError(
                f"{root} holds {len(choices)} copies of {name}: {', '.join(str(c) for c in choices)}",
                "Keep one, or give a folder with one copy only.",
            )
    return next((choice for choice in choices if choice.exists()), None)


def _where(family: Definition) -> str:
    fetch = "" if not family.hub else (
        f"; or let this fetch it: symerge-bench assets checkpoints import {family.name} --download"
    )  # fmt: skip
    return f"The files come from {family.where}{fetch}"
