"""Checkpoint families on disk: who trained the base and its experts, and whether the files are what they should be.

What every domain shares: where families lie, what a manifest says, how a file is checked and written. A domain opens a
family of its own kind (`domains/*/family.py`). A family of image towers is a folder::

    manifest.json            sha256, bytes and dtype of every file; shapes; backbone; quick_gelu; classes; how made
    base.safetensors         the base's image tower, keys visual.*
    <Task>.safetensors       one expert per task, the same keys and shapes; or an adapter (its shapes in the manifest);
                             or ("bits" in the manifest) a task vector in few bits over the base, in the layout of
                             methods/core/packed.py
    heads/<Task>.safetensors weight [C, D] and bias [C]
    text.safetensors         (the mini family) the text tower and its vocabulary
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from benchmark.common import facts
from benchmark.common.errors import Missing, UserError
from benchmark.common.files import check_regular, read_object, replacing
from benchmark.common.paths import in_home, of_variable, resolved
from benchmark.common.project import ROOT
from benchmark.common.project import WEIGHTS as MINI
from methods.core import packed

#: Families for seconds, and the really pretrained one for minutes.
SMALL = ROOT / "benchmark" / "models" / "small"
EMBEDDED = (MINI, SMALL)
FLOATING = {"F16", "BF16", "F32", "F64"}


class FamilyError(ValueError):
    """A family folder that is not what it should be: what was found, what was expected, what to type."""


class MissingFile(FamilyError):
    """A family, or a file of one, that is not there at all."""


def told(error: FamilyError) -> UserError:
    """The error as a user is told it: `Missing` where nothing is there."""
    return Missing(str(error)) if isinstance(error, MissingFile) else UserError(str(error))


class _File(BaseModel):
    """What a manifest must say of a file."""

    model_config = ConfigDict(strict=True)
    sha256: str
    bytes: int
    dtype: str = ""
    adapter: dict[str, list[int]] = {}
    shapes: dict[str, list[int]] = {}
    bits: int | None = None
    base: str | None = None


class Listed(BaseModel):
    """What every family's manifest must say; more may stand in it."""

    model_config = ConfigDict(strict=True)
    name: str
    files: dict[str, _File]


class _Manifest(Listed):
    """What that of a family of image towers must say."""

    backbone: str
    quick_gelu: bool
    classes: dict[str, list[str]]


def checkpoint_folder(family: str, backbone: str, root: str | os.PathLike | None = None) -> Path:
    """Where a family's files for a backbone lie: ``ROOT/FAMILY/BACKBONE``.

    The root is else ``$SYMERGE_CHECKPOINTS``, else ``~/.cache/symerge-bench/checkpoints``. Raises UserError for a user
    without a home folder.
    """
    chosen = resolved(root) if root is not None else of_variable("SYMERGE_CHECKPOINTS")
    folder = chosen or in_home("checkpoints", instead="Type --checkpoints DIR (or set SYMERGE_CHECKPOINTS).")
    return folder / family / backbone


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """``manifest.json`` of a family folder. Raises :class:`FamilyError`."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = read_object(path)
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist. {remedy(Path(folder))}") from None
    except OSError as error:
        raise FamilyError(f"{path} cannot be read: {error.strerror}. {remedy(Path(folder))}") from None
    except ValueError as error:
        raise FamilyError(f"{path} is not JSON ({error}). {remedy(Path(folder))}") from None
    check_manifest(path, manifest, _Manifest, remedy(Path(folder)))
    return manifest


def check_manifest(path: Path, manifest: Mapping[str, Any], model: type[BaseModel], mend: str) -> None:
    """Raise :class:`FamilyError`, which says where, unless a manifest has what ``model`` says."""
    try:
        model.model_validate(manifest)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, wrong["loc"])) or "it"
        said = f" lacks {where}" if wrong["type"] == "missing" else f": {where}: {wrong['msg']}"
        raise FamilyError(f"{path}{said}. {mend}") from None


def check_file(
    path: Path,
    expected: Mapping[str, tuple[int, ...]],
    entry: Mapping[str, Any] | None = None,
    *,
    verify: bool = True,
    mend: str = "",
) -> None:
    """Raise :class:`FamilyError` unless ``path`` is a safetensors file with exactly these keys and shapes.

    ``entry`` is the file's manifest entry (``sha256``, ``bytes``, ``dtype``; ``bits`` and ``base`` of a task vector
    over tensors of these shapes); ``verify`` reads the whole file: hash, NaN and Inf.
    """
    bits, base = (entry or {}).get("bits"), (entry or {}).get("base")
    size = regular(path, mend)
    if entry and size != entry["bytes"]:
        kind = "truncated" if size < entry["bytes"] else "another file"
        raise FamilyError(f"{path} has {size} bytes, the manifest says {entry['bytes']} ({kind}). {mend}")
    if entry and verify and (digest := sha256(path)) != entry["sha256"]:
        raise FamilyError(f"{path} has sha256 {digest}, the manifest says {entry['sha256']}. {mend}")
    with _opened(path, mend) as file:
        if bits:
            said = packed.described(file.metadata())
            expected = _packed_layout(path, said, expected, {"bits": bits, "base": base}, mend)
        keys = set(file.keys())
        if keys != set(expected):
            raise FamilyError(f"{path}: {_differ(set(expected) - keys, keys - set(expected))}. {mend}")
        for name, shape in expected.items():
            piece = file.get_slice(name)
            if tuple(piece.get_shape()) != tuple(shape):
                raise FamilyError(f"{path}: {name} is {list(piece.get_shape())}, expected {list(shape)}. {mend}")
            allowed = set(entry["dtype"].split("+")) if entry and "dtype" in entry else FLOATING
            if bits and not name.endswith(packed.SCALE):
                allowed = {"U8"}
            if piece.get_dtype() not in allowed:
                raise FamilyError(
                    f"{path}: {name} is {piece.get_dtype()}, expected {' or '.join(sorted(allowed))}. {mend}"
                )
    if verify and (bad := _not_finite(path)):
        raise FamilyError(
            f"{path}: NaN or Inf in {', '.join(bad[:3])}{' and more' if len(bad) > 3 else ''}; "
            f"a merge would spread it. {mend}"
        )


def _packed_layout(
    path: Path,
    said: Mapping[str, Any] | None,
    expected: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, Any],
    mend: str,
) -> Mapping[str, tuple[int, ...]]:
    layout = {k: said[k] for k in wanted if k in said} if said is not None else "that it holds whole weights"
    if layout != wanted:
        raise FamilyError(f"{path} says {layout}, expected {wanted}: of another version or base. {mend}")
    return packed.layout(expected, wanted["bits"])


def sha256(path: str | Path) -> str:
    """The file's sha256 as hex; an unchanged file's is remembered (`benchmark.common.facts`), large ones' on disk."""
    return facts.sha256(Path(path), on_disk=_large(Path(path)))


