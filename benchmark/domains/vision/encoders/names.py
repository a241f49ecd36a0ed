"""A library's model under the names that a checkpoint gives its tensors.

Libraries rename: ``vit.`` stands before the names of one file and not of another, transformers 5 calls ``q_proj``
what files call ``attention.query``. Methods merge, and users load, tensors by the names of their files; so the module
that is run has these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from benchmark.common.errors import UserError

#: Where parts stand that hold nothing of a checkpoint, such as tables of positions.
BESIDE = "beside_the_checkpoint"
#: The tables of a module that a part under another name shares with it.
_SHARED = ("_parameters", "_buffers", "_non_persistent_buffers_set")


def aligned(wanted: Iterable[str], stored: Iterable[str]) -> dict[str, str]:
    """``{wanted name: stored name}`` of all wanted ones, under one prefix that stands before these or before those.

    Empty where no prefix brings all of them together. Raises :class:`UserError` where several do.
    """
    names, there = list(wanted), set(stored)
    if not names or all(name in there for name in names):
        return {name: name for name in names}
    probe = max(names, key=len)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name in there:
        if name.endswith(f".{probe}"):
            found[name.removesuffix(probe), ""] = {}
        elif probe.endswith(f".{name}"):
            found["", probe.removesuffix(name)] = {}
    whole = {}
    for before, cut in found:
        pairs = {name: before + name.removeprefix(cut) for name in names}
        if all(name.startswith(cut) for name in names) and there.issuperset(pairs.values()):
            whole[before, cut] = pairs
    if len(whole) > 1:
        listed = " and ".join(sorted(before.rstrip(".") or "the top" for before, _ in whole))
        raise UserError(
            f"the checkpoint holds this encoder more than once, under {listed}", "Save the one that is meant alone."
        )
    return next(iter(whole.values()), {})


class Renamed(nn.Module):
    """A model whose parts stand where a checkpoint's names say; it computes what ``read`` reads off the model.

    The parts are the model's own, so that a tensor put in here is the one that the model uses, and a layer found by its
    name here is the one that runs.

    Args:
        model: the library's, in the state that it is to be run in.
        names: ``{name of the model's tensor: name of the checkpoint's}``, of all tensors of the model's state dict.
        read: ``read(model, images)`` gives features; a function that pickle knows by its name.

    Raises:
        UserError: where the checkpoint joins or splits what one layer of the model holds.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str], read: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self._model, self._read = (model,), read  # a tuple, so that its parts are not registered under its own names
        for path, part in model.named_modules():
            own = [name for name in part.state_dict() if "." not in name and f"{path}.{name}".lstrip(".") in names]
            if not own:
                if any(value is not None for value in part._buffers.values()):
                    # Not of the state dict, but of what goes to a device.
                    self._place(f"{BESIDE}.{path}", part)
                continue
            there = {name: names[f"{path}.{name}".lstrip(".")] for name in own}
            places = {stored.removesuffix(name).rstrip(".") for name, stored in there.items()}
            if len(places) > 1 or any(stored.rpartition(".")[2] != name for name, stored in there.items()):
                raise UserError(
                    f"{', '.join(there.values())} of the checkpoint are one layer, {path}, of the library at hand",
                    "Install the version of the library that the checkpoint was saved with.",
                )
            self._place(places.pop(), part)

    def _place(self, path: str, part: nn.Module) -> None:
        at: nn.Module = self
        *above, last = path.split(".")
        for name in above:
            at = _child(at, name)
        if path and last not in at._modules and not any(True for _ in part.children()):
            at.add_module(last, part)
            return
        at = _child(at, last) if path else self
        for table in _SHARED:
            at.__dict__[table] = part.__dict__[table]

    def forward(self, inputs: Any) -> Tensor:
        """Images ``[B, 3, H, W]``, or a tokenizer's batch, as the model takes them -> features ``[B, D]``."""
        return self._read(self._model[0], inputs)


def _child(module: nn.Module, name: str) -> nn.Module:
    if name not in module._modules:
        module.add_module(name, nn.Module())
    child = module._modules[name]
    assert child is not None
    return child
