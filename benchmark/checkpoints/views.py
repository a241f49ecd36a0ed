"""A state dict as places in safetensors files, one or several, each tensor under a name of its own: it can be handed to
another process, and is mapped there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.checkpoints.models import LazyState
from methods.core.states import StateFile


class FileView(StateFile):
    """Some tensors of safetensors files, mapped when they are asked for.

    Args:
        places: ``{name: (file, its name there)}``.
    """

    def __init__(self, places: Mapping[str, tuple[Path, str]]) -> None:
        self.places = {name: (Path(path).absolute(), there) for name, (path, there) in places.items()}
        self._files = files = {path: StateFile(path) for path in dict.fromkeys(p for p, _ in self.places.values())}
        self.path = next(iter(files))
        self.shapes = {name: files[path].shapes[there] for name, (path, there) in self.places.items()}
        self.floating = {name for name, (path, there) in self.places.items() if there in files[path].floating}
        self.metadata: dict[str, str] = {}

    @classmethod
    def of(cls, state: LazyState) -> FileView | None:
        """The view of a model's tensors; None where some are in no safetensors file."""
        if any(place.file.suffix != ".safetensors" for place in state.places.values()):
            return None
        return cls({name: (place.file, place.name) for name, place in state.places.items()})

    def __getitem__(self, name: str) -> Tensor:
        path, there = self.places[name]
        return self._files[path][there]

    def __reduce__(self) -> tuple[Any, ...]:
        return FileView, (self.places,)


def place_of(state: StateFile, name: str) -> tuple[Path, str]:
    """The file of a tensor of a state dict in files, and its name there."""
    return state.places[name] if isinstance(state, FileView) else (state.path, name)
