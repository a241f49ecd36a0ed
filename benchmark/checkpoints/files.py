"""The tensors of a file or of a model's folder: one file, shards with their index, or an adapter with its settings.

transformers writes ``model.safetensors``, or shards ``model-00001-of-00002.safetensors`` with
``model.safetensors.index.json`` that says which holds what; earlier ``pytorch_model.bin`` and the like. PEFT writes
``adapter_model.safetensors`` with ``adapter_config.json``. A folder that holds two of these does not say which one is
the model, and is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark.checkpoints.families import FamilyError, MissingFile, regular, sha256
from benchmark.checkpoints.kinds import OPEN_CLIP_CONFIG, of_bytes
from benchmark.checkpoints.pickles import State, read_state
from benchmark.common.errors import nearest
from benchmark.common.files import NotRegular, check_regular, read_object

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: open_clip's own, which are meant where its configuration lies beside them.
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
ADAPTER_CONFIG = "adapter_config.json"
INDEX = ".index.json"
#: What torch.compile, fully sharded data parallelism and activation checkpoints add to the path of a module.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
READ = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Where a model's tensors lie: ``files``; of shards also the index, of an adapter also its settings (``about``)."""

    files: tuple[Path, ...]
    about: Path | None = None
    adapter: bool = False

    @property
    def name(self) -> Path:
        """The path that stands for all of them in messages and manifests."""
        return self.about if self.about and not self.adapter else self.files[0]

    def sha256(self) -> str:
        """The hash of the one file, or of the hashes of all files that decide the weights."""
        if self.about is None:
            return sha256(self.files[0])
        each = "".join(f"{path.name} {sha256(path)}\n" for path in sorted((*self.files, self.about)))
        return hashlib.sha256(each.encode()).hexdigest()

    def read(self) -> State:
        """All tensors. Raises :class:`FamilyError` for what :func:`read_file` does, and where index and shards differ.

        An adapter's are its own, not the model's.
        """
        if self.about is None or self.adapter:
            return read_file(self.files[0])
        tensors: dict[str, torch.Tensor] = {}
        index, layout = index_of(self.about), ""
        for path in self.files:
            state = _read(path)
            check_shard(path, state.tensors, index, self.about.name)
            tensors, layout = tensors | state.tensors, f"{len(self.files)} shards, {state.layout}"
        return unwrapped(State(tensors, layout=layout))


def weights(source: Path) -> Weights:
    """The weights of a file, or of a model's folder. Raises :class:`FamilyError` where there are none, or two."""
    if not source.is_dir():
        if not os.path.lexists(source) and (near := nearest(source.name, _beside(source))):
            raise MissingFile(f"{source} is missing; did you mean {' or '.join(near)}?")
        regular(source, "Expected a file of weights, or a model's folder on this machine: nothing is downloaded")
        return Weights((source,))
    own = [source / name for name in OPEN_CLIP_WEIGHTS if (source / name).is_file()]
    if own and (source / OPEN_CLIP_CONFIG).is_file():
        return Weights((own[0],))
    files = [source / name for name in WEIGHTS if (source / name).is_file()]
    indexes = [source / f"{name}{INDEX}" for name in WEIGHTS if (source / f"{name}{INDEX}").is_file()]
    adapters = [source / name for name in ADAPTERS if (source / name).is_file()]
    config = source / ADAPTER_CONFIG
    if adapters and (files or indexes):
        held = (files or indexes)[0].name
        raise FamilyError(
            f"{source} holds an adapter ({adapters[0].name}) and a whole model ({held}); keep one of them there"
        )
    if adapters:
        if not config.is_file():
            raise FamilyError(f"{adapters[0]} is an adapter without {ADAPTER_CONFIG}, which has its scale; fetch both")
        return Weights((adapters[0],), config, adapter=True)
    if indexes and files and (files[0].name == WEIGHTS[0] or indexes[0].name == f"{files[0].name}{INDEX}"):
        raise FamilyError(
            f"{source} holds {files[0].name} beside shards ({indexes[0].name}), which may be another model's; keep one "
            "of them there"
        )
    if indexes:
        return _shards(indexes[0])
    if files:
        return Weights((files[0],))
    if loose := _loose(source):
        missing = next(f"{name}{INDEX}" for name in WEIGHTS if loose[0].startswith(Path(name).stem))
        raise FamilyError(f"{source} holds shards ({loose[0]}, ...) without {missing}; fetch it too")
    if config.is_file():
        raise FamilyError(f"{source} holds {ADAPTER_CONFIG} without {ADAPTERS[0]}; fetch it too")
    known = ", ".join((*WEIGHTS, ADAPTERS[0], OPEN_CLIP_WEIGHTS[0]))
    raise FamilyError(f"{source} holds none of {known}; expected a model of the hub")


