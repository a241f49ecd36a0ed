"""A family of dense prediction on disk: base, experts and decoders with a manifest.

``base.safetensors`` and ``<task>.safetensors`` are encoders, ``heads/<task>.safetensors`` decoders; names are
torchvision's, without the counters of batch normalisations. ``manifest.json`` says what was trained, how, and each
file's sha256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.checkpoints.families import (
    MINI,
    FamilyError,
    Listed,
    check_file,
    check_manifest,
    describe_files,
    save_json,
    save_state,
)
from benchmark.common.errors import UserError
from benchmark.common.files import read_object
from benchmark.common.project import ROOT
from benchmark.domains.dense.model import Backbone, Decoder, Encoder

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class DenseFamily:
    """A verified family: paths of the encoders, decoders in evaluation mode, sha256 by file name."""

    name: str
    base: Path
    experts: dict[str, Path]
    heads: dict[str, nn.Module]
    hashes: dict[str, str]
    manifest: dict[str, Any] = field(repr=False)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without counters."""
    return {n: t for n, t in module.state_dict().items() if not n.endswith(COUNTER)}


def load_dense_family(
    folder: str | Path, shape: Backbone, channels: Mapping[str, int], kinds: Mapping[str, str]
) -> DenseFamily:
    """Base, experts and decoders of the tasks of ``channels`` (predicted channels by task).

    Raises:
        UserError: a missing, truncated or altered file, other keys, shapes or backbone, NaN or Inf; what mends it.
    """
    folder = Path(folder)
    mend = _mend(folder)
    try:
        manifest = read_object(folder / "manifest.json")
        check_manifest(folder / "manifest.json", manifest, Listed, mend)
    except FileNotFoundError:
        raise UserError(f"no experts in {folder}: manifest.json is missing", mend) from None
    except FamilyError as error:
        raise UserError(str(error)) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'manifest.json'} cannot be read: {error}", mend) from None
    if manifest.get("backbone") != shape.name:
        raise UserError(f"{folder} holds {manifest.get('backbone')} weights; asked for {shape.name}", mend)
    encoder = {n: tuple(t.shape) for n, t in tensors(_meta(lambda: Encoder(shape))).items()}
    names = ["base.safetensors", *(f"{t}.safetensors" for t in channels)]
    heads: dict[str, nn.Module] = {}
    try:
        for name in (*names, *(f"heads/{t}.safetensors" for t in channels)):
            if name not in manifest["files"]:
                raise FamilyError(f"{folder}/manifest.json names no {name}. {mend}")
        for name in names:
            check_file(folder / name, encoder, manifest["files"][name], mend=mend)
        for task, count in channels.items():
            name = f"heads/{task}.safetensors"
            head = Decoder(shape, count, unit=kinds[task] == "normals")
            wanted = {n: tuple(t.shape) for n, t in tensors(head).items()}
            check_file(folder / name, wanted, manifest["files"][name], mend=mend)
            head.load_state_dict({n: t.float() for n, t in load_file(folder / name).items()}, strict=False)
            heads[task] = head.eval()
    except FamilyError as error:
        raise UserError(str(error)) from None
    files = [*names, *(f"heads/{t}.safetensors" for t in channels)]
    return DenseFamily(
        manifest["name"],
        folder / names[0],
        {t: folder / f"{t}.safetensors" for t in channels},
        heads,
        {n: manifest["files"][n]["sha256"] for n in files},
        manifest,
    )


def save_part(folder: Path, name: str, module: nn.Module, dtype: torch.dtype) -> None:
    """Write one encoder or decoder."""
    save_state(folder / f"{name}.safetensors", tensors(module), dtype)


def write_manifest(folder: Path, about: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """``manifest.json`` of what lies in the folder."""
    files = ["base.safetensors", *(f"{t}.safetensors" for t in tasks), *(f"heads/{t}.safetensors" for t in tasks)]
    manifest = {**about, "files": describe_files(folder, files)}
    save_json(folder / "manifest.json", manifest)
    return manifest


def _meta(make: Any) -> nn.Module:
    with torch.device("meta"):
        module: nn.Module = make()
    return module


def _mend(folder: Path) -> str:
    if MINI in folder.resolve().parents:
        return f"To restore it: git checkout -- {folder.resolve().relative_to(ROOT)}"
    return (
        "No experts are published for nyuv2. Train them: symerge-bench assets experts nyuv2 --root DIR --retrain "
        f"--out {folder}"
    )
