"""A user's model as it lies on the disk: its tensors by name, read one at a time, and what is needed to write it again.

A file of safetensors or of ``torch.save`` (a state dict, one under ``state_dict`` or ``model``, or a pickled module),
or a folder as transformers writes it, whole or in shards (``files``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import (
    READ,
    Weights,
    check_shard,
    index_of,
    plain_names,
    read_json,
    unreadable,
    weights,
)
from benchmark.checkpoints.pickles import Opened
from benchmark.checkpoints.stand_ins import TensorRef
from benchmark.common.files import NotRegular, check_regular
from methods.core.states import StateFile

#: What safetensors calls the dtypes that are read.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One tensor: the file that holds it, its name there, its dtype and shape."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of values."""
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return self.numel * self.dtype.itemsize


class LazyState(StateFile):
    """A state dict whose tensors are read when they are asked for, in the dtype they are stored in, and not kept."""

    def __init__(self, places: dict[str, Place], files: dict[Path, _File]) -> None:
        self.places, self._files = places, files
        self.shapes = {name: place.shape for name, place in places.items()}
        self.floating = {name for name, place in places.items() if place.dtype.is_floating_point}
        self.metadata = {}

    def __getitem__(self, name: str) -> Tensor:
        place = self.places[name]
        return self._files[place.file].read(place.name)

    def named(self, names: dict[str, str]) -> LazyState:
        """The tensors of ``{new name: name}`` alone."""
        return LazyState({new: self.places[old] for new, old in names.items()}, self._files)


class _File:
    """One file of tensors. Raises :class:`FamilyError` where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.key = self.module = ""
        self.shared: list[tuple[str, ...]] = []
        self._opened: Opened | None = None
        if path.suffix == ".safetensors":
            self.places = self._safetensors()
        else:
            self._opened = Opened(path)
            self.key, self.module = self._opened.key, self._opened.state.classes.get("", "")
            self.places = {n: Place(path, n, r.storage.dtype, r.size) for n, r in self._opened.refs.items()}
            self.shared = _shared(self._opened.refs)
        if odd := next((place for place in self.places.values() if place.dtype not in READ), None):
            raise FamilyError(f"{path}: {odd.name} is {odd.dtype}, which is not merged; save it as float32 or bfloat16")

    def _safetensors(self) -> dict[str, Place]:
        try:
            check_regular(self.path)
            self._handle = safe_open(str(self.path), "pt")
            pieces = {name: self._handle.get_slice(name) for name in self._handle.keys()}
            self.metadata = dict(self._handle.metadata() or {})
        except FileNotFoundError:
            raise FamilyError(f"{self.path} does not exist") from None
        except NotRegular as error:
            raise FamilyError(f"{self.path} cannot be read: {error.strerror}") from None
        except (SafetensorError, OSError) as error:
            raise unreadable(self.path, error) from None
        places = {}
        for name, piece in pieces.items():
            kind = piece.get_dtype()
            if kind not in DTYPES:
                raise FamilyError(
                    f"{self.path}: {name} is {kind}, which is not merged; save it as float32, bfloat16 or float16"
                )
            places[name] = Place(self.path, name, DTYPES[kind], tuple(piece.get_shape()))
        return places

    def read(self, name: str) -> Tensor:
        """One tensor."""
        if self._opened is not None:
            return self._opened.read([name])[name]
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor


def _shared(refs: dict[str, TensorRef]) -> list[tuple[str, ...]]:
    """Names of one tensor: the same part of the same storage."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, ref in refs.items():
        groups.setdefault((id(ref.storage), ref.offset, ref.size, ref.stride), []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


@dataclass(frozen=True)
class Model:
    """A model on the disk.

    Attributes:
        path: as it was named.
        weights: its files.
        state: ``{name: tensor}`` under the names that the model has by itself, read lazily.
        stored: ``{file: {stored name: name}}`` in the order of the files.
        config: ``config.json``, of a folder that has one.
        shared: groups of names that are one tensor in the file.
        key: the entry of the file under which the state dict lies, ``""`` for none.
        module: the class of a pickled module, ``""`` for a state dict.
    """

    path: Path
    weights: Weights
    state: LazyState
    stored: dict[Path, dict[str, str]]
    config: dict[str, Any] = field(default_factory=dict)
    shared: list[tuple[str, ...]] = field(default_factory=list)
    key: str = ""
    module: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The folder of a model that is one."""
        return self.path if self.path.is_dir() else None

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of its file, or of the hashes of its files."""
        return self.weights.sha256()

    @property
    def tied(self) -> bool:
        """Whether its configuration says that input and output embeddings are one tensor."""
        nested = [value for value in self.config.values() if isinstance(value, dict)]
        return any(part.get("tie_word_embeddings") is True for part in (self.config, *nested))


def open_model(path: Path | str) -> Model:
    """Open a model; no tensor is read yet.

    Raises:
        FamilyError: no model there, two of them, a file that is missing, damaged or of another kind, an adapter.
    """
    path = Path(path)
    files = weights(path)
    if files.adapter:
        raise FamilyError(f"{path} is an adapter, not a whole model; expected the base model's file or folder")
    opened = {file: _File(file) for file in files.files}
    if files.about is not None:
        _check_index(files, opened)
    stored_names = [name for file in opened.values() for name in file.places]
    plain = plain_names(stored_names)
    stored = {file: {name: plain[name] for name in content.places} for file, content in opened.items()}
    places = {plain[name]: place for content in opened.values() for name, place in content.places.items()}
    config = path / "config.json"
    first = next(iter(opened.values()))
    return Model(
        path=path,
        weights=files,
        state=LazyState(places, opened),
        stored=stored,
        config=read_json(config) if path.is_dir() and config.is_file() else {},
        shared=[tuple(plain[name] for name in group) for content in opened.values() for group in content.shared],
        key=first.key,
        module=first.module,
        metadata=first.metadata,
    )


def _check_index(files: Weights, opened: dict[Path, _File]) -> None:
    """Raises :class:`FamilyError` where an index and its shards differ, or two shards hold one tensor."""
    assert files.about is not None
    index, seen = index_of(files.about), dict[str, Path]()
    for path, content in opened.items():
        check_shard(path, content.places, index, files.about.name)
        for name in content.places:
            if name in seen:
                raise FamilyError(f"{path} and {seen[name].name} both hold {name}: they are not of one model")
            seen[name] = path