def _beside(path: Path) -> list[str]:
    """The names of what lies where a missing path is said to be."""
    try:
        return [each.name for each in path.parent.iterdir()]
    except OSError:
        return []


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's weights in some form, be they whole or not."""
    names = (*WEIGHTS, *ADAPTERS, ADAPTER_CONFIG, *(f"{name}{INDEX}" for name in WEIGHTS))
    return any((folder / name).is_file() for name in names) or bool(_loose(folder))


def _loose(folder: Path) -> list[str]:
    """Names of shards, with or without their index."""
    return sorted(path.name for name in WEIGHTS for path in folder.glob(f"{Path(name).stem}-*-of-*"))


def index_of(path: Path) -> dict[str, str]:
    """``{tensor: file}`` of an index. Raises :class:`FamilyError`; files are names without a folder."""
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise FamilyError(f"{path} has no weight_map of tensors and files; fetch it again")
    if outside := [file for file in table.values() if Path(file).name != file or file in ("", ".", "..")]:
        raise FamilyError(f"{path} names {outside[0]!r}, which is no file beside it")
    return table


def check_shard(path: Path, names: Iterable[str], index: Mapping[str, str], about: str) -> None:
    """Raises :class:`FamilyError` where a shard holds other tensors than its index, called ``about``, says."""
    said = {name for name, file in index.items() if file == path.name}
    if wrong := sorted(said ^ set(names)):
        raise FamilyError(
            f"{path} and {about} differ in {', '.join(wrong[:3])}: they are not of one model; fetch both again"
        )


def _shards(index: Path) -> Weights:
    names = sorted(set(index_of(index).values()))
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise FamilyError(f"{index.parent} lacks {len(absent)} of {len(names)} shards, e.g. {absent[0]}; fetch them")
    return Weights(tuple(index.parent / name for name in names), index)


def read_json(path: Path) -> dict[str, Any]:
    """An object in JSON. Raises :class:`FamilyError`."""
    try:
        return read_object(path)
    except OSError as error:
        raise FamilyError(f"{path} cannot be read: {error.strerror}; fetch it again") from None
    except ValueError as error:
        raise FamilyError(f"{path} is no settings in JSON ({error}); fetch it again") from None


def read_file(path: Path) -> State:
    """The tensors of a safetensors file or of a PyTorch checkpoint, without the names of wrappers.

    Raises :class:`FamilyError`: what the readers raise, or a dtype that is not merged.
    """
    return unwrapped(_read(path))


def _read(path: Path) -> State:
    if path.suffix != ".safetensors":
        return read_state(path)
    try:
        check_regular(path)
        state = State(load_file(path), layout="safetensors")
    except FileNotFoundError:
        raise FamilyError(f"{path} does not exist") from None
    except NotRegular as error:
        raise FamilyError(f"{path} cannot be read: {error.strerror}") from None
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None
    if odd := [name for name, value in state.tensors.items() if value.dtype not in READ]:
        dtype = str(state.tensors[odd[0]].dtype).removeprefix("torch.")
        raise FamilyError(f"{path}: {odd[0]} is {dtype}, which is not merged; save it as float32, bfloat16 or float16")
    return state


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """The names that a model's tensors have by itself, ``{stored: plain}``, without those that a wrapper gave them.

    ``module.`` goes where all tensors have it (DataParallel and DistributedDataParallel), :data:`WRAPPERS` anywhere.
    """
    plain = {name: [part for part in name.split(".") if part not in WRAPPERS] for name in names}
    outer = _outer(plain)
    short = {name: ".".join(parts[outer:]) for name, parts in plain.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in plain}


def _outer(paths: Mapping[str, Sequence[str]]) -> int:
    """How often all names begin with ``module``."""
    outer = 0
    while paths and all(len(parts) > outer + 1 and parts[outer] == "module" for parts in paths.values()):
        outer += 1
    return outer


def unreadable(path: Path, error: Exception) -> FamilyError:
    """The error for a file that is no whole safetensors file: what it is, if that can be told."""
    with path.open("rb") as file:
        kind = of_bytes(file.read(64), safetensors=True)
    said = f"it is {kind.what}; {kind.mend}" if kind else f"{error}; fetch it again"
    return FamilyError(f"{path} cannot be read as safetensors: {said}")


def unwrapped(state: State) -> State:
    """``state`` with the names its model has by itself (:func:`plain_names`), of its parts too."""
    names = plain_names(state.tensors)
    if all(name == new for name, new in names.items()):
        return state
    outer = _outer({name: [part for part in name.split(".") if part not in WRAPPERS] for name in state.tensors})

    def inside(values: Mapping[str, Any]) -> dict[str, Any]:
        paths = {path: [part for part in path.split(".") if part and part not in WRAPPERS] for path in values}
        inner = {path: parts for path, parts in paths.items() if parts[:outer] == ["module"] * outer}
        return {".".join(parts[outer:]): values[path] for path, parts in inner.items()}

    return replace(
        state,
        tensors={names[name]: value for name, value in state.tensors.items()},
        classes=inside(state.classes),
        attributes=inside(state.attributes),
    )
