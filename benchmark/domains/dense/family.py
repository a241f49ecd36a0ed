"""A family of dense prediction on disk: base, experts and decoders with a manifest.

``base.safetensors`` and ``<task>.safetensors`` are encoders, ``heads/<task>.safetensors`` decoders; names are
torchvision's, without the counters of batch normalisations. ``manifest.json`` says what was trained, how, and each
file's sha256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.checkpoints.families import (
    MINI,
    FamilyError,
    Listed,
    MissingFile,
    check_file,
    check_manifest,
    describe_files,
    save_json,
    save_state,
    told,
)
from benchmark.common.errors import Missing, UserError
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
        UserError: a missing (`Missing`), truncated or altered file, other keys, shapes or backbone, NaN or Inf; what
            mends it.
    """
    folder = Path(folder)
    for check in checks(folder, shape, channels, kinds).values():
        check()
    manifest = _read(folder)
    heads: dict[str, nn.Module] = {}
    for task, count in channels.items():
        head = Decoder(shape, count, unit=kinds[task] == "normals")
        stored = load_file(folder / f"heads/{task}.safetensors")
        head.load_state_dict({n: t.float() for n, t in stored.items()}, strict=False)
        heads[task] = head.eval()
    names = ["base.safetensors", *(f"{t}.safetensors" for t in channels)]
    files = [*names, *(f"heads/{t}.safetensors" for t in channels)]
    return DenseFamily(
        manifest["name"],
        folder / names[0],
        {t: folder / f"{t}.safetensors" for t in channels},
        heads,
        {n: manifest["files"][n]["sha256"] for n in files},
        manifest,
    )


def checks(
    folder: Path, shape: Backbone, channels: Mapping[str, int], kinds: Mapping[str, str]
) -> dict[str, Callable[[], None]]:
    """What `load_dense_family` holds each file against, by the file's name: base, experts, decoders.

    Each raises UserError, `Missing` for a file that is not there; so does this for a manifest that is unusable.
    """
    mend, manifest = _mend(folder), _read(folder)
    if manifest.get("backbone") != shape.name:
        raise UserError(f"{folder} holds {manifest.get('backbone')} weights; asked for {shape.name}", mend)
    encoder = {n: tuple(t.shape) for n, t in tensors(_meta(lambda: Encoder(shape))).items()}

    def check(name: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
        try:
            if name not in manifest["files"]:
                raise MissingFile(f"{folder}/manifest.json names no {name}. {mend}")
            check_file(folder / name, wanted, manifest["files"][name], mend=mend)
        except FamilyError as error:
            raise told(error) from None

    def decoder(task: str) -> dict[str, tuple[int, ...]]:
        head = _meta(lambda: Decoder(shape, channels[task], unit=kinds[task] == "normals"))
        return {n: tuple(t.shape) for n, t in tensors(head).items()}

    towers = ("base.safetensors", *(f"{task}.safetensors" for task in channels))
    return {
        **{name: partial(check, name, encoder) for name in towers},
        **{
            f"heads/{task}.safetensors": partial(check, f"heads/{task}.safetensors", decoder(task)) for task in channels
        },
    }


def _read(folder: Path) -> dict[str, Any]:
    """`manifest.json`. Raises UserError, `Missing` where there is none."""
    mend = _mend(folder)
    try:
        manifest = read_object(folder / "manifest.json")
        check_manifest(folder / "manifest.json", manifest, Listed, mend)
    except FileNotFoundError:
        raise Missing(f"no experts in {folder}: manifest.json is missing", mend) from None
    except FamilyError as error:
        raise UserError(str(error)) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'manifest.json'} cannot be read: {error}", mend) from None
    return manifest


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
