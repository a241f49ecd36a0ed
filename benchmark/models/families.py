"""Checkpoint families on disk: who trained the base and its experts, and whether the files are what they should be.

A family is a folder::

    manifest.json            sha256, bytes and dtype of every file; shapes; backbone; quick_gelu; classes; how made
    base.safetensors         the base's image tower, keys visual.*
    <Task>.safetensors       one expert per task, the same keys and shapes
    heads/<Task>.safetensors weight [C, D] and bias [C]
    text.safetensors         (the mini family) the text tower and its vocabulary

``load_family`` verifies and returns paths: the caller maps the tensors itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from benchmark.data import facts
from benchmark.models.backbones import Backbone, create_encoder, get_backbone
from benchmark.models.heads import ClassificationHead
from benchmark.paths import in_home, of_variable, resolved

MINI = Path(__file__).parent / "mini"
FLOATING = {"F16", "BF16", "F32", "F64"}


class FamilyError(ValueError):
    """A family folder that is not what it should be: what was found, what was expected, what to type."""


class _File(BaseModel):
    """What a manifest must say of a file."""

    model_config = ConfigDict(strict=True)
    sha256: str
    bytes: int
    dtype: str = ""


class _Manifest(BaseModel):
    """What a family's manifest must say; more may stand in it."""

    model_config = ConfigDict(strict=True)
    name: str
    backbone: str
    quick_gelu: bool
    classes: dict[str, list[str]]
    files: dict[str, _File]


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


def checkpoint_folder(family: str, backbone: str, root: str | os.PathLike | None = None) -> Path:
    """Where a family's files for a backbone lie: ``ROOT/FAMILY/BACKBONE``.

    The root is else ``$SYMERGE_CHECKPOINTS``, else ``~/.cache/symerge-bench/checkpoints``. Raises UserError for a user
    without a home folder.
    """
    chosen = resolved(root) if root is not None else of_variable("SYMERGE_CHECKPOINTS")
    found = chosen or in_home("checkpoints", instead="Type --checkpoints DIR (or set SYMERGE_CHECKPOINTS).")
    return found / family / backbone


def load_family(folder: str | Path, backbone: str | Backbone, tasks: Sequence[str], *, verify: bool = True,
                class_counts: Mapping[str, int] | None = None) -> Family:
    """The base, experts and heads of ``tasks`` in ``folder``, checked against the manifest and the backbone.

    Args:
        folder: a family folder with ``manifest.json``.
        backbone: the architecture the weights must fit.
        tasks: whose experts are wanted; other files are not read.
        verify: hash each file and look for NaN and Inf. Once per file: an unchanged one (`benchmark.data.facts`) is
            not read again, a large one not by later processes either. Names, shapes and dtypes are always checked,
            from the file's header.
        class_counts: classes each head must have, where the caller knows.

    Raises:
        FamilyError: a missing, truncated or altered file, missing or extra keys, a wrong shape, dtype or class count,
            NaN or Inf.
    """
    folder, backbone = Path(folder), get_backbone(backbone)
    manifest = read_manifest(folder)
    mend = _mend(folder)
    if manifest["backbone"] != backbone.name:
        raise FamilyError(f"{folder} holds {manifest['backbone']} weights; asked for {backbone.name}. "
                          f"Type --backbone {manifest['backbone']}, or give another --family")
    known = [n.removesuffix(".safetensors") for n in manifest["files"] if "/" not in n]
    absent = [t for t in tasks if t not in known]
    if absent:
        raise FamilyError(f"{folder} has no expert for {', '.join(absent)}; it has "
                          f"{', '.join(k for k in known if k not in ('base', 'text'))}. {mend}")
    if "base" not in known:
        raise FamilyError(f"{folder}/manifest.json names no base.safetensors. {mend}")
    expected = {k: tuple(v.shape) for k, v in create_encoder(backbone, device="meta").state_dict().items()}
    names = ["base.safetensors", *(f"{t}.safetensors" for t in tasks)]
    heads: dict[str, ClassificationHead] = {}
    for name in names:
        check_file(folder / name, expected, manifest["files"][name], verify=verify, mend=mend)
    for task in tasks:
        name = f"heads/{task}.safetensors"
        if name not in manifest["files"]:
            raise FamilyError(f"{folder}/manifest.json names no {name}. {mend}")
        wanted = (class_counts or {}).get(task) or len(manifest["classes"].get(task, ()))
        if not wanted:
            raise FamilyError(f"{folder}/manifest.json names no classes of {task}. {mend}")
        shapes = {"weight": (wanted, backbone.embed_dim), "bias": (wanted,)}
        check_file(folder / name, shapes, manifest["files"][name], verify=verify, mend=mend)
        tensors = load_file(folder / name)
        heads[task] = ClassificationHead(tensors["weight"].float(), tensors["bias"].float())
    files = [*names, *(f"heads/{t}.safetensors" for t in tasks)]
    return Family(name=manifest["name"], folder=folder, base=folder / names[0],
                  experts={t: folder / f"{t}.safetensors" for t in tasks}, heads=heads,
                  hashes={n: manifest["files"][n]["sha256"] for n in files}, manifest=manifest)


