"""Families of LoRA experts for text: adapters and heads on disk, and their manifest.

A folder of the embedded family holds `<Task>.safetensors` (adapters, see `adapters`), `heads/<Task>.safetensors` and
`manifest.json`. The base is not in it: it is named by the hashes of its files. An imported family has its base, and
experts that are whole fine-tunings or adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file

from benchmark.checkpoints.adapters import Adapters, load_adapters
from benchmark.checkpoints.families import MINI, FamilyError, Listed, check_file, check_manifest, sha256, told
from benchmark.common.errors import Missing, UserError
from benchmark.common.files import read_object
from benchmark.domains.text.encoder import TextEncoder, empty_encoder
from benchmark.domains.text.heads import ClassificationHead, LinearHead

FOLDER = MINI / "MiniLM-L6"
BASE = "base.safetensors"


@dataclass(frozen=True)
class LoraFamily:
    """Adapters `{task: {weight name: (A, B, scale)}}`, heads, and sha256 of every file by name."""

    adapters: dict[str, Adapters]
    heads: dict[str, LinearHead]
    hashes: dict[str, str]
    manifest: dict[str, Any]


class _Labels(BaseModel):
    """Which output of a head is which class."""

    model_config = ConfigDict(strict=True)
    classes: list[str]
    assumed: bool


class _Manifest(Listed):
    """What the manifest of a text family must say; ``base``: where the base is not in it."""

    base: dict[str, str] = {}
    labels: dict[str, _Labels] = {}


def read_manifest(folder: Path, mend: str) -> dict[str, Any]:
    """`manifest.json` of a text family. Raises :class:`UserError`."""
    try:
        content = read_object(folder / "manifest.json")
        check_manifest(folder / "manifest.json", content, _Manifest, mend)
    except FamilyError as error:
        raise UserError(str(error)) from None
    except FileNotFoundError:
        raise Missing(f"no family of text experts in {folder}: it has no manifest.json", mend) from None
    except (OSError, ValueError) as error:
        raise UserError(f"no family of text experts in {folder}: {error}", mend) from None
    return content


def check_base(manifest: Mapping[str, Any], base: Mapping[str, str], mend: str) -> None:
    """Raise :class:`UserError` unless the family was trained from a base whose files have these sha256."""
    for name, digest in base.items():
        if (own := manifest.get("base", {}).get(name)) != digest:
            raise UserError(f"{name} of the base has sha256 {digest}; these experts were trained from {own}", mend)


def load_lora_family(
    folder: Path, tasks: Sequence[str], outputs: Mapping[str, int], base: Mapping[str, str], mend: str
) -> LoraFamily:
    """Adapters and heads of these tasks, each compared with the manifest.

    Args:
        outputs: number of outputs of each task's head.
        base: sha256 of the base's files by name, as they are on this machine.

    Raises:
        UserError: files missing or damaged, another base, heads of another size.
    """
    manifest = read_manifest(folder, mend)
    check_base(manifest, base, "Install the pinned package again: ./run_all.sh --suite glue-mini")
    family = LoraFamily({}, {}, {f"base/{n}": h for n, h in base.items()}, manifest)
    for task in tasks:
        for name in (f"{task}.safetensors", f"heads/{task}.safetensors"):
            if name not in manifest["files"]:
                raise UserError(f"{folder.name} has no {name}; it has {', '.join(manifest['files'])}", mend)
            shapes = {n: tuple(s) for n, s in manifest["files"][name].get("shapes", {}).items()}
            try:
                check_file(folder / name, shapes, manifest["files"][name], mend=mend)
            except FamilyError as error:
                raise UserError(str(error)) from None
            family.hashes[name] = sha256(folder / name)
        family.adapters[task] = load_adapters(folder / f"{task}.safetensors")
        family.heads[task] = LinearHead.of(load_file(folder / f"heads/{task}.safetensors"))
        if family.heads[task].out_features != outputs[task]:
            raise UserError(
                f"the head of {task} has {family.heads[task].out_features} outputs, the task {outputs[task]}", mend
            )
    return family


@dataclass(frozen=True)
class TextFamily:
    """An imported family: base and experts as paths, heads, hashes by name, the folder (with the tokenizer)."""

    folder: Path
    base: Path
    experts: dict[str, Path]
    heads: dict[str, ClassificationHead]
    hashes: dict[str, str]
    manifest: dict[str, Any]


def notes(manifest: Mapping[str, Any], tasks: Sequence[str]) -> tuple[str, ...]:
    """What boards must say of an imported family: for which tasks the order of the head's outputs was assumed."""
    said = {task: about for task, about in manifest.get("labels", {}).items() if task in tasks and about["assumed"]}
    if not said:
        return ()
    orders = "; ".join(f"{task}: {', '.join(about['classes'])}" for task, about in said.items())
    return (
        f"The experts' files do not name the outputs of these heads; the data's order of classes was assumed: "
        f"{orders}.",
    )


