"""The state dict of a pickled module, read off what stands for it: names as PyTorch gives them, and its classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmark.checkpoints.stand_ins import Inert, TensorRef
from benchmark.common.untrusted import Excess

#: Modules, tensors and numbers of a pickled module, and the length of a path to one: shared parts count each time.
MOST_PARTS, LONGEST_PATH, DEEPEST = 200_000, 500, 50


@dataclass
class State:
    """A state dict, and what a pickled module says beyond it.

    ``classes`` maps the path of every part to its class (``""`` is the module itself; empty for a plain state dict),
    ``attributes`` the path of plain numbers and truths of modules to their values, ``layout`` says how it was stored.
    """

    tensors: dict[str, Tensor]
    classes: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, bool | int | float] = field(default_factory=dict)
    layout: str = ""


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else ()


def described(value: Any) -> str:
    """What a checkpoint holds in the place of a state dict, and where in it there are tensors."""
    if isinstance(value, (Inert, TensorRef)):
        return value.of if isinstance(value, Inert) else "a single tensor"
    held = value.items() if isinstance(value, Mapping) else ()
    parts = [str(k) for k, v in held if isinstance(v, Inert) or any(isinstance(t, TensorRef) for t in _values(v))]
    return f"{type(value).__name__}{' with tensors under ' + ', '.join(parts[:4]) if parts else ''}"


def walk(module: Inert, prefix: str, refs: dict[str, TensorRef], contents: State, left: list[int]) -> None:
    """Put a module's tensors into ``refs`` and all else into ``contents``, its parts' too, each under its path.

    ``left``: how many parts may still follow. Raises :class:`Excess`.
    """
    state = module.state if isinstance(module.state, Mapping) else {}
    tables = {kind: _table(state.get(kind)) for kind in ("_parameters", "_buffers", "_modules")}
    left[0] -= 1 + len(state) + sum(map(len, tables.values()))
    if left[0] < 0 or prefix.count(".") > DEEPEST or len(prefix) > LONGEST_PATH:
        raise Excess(f"a pickled module with more than {MOST_PARTS:,} parts, or with parts within themselves")
    contents.classes[prefix.removesuffix(".")] = module.of
    for name, value in state.items():
        if isinstance(value, (bool, int, float)) and not str(name).startswith("_"):
            contents.attributes[f"{prefix}{name}"] = value
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in tables[kind].items():
            if isinstance(value, TensorRef) and not (kind == "_buffers" and name in hidden):
                refs[f"{prefix}{name}"] = value
    for name, part in tables["_modules"].items():
        if isinstance(part, Inert):
            walk(part, f"{prefix}{name}.", refs, contents, left)


def _table(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