def load_embedded(family: str, backbone: str, tasks: Sequence[str], *,
                  class_counts: Mapping[str, int] | None = None) -> Family:
    """The committed family of this name: ``mini``, or ``mini-NAME``, whose experts come from two bases.

    Of ``mini-NAME`` the experts in the folder ``BACKBONE-NAME`` were fine-tuned from the base there, each under that
    base's head; the base and all other experts are those of ``mini``. Their hashes go by folder and file name.

    Raises:
        FamilyError: as :func:`load_family`.
    """
    whole = MINI / backbone
    if family == "mini":
        return load_family(whole, backbone, tasks, class_counts=class_counts)
    other = second_base(family, backbone)
    theirs = read_manifest(other)["classes"]
    own = load_family(whole, backbone, [t for t in tasks if t not in theirs], class_counts=class_counts)
    added = load_family(other, backbone, [t for t in tasks if t in theirs], class_counts=class_counts)
    experts, heads = own.experts | added.experts, own.heads | added.heads
    return replace(own, name=family, experts={t: experts[t] for t in tasks}, heads={t: heads[t] for t in tasks},
                   hashes=own.hashes | {f"{other.name}/{name}": known for name, known in added.hashes.items()})


def second_base(family: str, backbone: str) -> Path:
    """The folder of the second base of a committed family ``mini-NAME``, with the experts fine-tuned from it."""
    return MINI / f"{backbone}-{family.removeprefix('mini-')}"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """``manifest.json`` of a family folder. Raises :class:`FamilyError`."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FamilyError(f"{path} does not exist. {_mend(Path(folder))}") from None
    except ValueError as error:
        raise FamilyError(f"{path} is not JSON ({error}). {_mend(Path(folder))}") from None
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, wrong["loc"])) or "it"
        said = f" lacks {where}" if wrong["type"] == "missing" else f": {where}: {wrong['msg']}"
        raise FamilyError(f"{path}{said}. {_mend(Path(folder))}") from None
    return manifest


def check_file(path: Path, expected: Mapping[str, tuple[int, ...]], entry: Mapping[str, Any] | None = None, *,
               verify: bool = True, mend: str = "") -> None:
    """Raise :class:`FamilyError` unless ``path`` is a safetensors file with exactly these keys and shapes.

    ``entry`` is the file's manifest entry (``sha256``, ``bytes``, ``dtype``); ``verify`` reads the whole file: hash,
    NaN and Inf.
    """
    if not path.is_file():
        raise FamilyError(f"{path} is missing. {mend}")
    size = path.stat().st_size
    if entry and size != entry["bytes"]:
        kind = "truncated" if size < entry["bytes"] else "another file"
        raise FamilyError(f"{path} has {size} bytes, the manifest says {entry['bytes']} ({kind}). {mend}")
    if entry and verify and (found := sha256(path)) != entry["sha256"]:
        raise FamilyError(f"{path} has sha256 {found}, the manifest says {entry['sha256']}. {mend}")
    with _opened(path, mend) as file:
        keys = set(file.keys())
        if keys != set(expected):
            raise FamilyError(f"{path}: {_differ(set(expected) - keys, keys - set(expected))}. {mend}")
        for name, shape in expected.items():
            piece = file.get_slice(name)
            if tuple(piece.get_shape()) != tuple(shape):
                raise FamilyError(f"{path}: {name} is {list(piece.get_shape())}, expected {list(shape)}. {mend}")
            allowed = set(entry["dtype"].split("+")) if entry and "dtype" in entry else FLOATING
            if piece.get_dtype() not in allowed:
                raise FamilyError(f"{path}: {name} is {piece.get_dtype()}, expected {' or '.join(sorted(allowed))}. "
                                  f"{mend}")
    if verify and (bad := _not_finite(path)):
        raise FamilyError(f"{path}: NaN or Inf in {', '.join(bad[:3])}{' and more' if len(bad) > 3 else ''}; "
                          f"a merge would spread it. {mend}")


def sha256(path: str | Path) -> str:
    """The file's sha256 as hex; an unchanged file's is remembered (`benchmark.data.facts`), large ones' on disk."""
    return facts.sha256(Path(path), kept=_large(Path(path)))


