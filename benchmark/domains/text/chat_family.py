"""The families of `llm-small` on disk: experts of a chat model, and their manifest.

`small`, which is committed, holds LoRA experts in PEFT's own format, a folder each. `full` holds whole fine-tunings,
`<Task>.safetensors` each: a task vector in few bits over the base's blocks (`methods/core/packed.py`), made on
the user's machine, where checkpoints lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import SMALL, FamilyError, check_file, checkpoint_folder, sha256, told
from benchmark.checkpoints.files import ADAPTER_CONFIG, ADAPTERS, weights
from benchmark.checkpoints.peft import read_adapter
from benchmark.common.errors import UserError
from benchmark.domains.text.embedded import restore
from benchmark.domains.text.family import check_base, read_manifest
from benchmark.domains.text.language_model import NAME, NEEDED, SOURCE

FOLDER = SMALL / NAME
COMMITTED = "small"


@dataclass(frozen=True)
class ChatFamily:
    """Experts of a chat model, whose own output table is every task's head.

    Attributes:
        adapters: of LoRA experts, `{task: {weight name: (A, B, scale)}}`.
        whole: of whole fine-tunings, each expert's file.
        hashes: sha256 of every file, the base's included, by name.
    """

    manifest: dict[str, Any]
    adapters: dict[str, Adapters] = field(default_factory=dict)
    whole: dict[str, Path] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def folder_of(family: str) -> Path:
    """Where the suite looks for this family: the committed one in the project, another where checkpoints lie."""
    return FOLDER if family == COMMITTED else checkpoint_folder(family, NAME)


def option_of(family: str) -> str:
    """What names the family on a command line; nothing of the one that is meant without it."""
    return "" if family == COMMITTED else f" --family {family}"


def mend_of(family: str, folder: Path) -> str:
    """What to type where a family, or a file of it, is missing or not what it should be."""
    if family == COMMITTED:
        return restore(folder)
    return f"To make it: ./run_all.sh assets experts llm-small{option_of(family)} --retrain"


def load_expert(folder: Path, task: str) -> Adapters:
    """The factors of one expert, in float32. Raises :class:`FamilyError`."""
    factors = read_adapter(weights(folder / task), [SOURCE]).factors
    return {name: (a.float(), b.float(), scale) for name, (a, b, scale) in factors.items()}


def load_family(folder: Path, tasks: Sequence[str], base: Mapping[str, str], name: str = COMMITTED) -> ChatFamily:
    """The experts of these tasks, each compared with the manifest.

    Args:
        base: sha256 of the base's files by name, as they are on this machine.
        name: the family that was asked for.

    Raises:
        UserError: no family there (`Missing`), or another; files missing or damaged; another base.
    """
    mend = mend_of(name, folder)
    manifest = read_manifest(folder, mend)
    if manifest["name"] != name:
        raise UserError(f"{folder} holds the family {manifest['name']!r}; asked for {name!r}", mend)
    check_base(manifest, base, f"Install the pinned package again: {NEEDED}")
    family = ChatFamily(manifest, hashes={f"base/{n}": h for n, h in base.items()})
    for task in tasks:
        file = next((f for f in (f"{task}/{ADAPTERS[0]}", f"{task}.safetensors") if f in manifest["files"]), None)
        if file is None:
            raise UserError(f"{folder.name} has no expert for {task}; it has {', '.join(manifest['files'])}", mend)
        shapes = {n: tuple(s) for n, s in manifest["files"][file].get("shapes", {}).items()}
        try:
            check_file(folder / file, shapes, manifest["files"][file], mend=mend)
            if file == f"{task}.safetensors":
                family.whole[task] = folder / file
            else:
                family.adapters[task] = load_expert(folder, task)
        except FamilyError as error:
            raise told(error) from None
        family.hashes[file] = sha256(folder / file)
        if task in family.adapters:
            _check_config(folder, task, family, mend)
    return family


def _check_config(folder: Path, task: str, family: ChatFamily, mend: str) -> None:
    """Raise :class:`UserError` unless the settings of an adapter are those of the manifest; keep their hash."""
    about = f"{task}/{ADAPTER_CONFIG}"
    family.hashes[about] = sha256(folder / about)
    if (own := family.manifest.get("configs", {}).get(about)) != family.hashes[about]:
        raise UserError(f"{folder / about} has sha256 {family.hashes[about]}, the manifest says {own}", mend)
