"""A family of image towers: base, experts and heads of some tasks, checked against the manifest and the backbone.

``load_family`` verifies and returns paths: the caller maps the tensors itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmark.checkpoints import families
from benchmark.checkpoints.families import (
    FamilyError,
    MissingFile,
    check_file,
    checkpoint_folder,
    read_manifest,
    remedy,
)
from benchmark.domains.vision.backbones import Backbone, create_encoder, get_backbone
from benchmark.domains.vision.heads import ClassificationHead


@dataclass(frozen=True)
class Family:
    """A verified family. ``experts`` are paths in the order asked for; ``hashes`` maps file name to sha256."""

    name: str
    folder: Path
    base: Path
    experts: dict[str, Path]
    heads: dict[str, ClassificationHead]
    hashes: dict[str, str]
    manifest: dict[str, Any] = field(repr=False)

    @property
    def quick_gelu(self) -> bool:
        """The activation these weights were trained with."""
        return bool(self.manifest["quick_gelu"])


def load_family(
    folder: str | Path,
    backbone: str | Backbone,
    tasks: Sequence[str],
    *,
    verify: bool = True,
    class_counts: Mapping[str, int] | None = None,
    name: str | None = None,
) -> Family:
    """The base, experts and heads of ``tasks`` in ``folder``, checked against the manifest and the backbone.

    Args:
        folder: a family folder with ``manifest.json``.
        backbone: the architecture the weights must fit.
        tasks: whose experts are wanted; other files are not read.
        verify: hash each file and look for NaN and Inf. Once per file: an unchanged one (`benchmark.common.facts`) is
            not read again, a large one not by later processes either. Names, shapes and dtypes are always checked,
            from the file's header.
        class_counts: classes each head must have, where the caller knows.
        name: the family that was asked for; None: whichever it is.

    Raises:
        FamilyError: a missing (`MissingFile`), truncated or altered file, missing or extra keys, a wrong shape, dtype
            or class count, NaN or Inf, another family.
    """
    folder, backbone = Path(folder), get_backbone(backbone)
    manifest = read_manifest(folder)
    known = checks(folder, backbone, tasks, verify=verify, class_counts=class_counts, name=name)
    listed = experts_of(manifest)
    if absent := [task for task in tasks if task not in listed]:
        raise _without(folder, absent, listed)
    for check in known.values():
        check()
    heads: dict[str, ClassificationHead] = {}
    for task in tasks:
        tensors = load_file(folder / f"heads/{task}.safetensors")
        heads[task] = ClassificationHead(tensors["weight"].float(), tensors["bias"].float())
    names = ["base.safetensors", *(f"{t}.safetensors" for t in tasks)]
    files = [*names, *(f"heads/{t}.safetensors" for t in tasks)]
    return Family(
        name=manifest["name"],
        folder=folder,
        base=folder / names[0],
        experts={t: folder / f"{t}.safetensors" for t in tasks},
        heads=heads,
        hashes={n: manifest["files"][n]["sha256"] for n in files},
        manifest=manifest,
    )


def checks(
    folder: Path,
    backbone: Backbone,
    tasks: Sequence[str],
    *,
    verify: bool = True,
    class_counts: Mapping[str, int] | None = None,
    name: str | None = None,
    mend: str | None = None,
) -> dict[str, Callable[[], None]]:
    """What `load_family` holds each file against, by the file's name: base, experts, heads. Arguments are its.

    Args:
        mend: ends every message; None: what to type where the folder is not what it should be.

    Each raises FamilyError, `MissingFile` for a file that is not there; so does this for a manifest that is unusable.
    """
    manifest, how = read_manifest(folder), remedy(folder) if mend is None else mend
    if manifest["backbone"] != backbone.name:
        raise FamilyError(
            f"{folder} holds {manifest['backbone']} weights; asked for {backbone.name}. "
            f"Type --backbone {manifest['backbone']}, or give another --family"
        )
    if name is not None and manifest["name"] != name:
        raise FamilyError(
            f"{folder} holds the family {manifest['name']!r}; asked for {name!r}. Families never share a table: "
            f"type --family {manifest['name']}, or move the folder to where that family's files belong"
        )
    expected = {k: tuple(v.shape) for k, v in create_encoder(backbone, device="meta").state_dict().items()}
    base = "base.safetensors"

    def listed(file: str) -> Mapping[str, Any]:
        if file not in manifest["files"]:
            raise MissingFile(f"{folder}/manifest.json names no {file}. {how}")
        entry: Mapping[str, Any] = manifest["files"][file]
        return entry

    def tower(file: str) -> None:
        entry = listed(file)
        if entry.get("bits") and (of := entry.get("base")) != (own := listed(base)["sha256"]):
            raise FamilyError(f"{folder / file} is a task vector over the base {of}; the base here is {own}. {how}")
        factors = {key: tuple(shape) for key, shape in entry.get("adapter", {}).items()}
        check_file(folder / file, factors or expected, entry, verify=verify, mend=how)

    def head(task: str, file: str) -> None:
        entry = listed(file)
        wanted = (class_counts or {}).get(task) or len(manifest["classes"].get(task, ()))
        if not wanted:
            raise FamilyError(f"{folder}/manifest.json names no classes of {task}. {how}")
        shapes = {"weight": (wanted, backbone.embed_dim), "bias": (wanted,)}
        check_file(folder / file, shapes, entry, verify=verify, mend=how)

    towers = {file: partial(tower, file) for file in (base, *(f"{task}.safetensors" for task in tasks))}
    heads = {file: partial(head, task, file) for task in tasks for file in (f"heads/{task}.safetensors",)}
    return {**towers, **heads}


def experts_of(manifest: Mapping[str, Any]) -> list[str]:
    """The tasks whose experts a manifest lists."""
    stems = [file.removesuffix(".safetensors") for file in manifest["files"] if "/" not in file]
    return [stem for stem in stems if stem not in ("base", "text")]


def _without(folder: Path, absent: Sequence[str], listed: Sequence[str]) -> MissingFile:
    return MissingFile(f"{folder} has no expert for {', '.join(absent)}; it has {', '.join(listed)}. {remedy(folder)}")


def head_notes(manifest: Mapping[str, Any], tasks: Sequence[str]) -> tuple[str, ...]:
    """What boards must say of an imported family's heads: whose text side was fine-tuned, and which head they have."""
    choices = {
        task: about.get("head")
        for task in tasks
        if (about := manifest.get("sources", {}).get(f"{task}.safetensors", {})).get("head")
    }
    if not choices:
        return ()
    listed = ", ".join(f"{task} ({choice})" for task, choice in choices.items())
    return (f"More than the image tower of these experts is not the base's; where their heads are from: {listed}.",)