def save_state(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write safetensors atomically; floating tensors are cast to ``dtype`` if given. Same tensors, same bytes."""
    path = Path(path)
    ready = {
        k: (v.detach().to(dtype) if dtype is not None and v.is_floating_point() else v.detach()).cpu().contiguous()
        for k, v in sorted(tensors.items())
    }
    with replacing(path) as temporary:
        save_file(ready, temporary, metadata=metadata)
    return path


def save_json(path: str | Path, content: Any) -> Path:
    """Write indented JSON atomically."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(path)


def describe_files(folder: str | Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The manifest's ``files`` for these names: sha256, bytes, floating dtype and number of values of each; of a task
    vector in few bits also those, and the base's sha256."""
    described = {}
    for name in names:
        path = Path(folder) / name
        with _opened(path, "") as file:
            pieces = {k: file.get_slice(k) for k in file.keys()}
            dtypes = {p.get_dtype() for p in pieces.values() if p.get_dtype() in FLOATING}
            values = sum(torch.Size(p.get_shape()).numel() for p in pieces.values())
            vector = packed.described(file.metadata())
        described[name] = {
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "dtype": "+".join(sorted(dtypes)),
            "values": values,
        }
        if vector:
            described[name] |= {"bits": vector["bits"], "base": vector["base"]}
    return described


#: Facts of files from this size on are remembered on disk too: twenty experts of ViT-L-14 are 24 GB to read.
LARGE = 1 << 24


def _large(path: Path) -> bool:
    return path.stat().st_size >= LARGE


def _not_finite(path: Path) -> list[str]:
    def read() -> list[str]:
        with _opened(path, "") as file:
            return [k for k in file.keys() if not torch.isfinite(file.get_tensor(k)).all()]

    names: list[str] = facts.remembered("not finite", [path], read, on_disk=_large(path))
    return names


def regular(path: Path, mend: str) -> int:
    """The size of a file. Raises :class:`FamilyError` where it is missing, or a pipe or a device."""
    try:
        return check_regular(path)
    except FileNotFoundError:
        raise MissingFile(f"{path} is missing. {mend}") from None
    except OSError as error:
        raise FamilyError(f"{path} cannot be read: {error.strerror}. {mend}") from None


@contextlib.contextmanager
def _opened(path: Path, mend: str) -> Iterator[Any]:
    regular(path, mend)
    try:
        file = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise FamilyError(f"{path} cannot be read as safetensors ({error}); truncated, or not one. {mend}") from None
    with file:
        yield file


def _differ(missing: set[str], extra: set[str]) -> str:
    def some(names: set[str]) -> str:
        return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    lists = (("missing keys", missing), ("extra keys", extra))
    return "; ".join(f"{label} {some(names)}" for label, names in lists if names)


def remedy(folder: Path) -> str:
    """What to type where a family's folder is not what it should be."""
    if any(root in folder.resolve().parents for root in EMBEDDED):
        return f"To restore it: git checkout -- {folder.resolve().relative_to(ROOT)}"
    return (
        "Check --family, --backbone and --checkpoints, or import them: "
        "symerge-bench assets checkpoints import FAMILY PATH --backbone BACKBONE (see assets checkpoints --help)"
    )