def save_state(path: str | Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None,
               metadata: dict[str, str] | None = None) -> Path:
    """Write safetensors atomically; floating tensors are cast to ``dtype`` if given. Same tensors, same bytes."""
    path = Path(path)
    ready = {k: (v.detach().to(dtype) if dtype is not None and v.is_floating_point() else v.detach()).cpu().contiguous()
             for k, v in sorted(tensors.items())}
    with replacing(path) as temporary:
        save_file(ready, temporary, metadata=metadata)
    return path


def save_json(path: str | Path, content: Any) -> Path:
    """Write indented JSON atomically."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of ``path`` on success: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def describe_files(folder: str | Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The manifest's ``files`` for these names: sha256, bytes, floating dtype and number of values of each."""
    described = {}
    for name in names:
        path = Path(folder) / name
        with _opened(path, "") as file:
            pieces = {k: file.get_slice(k) for k in file.keys()}
            dtypes = {p.get_dtype() for p in pieces.values() if p.get_dtype() in FLOATING}
            values = sum(torch.Size(p.get_shape()).numel() for p in pieces.values())
        described[name] = {"sha256": sha256(path), "bytes": path.stat().st_size, "dtype": "+".join(sorted(dtypes)),
                           "values": values}
    return described


#: Facts of files from this size on are remembered on disk too: twenty experts of ViT-L-14 are 24 GB to read.
LARGE = 1 << 24


def _large(path: Path) -> bool:
    return path.stat().st_size >= LARGE


def _not_finite(path: Path) -> list[str]:
    def read() -> list[str]:
        with _opened(path, "") as file:
            return [k for k in file.keys() if not torch.isfinite(file.get_tensor(k)).all()]

    found: list[str] = facts.remembered("not finite", [path], read, kept=_large(path))
    return found


@contextlib.contextmanager
def _opened(path: Path, mend: str) -> Iterator[Any]:
    try:
        file = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise FamilyError(f"{path} cannot be read as safetensors ({error}); truncated, or not one. {mend}") from None
    with file:
        yield file


def _differ(missing: set[str], extra: set[str]) -> str:
    def some(names: set[str]) -> str:
        return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    found = (("missing keys", missing), ("extra keys", extra))
    return "; ".join(f"{label} {some(names)}" for label, names in found if names)


def _mend(folder: Path) -> str:
    if MINI in folder.resolve().parents:
        return f"To restore it: git checkout -- {folder.resolve().relative_to(MINI.parents[2])}"
    return ("Check --family, --backbone and --checkpoints, or import them: "
            "symerge-bench assets checkpoints import FAMILY PATH --backbone BACKBONE (see assets checkpoints --help)")