def load_embedded(
    family: str, backbone: str, tasks: Sequence[str], *, class_counts: Mapping[str, int] | None = None
) -> Family:
    """The committed family of this name: ``mini``; ``small``; or ``mini-NAME``, whose experts come from two bases.

    Experts of ``small`` that are not committed are looked for where the user's own checkpoints lie, and must have been
    fine-tuned from the committed base.

    Of ``mini-NAME`` the experts in the folder ``BACKBONE-NAME`` were fine-tuned from the base there, each under that
    base's head; the base and all other experts are those of ``mini``. Their hashes go by folder and file name.

    Raises:
        FamilyError: as :func:`load_family`.
    """
    if family == "small":
        return _load_small(backbone, tasks, class_counts)
    whole = families.MINI / backbone
    if family == "mini":
        return load_family(whole, backbone, tasks, class_counts=class_counts)
    other = second_base(family, backbone)
    theirs = read_manifest(other)["classes"]
    own = load_family(whole, backbone, [t for t in tasks if t not in theirs], class_counts=class_counts)
    added = load_family(other, backbone, [t for t in tasks if t in theirs], class_counts=class_counts)
    hashes = {f"{other.name}/{name}": digest for name, digest in added.hashes.items()}
    return replace(_joined(own, added, tasks), name=family, hashes=own.hashes | hashes)


def _load_small(backbone: str, tasks: Sequence[str], class_counts: Mapping[str, int] | None) -> Family:
    committed = read_manifest(families.SMALL / backbone)["classes"]
    own = load_family(
        families.SMALL / backbone, backbone, [t for t in tasks if t in committed], class_counts=class_counts
    )
    absent = [t for t in tasks if t not in committed]
    if not absent:
        return own
    folder = checkpoint_folder("small", backbone)
    make = (
        "To make them (1 to 2 minutes each): symerge-bench assets experts vision-small-20 --retrain "
        f"--tasks {' '.join(absent)}"
    )
    if not (folder / "manifest.json").exists():
        raise FamilyError(f"the experts of {', '.join(absent)} are not committed, and not made in {folder}. {make}")
    added = load_family(folder, backbone, absent, class_counts=class_counts)
    if (base := added.hashes["base.safetensors"]) != own.hashes["base.safetensors"]:
        raise FamilyError(
            f"the experts in {folder} were fine-tuned from another base ({base[:12]}) than the "
            f"committed one ({own.hashes['base.safetensors'][:12]}). {make}"
        )
    return _joined(own, added, tasks)


def _joined(own: Family, added: Family, tasks: Sequence[str]) -> Family:
    """One family of the experts and heads of two, in the order of ``tasks``; all else is the first one's."""
    experts, heads = own.experts | added.experts, own.heads | added.heads
    return replace(
        own,
        experts={t: experts[t] for t in tasks},
        heads={t: heads[t] for t in tasks},
        hashes=own.hashes | added.hashes,
    )


def second_base(family: str, backbone: str) -> Path:
    """The folder of the second base of a committed family ``mini-NAME``, with the experts fine-tuned from it."""
    return families.MINI / f"{backbone}-{family.removeprefix('mini-')}"