def load_family(folder: Path, name: str, tasks: Sequence[str], outputs: Mapping[str, int]) -> TextFamily:
    """An imported family, each file compared with the manifest.

    Raises:
        UserError: no family there, another family, missing or damaged files, heads with another number of outputs.
    """
    known = checks(folder, name, tasks, outputs)
    manifest, mend = read_manifest(folder, _import(name)), _import(name)
    listed = [n.removesuffix(".safetensors") for n in manifest["files"] if "/" not in n and n != BASE]
    if absent := [task for task in tasks if task not in listed]:
        raise Missing(f"{folder} has no expert for {', '.join(absent)}; it has {', '.join(listed)}", mend)
    for check in known.values():
        check()
    hashes = {file: sha256(folder / file) for file in known}
    heads = {task: ClassificationHead.of(load_file(folder / f"heads/{task}.safetensors")) for task in tasks}
    experts = {task: folder / f"{task}.safetensors" for task in tasks}
    return TextFamily(folder, folder / BASE, experts, heads, hashes, manifest)


def checks(folder: Path, name: str, tasks: Sequence[str], outputs: Mapping[str, int]) -> dict[str, Callable[[], None]]:
    """What `load_family` holds each file against, by the file's name: base, experts and heads. Arguments are its.

    Each raises UserError, `Missing` for a file that is not there; so does this for a manifest that is unusable.
    """
    mend = _import(name)
    manifest = read_manifest(folder, mend)
    if manifest.get("name") != name:
        raise UserError(f"{folder} holds the family {manifest.get('name')!r}; asked for {name!r}", mend)

    def check(file: str) -> None:
        if file not in manifest["files"]:
            raise Missing(f"{folder}/manifest.json names no {file}", mend)
        shapes = {n: tuple(s) for n, s in manifest["files"][file].get("shapes", {}).items()}
        try:
            check_file(folder / file, shapes, manifest["files"][file], mend=mend)
        except FamilyError as error:
            raise told(error) from None

    def head(task: str) -> None:
        check(f"heads/{task}.safetensors")
        width = ClassificationHead.of(load_file(folder / f"heads/{task}.safetensors")).out_proj.out_features
        if width != outputs[task]:
            raise UserError(f"the head of {task} has {width} outputs, the task {outputs[task]}", mend)
        if outputs[task] > 1 and task not in manifest.get("labels", {}):
            raise UserError(
                f"{folder} does not say which outputs of the heads of {task} are which classes: "
                "it was imported before this was read",
                mend,
            )

    return {
        BASE: partial(check, BASE),
        **{f"{task}.safetensors": partial(check, f"{task}.safetensors") for task in tasks},
        **{f"heads/{task}.safetensors": partial(head, task) for task in tasks},
    }


def _import(name: str) -> str:
    return f"Type: ./run_all.sh assets checkpoints import {name} PATH"


def create_encoder(folder: Path, device: torch.device | str = "cpu") -> TextEncoder:
    """The encoder of a family's `config.json`, its weights not set: states give them."""
    return empty_encoder(folder, "first").to(device)
