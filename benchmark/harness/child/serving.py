"""A saved merge as it is served: its models, and what they need: bytes to keep, and whether the task must be known.

Both are worked out of the models themselves. What a method claims of them can only add to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from benchmark.records.precision import Precision
from benchmark.suites.bench import resolve_dtype
from methods.api import Experts, Merged

Note = Callable[[], None]
#: What may be asked of a tensor without needing its numbers.
OUTLINE = frozenset(
    [Tensor.size, Tensor.dim, Tensor.numel, Tensor.element_size, Tensor.is_floating_point, Tensor.stride,
     *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad", "layout"))]
)  # fmt: skip


class Serving:
    """The models of a saved merge of these experts, one task at a time."""

    def __init__(self, path: Path, experts: Experts, precision: Precision) -> None:
        self.merged, self.dtype = Merged.load(path, experts), resolve_dtype(precision.dtype)
        self._task, self._model = "", nn.Module()

    def model(self, task: str) -> nn.Module:
        """The model of one task, in the precision of the run."""
        if task != self._task:
            self._model = self.merged.model(task).to(self.merged.experts.device, self.dtype).eval()
            self._task = task
        return self._model

    def needs(self, probes: Mapping[str, Any]) -> tuple[int, bool]:
        """Bytes to keep beyond one float32 model and the heads, and whether more than the head hangs on the task id.

        Args:
            probes: ``{task: inputs}`` on the device, on which models put together for another task are compared.
        """
        merged, reads = self.merged, Reads(self.merged.experts)
        varies = bool(merged.layers) or any(owner != "all" for owner in merged.statistics)
        lacking = left_to_base(merged) if merged.rule is None else set()
        if merged.rule is not None:
            first: Mapping[str, Tensor] | None = None
            for task in merged.experts.tasks:
                with reads.noted():
                    state = reads.plain(merged.rule(merged, task))
                lacking |= set(merged.experts.names).difference(state, merged.layers.get(task, {}))
                varies = varies or (first is not None and not _same(first, state))
                first = state if first is None else first
        if merged.wrap is not None:
            for task in merged.experts.tasks:
                with reads.noted():
                    merged.wrap(merged, task, _bare(merged, task))
            varies = varies or merged.needs_task or self._hangs_on_task(probes)
        several = len(merged.experts.tasks) > 1
        return storage(merged, reads.base | lacking, reads.experts), several and (varies or merged.needs_task)

    def _hangs_on_task(self, probes: Mapping[str, Any]) -> bool:
        """Whether what is put around a model does other things where it is told another task."""
        merged, tasks = self.merged, self.merged.experts.tasks
        assert merged.wrap is not None
        for task, other in zip(tasks, tasks[1:] + tasks[:1], strict=True):
            if task == other or task not in probes:
                continue
            outputs = []
            for told in (task, other):
                model = merged.wrap(merged, told, _bare(merged, task)).to(merged.experts.device).eval()
                with torch.no_grad():
                    outputs.append(model(probes[task]))
            if outputs[0].shape != outputs[1].shape or not torch.allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-4):
                return True
        return False


def left_to_base(merged: Merged) -> set[str]:
    """The tensors that some task takes from the base, of a merge without a rule."""
    own = [merged.layers.get(task, {}) for task in merged.experts.tasks]
    return {n for n in merged.experts.names if n not in merged.shared and not all(n in layers for layers in own)}


def storage(merged: Merged, base: set[str], experts: set[tuple[str, str]]) -> int:
    """Bytes beyond one float32 model: what is stored and used, and the tensors of base and experts that are needed.

    A tensor that is there twice, under two names or as the base's, counts once. Without a rule or modules around the
    model nothing uses what a merge keeps as ``extra``. A claim of more stands.
    """
    given, used = merged.experts, merged.rule is not None or merged.wrap is not None
    distinct = Distinct()
    for name in base:
        distinct.add(given.base[name].float())
    for name, value in merged.tensors():
        if name.startswith(("head/", "statistics/all/")) or (name.startswith("extra/") and not used):
            continue
        distinct.add(value)
    whole = distinct.nbytes + sum(4 * given.expert(task)[name].numel() for task, name in experts)
    return max(0, whole - given.nbytes(), merged.storage)


class Distinct:
    """Bytes of tensors, those of equal content counted once."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._alike: dict[tuple[Any, ...], list[Tensor]] = {}

    def add(self, value: Tensor) -> None:
        flat = value.detach().reshape(-1)
        ends = torch.cat([flat[:16], flat[-16:]]).to("cpu", torch.float64).tolist()
        alike = self._alike.setdefault((value.dtype, value.shape, *ends), [])
        if not any(torch.equal(each, value) for each in alike):
            alike.append(value)
            self.nbytes += value.numel() * value.element_size()


class Reads:
    """Which tensors of base and experts a merge's own code uses while :meth:`noted`; their shapes alone are no use."""

    def __init__(self, experts: Experts) -> None:
        self.given = experts
        self.base: set[str] = set()
        self.experts: set[tuple[str, str]] = set()

    def noted(self) -> _Watch:
        """Within this, uses are noted."""
        return _Watch(self)

    def plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a rule returned, as ordinary tensors; those of base or experts in it are used."""
        for value in state.values():
            if isinstance(value, NotedTensor):
                value.note()
        return {name: _ordinary(value) for name, value in state.items()}

    def note_base(self, name: str) -> None:
        if name in self.given.names:
            self.base.add(name)

    def note_expert(self, task: str, name: str) -> None:
        if name in self.given.names:
            self.experts.add((task, name))


class _Watch:
    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def __enter__(self) -> None:
        reads, experts = self.reads, self.reads.given
        self.before = experts.base, experts._experts
        experts.base = _Noted(experts.base, reads.note_base)
        experts._experts = {
            task: _Noted(state, lambda name, task=task: reads.note_expert(task, name))  # type: ignore[misc]
            for task, state in experts._experts.items()
        }

    def __exit__(self, *exception: object) -> None:
        self.reads.given.base, self.reads.given._experts = self.before


class _Noted(Mapping[str, Tensor]):
    """A state dict whose tensors say when they are used."""

    def __init__(self, state: Mapping[str, Tensor], note: Callable[[str], None]) -> None:
        self.state, self.note = state, note

    def __getitem__(self, name: str) -> Tensor:
        value = self.state[name].as_subclass(NotedTensor)
        value.note = lambda: self.note(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


class NotedTensor(Tensor):
    """A tensor that calls ``note`` once its numbers are wanted."""

    note: Note

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in OUTLINE:
            for each in tree_flatten((args, kwargs or {}))[0]:
                if isinstance(each, cls):
                    each.note()
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = tree_map(_ordinary, (args, kwargs or {}))
            return func(*args, **kwargs)


def _ordinary(value: Any) -> Any:
    if not isinstance(value, NotedTensor):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)


def _bare(merged: Merged, task: str) -> nn.Module:
    """The task's model without what is put around it, shared with nobody."""
    alone = copy.copy(merged)
    alone.wrap, alone._encoder = None, None
    return alone.model(task)


def _same(first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return first.keys() == other.keys() and all(
        value is other[name] or torch.equal(value, other[name]) for name, value in first.items()
    )
