"""A model's folder written tensor by tensor, as the base's is laid out: names, dtypes, shards, and the files beside.

safetensors itself writes a dictionary that is in memory; here the header is written first, from the base's own, and
each tensor when it is there, so that a model of any size takes the memory of one tensor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from benchmark.checkpoints.families import FamilyError
from benchmark.checkpoints.files import INDEX
from benchmark.checkpoints.models import DTYPES, Model

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8
#: Files of a model's folder that say how it is used: settings, vocabularies, processors, the licence.
_BESIDE = {".json", ".txt", ".model", ".jinja", ".md"}
#: What a configuration calls the dtype of weights.
_DTYPE_KEYS = ("dtype", "torch_dtype")
_NOT_BESIDE = (INDEX, "adapter_config.json", "README.md", "training_args.json", "trainer_state.json", "merge.json")


class StateWriter:
    """A safetensors file whose tensors are written one after another, in any order, each once.

    Args:
        path: the file, which is made anew.
        layout: ``{name: (dtype, shape)}``, in the order of the file.
        metadata: of the header.

    Raises:
        ValueError: on leaving, where a tensor was not written; while writing, for one of another dtype or shape.
    """

    def __init__(
        self,
        path: Path,
        layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.layout = path, dict(layout)
        # As safetensors lays them out, the widest first, so that each begins at a multiple of its width.
        order = sorted(self.layout, key=lambda name: -self.layout[name][0].itemsize)
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._starts, start = {}, 0
        for name in order:
            dtype, shape = self.layout[name]
            end = start + torch.Size(shape).numel() * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
            self._starts[name], start = start, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._data = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data + start)

    def write(self, name: str, value: Tensor) -> None:
        """Put one tensor in its place."""
        dtype, shape = self.layout[name]
        if value.dtype != dtype or tuple(value.shape) != shape:
            raise ValueError(
                f"{name} is {value.dtype} {tuple(value.shape)}, its place in {self.path.name} {dtype} {shape}"
            )
        self._file.seek(self._data + self._starts.pop(name))
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            self._file.write(flat.view(torch.uint8).numpy().data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._starts:
            raise ValueError(f"{len(self._starts)} tensors of {self.path.name} were not written")


def write_like(
    base: Model,
    out: Path,
    pieces: Iterable[Mapping[str, Tensor]],
    dtype: torch.dtype | None = None,
) -> list[Path]:
    """Write a model in the layout of ``base`` into the folder ``out``.

    Args:
        pieces: ``{name: tensor}`` of the tensors that are new, a few at a time, each name once; the base's others are
            copied. Tensors are rounded once, to what the base has there.
        dtype: for the floating tensors, instead of the base's own.

    Returns:
        The files of weights.

    Raises:
        FamilyError: a layout that cannot be written again.
    """
    places = base.state.places

    def target(name: str) -> torch.dtype:
        kind = places[name].dtype
        return dtype if dtype is not None and kind.is_floating_point else kind

    shards = {file: _output_name(base, file) for file in base.stored}
    written = set[str]()
    if _is_torch(base):
        return [_write_torch(base, out / next(iter(shards.values())), pieces, target)]
    writers = {
        file: StateWriter(
            out / shards[file],
            {stored: (target(name), places[name].shape) for stored, name in names.items()},
            base.metadata or {"format": "pt"},
        )
        for file, names in base.stored.items()
    }
    stored = {name: old for names in base.stored.values() for old, name in names.items()}
    try:
        for piece in pieces:
            for name, value in piece.items():
                writers[places[name].file].write(stored[name], value.to(target(name)))
                written.add(name)
        for name, place in places.items():
            if name not in written:
                writers[place.file].write(stored[name], base.state[name].to(target(name)))
    except BaseException as error:
        for writer in writers.values():
            writer.__exit__(type(error), error, None)
        raise
    for writer in writers.values():
        writer.__exit__(None, None, None)
    if base.weights.about is not None:
        _write_index(base, out, shards, target)
    return [out / name for name in shards.values()]


def copy_beside(base: Model, out: Path, dtype: torch.dtype | None = None) -> None:
    """Copy what lies beside the weights of a folder and says how the model is used.

    ``dtype``: that weights were written in, where it is not the base's; the configuration then says it.
    """
    for path in sorted(base.folder.iterdir()) if base.folder else []:
        if path.suffix in _BESIDE and path.is_file() and not path.name.endswith(_NOT_BESIDE):
            shutil.copyfile(path, out / path.name)
    if dtype is not None and base.config:
        said = {key: str(dtype).removeprefix("torch.") for key in _DTYPE_KEYS if key in base.config}
        (out / "config.json").write_text(json.dumps({**base.config, **said}, indent=2) + "\n")


def _is_torch(base: Model) -> bool:
    """Whether the base is one file of ``torch.save`` that no library of the hub loads by its name."""
    return base.folder is None and base.path.suffix != ".safetensors"


def _output_name(base: Model, file: Path) -> str:
    """A folder's pickled shards become safetensors, which transformers loads as well."""
    if _is_torch(base) or file.suffix == ".safetensors":
        return file.name
    return f"{file.stem.replace('pytorch_model', 'model')}.safetensors"


def _write_torch(
    base: Model, path: Path, pieces: Iterable[Mapping[str, Tensor]], target: Callable[[str], torch.dtype]
) -> Path:
    """One file of ``torch.save``: the whole model is in memory, in the types of the file."""
    new = {name: value.to(target(name)) for piece in pieces for name, value in piece.items()}
    [names] = base.stored.values()
    state = {stored: new[n] if n in new else base.state[n].to(target(n)) for stored, n in names.items()}
    for first, *others in base.shared:
        stored = {name: old for old, name in names.items()}
        state.update({stored[other]: state[stored[first]] for other in others})
    if base.key and base.key in ("state_dict", "model"):
        torch.save({base.key: state}, path)
    else:
        torch.save(state, path)
    return path


def _write_index(base: Model, out: Path, shards: Mapping[Path, str], target: Callable[[str], torch.dtype]) -> None:
    weight_map = {old: shards[file] for file, names in base.stored.items() for old in names}
    total = sum(place.numel * target(name).itemsize for name, place in base.state.places.items())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (out / f"model.safetensors{INDEX}").write_text(json.dumps(index, indent=2) + "\n")


def check_layout(base: Model) -> None:
    """Raises :class:`FamilyError` for a pickled module, whose class cannot be written again."""
    if base.module:
        raise FamilyError(
            f"{base.path} is a whole pickled module ({base.module}); a merge is written as a state dict. Where the "
            "class is at hand save torch.save(model.state_dict(), FILE) and give that"
        )
