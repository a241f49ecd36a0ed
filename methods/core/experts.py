"""The base, the K fine-tuned state dicts, their heads and the encoder that runs them; read lazily."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.core.blocks import last_block
from methods.core.encoders import batch_statistics, evaluating, valid
from methods.core.errors import MergingError, NotApplicable, nearest, some
from methods.core.packed import open_state
from methods.core.registry import COUNTS, NEEDS, wrong_number
from methods.core.states import (
    Edit,
    EditedState,
    LowRankState,
    StateFile,
    is_floating,
    not_finite,
    number_of,
    shapes_of,
)

KINDS = ("classification", "regression", "segmentation", "depth", "normals")


class Experts:
    """K experts fine-tuned from one base.

    Attributes:
        tasks: the K task names, in order.
        base: ``{name: Tensor}`` of the pretrained encoder, any floating dtype; integer buffers allowed.
        names: the floating tensors that are merged, in the encoder's parameter order where it has them.
        statistics: running statistics of normalisations that are no weights: not merged, but estimated again on data
            once the weights stand (``Merged.statistics``); until then a merge is run on those of its batch.
        device: where ``task_vectors``, ``state`` and ``forward`` compute. Storage stays where it is.
        encoder: the module that runs a state, or ``None`` for methods that need no forward pass.
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        experts: Mapping[str, Mapping[str, Tensor]],
        *,
        heads: Mapping[str, nn.Module] | None = None,
        encoder: nn.Module | None = None,
        kinds: Mapping[str, str] | None = None,
        adaptable: Mapping[str, Sequence[str]] | None = None,
        statistics: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        if not experts:
            raise MergingError("no experts given; expected at least one {task: state_dict}")
        self.base, self.encoder, self.device = base, encoder, torch.device(device)
        self._experts = dict(experts)
        self.tasks: tuple[str, ...] = tuple(experts)
        self.statistics = tuple(statistics)
        self.heads = dict(heads or {})
        self.kinds = {task: (kinds or {}).get(task, "classification") for task in self.tasks}
        self._adaptable = _known_tensors(base, adaptable or {})
        self._lora: dict[str, dict[str, tuple[Tensor, Tensor, float]]] | None = None
        self._checked: set[str] = set()
        for task in self.tasks:
            if "/" in task:
                raise MergingError(f"task name {task!r} holds a '/'; expected a plain name")
        for task, kind in self.kinds.items():
            if kind not in KINDS:
                raise MergingError(f"task {task!r} is of kind {kind!r}; allowed: {', '.join(KINDS)}")
        for task in self.heads:
            if task not in self._experts:
                raise nearest("task of a head", task, list(self.tasks))
        for name in self.statistics:
            if name not in base:
                raise nearest("tensor of statistics", name, list(base))
        self._check_layout()
        order = list(encoder.state_dict()) if encoder is not None else []
        floating = [n for n in base if self._is_merged(n)]
        rank = {n: i for i, n in enumerate(order)}
        self.names: tuple[str, ...] = tuple(sorted(floating, key=lambda n: rank.get(n, len(rank))))

    @classmethod
    def from_state_dicts(
        cls,
        base: Mapping[str, Tensor] | str | Path,
        experts: Mapping[str, Mapping[str, Tensor] | str | Path],
        *,
        heads: Mapping[str, nn.Module] | None = None,
        encoder: nn.Module | None = None,
        kinds: Mapping[str, str] | None = None,
        adaptable: Mapping[str, Sequence[str]] | None = None,
        statistics: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> Experts:
        """Experts from state dicts of equal keys and shapes, or from safetensors files, whole or packed over the base.

        Args:
            base: the pretrained state dict.
            experts: ``{task: state dict}``; the order is the order of tasks.
            heads: ``{task: module}``, features ``[B, D]`` to predictions.
            encoder: the module whose parameters the state dicts name; run by ``forward``.
            kinds: ``{task: "classification" | "regression" | ...}``, default classification.
            adaptable: ``{name: encoder tensors}``; ``"last_block"`` is found by itself in numbered blocks. Under
                ``"head"``, beginnings of the names of the head's parameters that a method may train (default all).
            statistics: tensors that are estimated again after merging instead of being merged.
            device: where arithmetic and forward passes take place.

        Raises:
            MergingError: keys missing or extra, shapes that differ, tensors that are not finite.
        """
        first = StateFile(base) if isinstance(base, (str, Path)) else base
        opened = {t: open_state(s, first) if isinstance(s, (str, Path)) else s for t, s in experts.items()}
        return cls(
            first,
            opened,
            heads=heads,
            encoder=encoder,
            kinds=kinds,
            adaptable=adaptable,
            statistics=statistics,
            device=device,
        )

    @classmethod
    def from_lora(
        cls,
        base: Mapping[str, Tensor] | str | Path,
        adapters: Mapping[str, Mapping[str, tuple[Tensor, Tensor, float]]],
        *,
        heads: Mapping[str, nn.Module] | None = None,
        encoder: nn.Module | None = None,
        kinds: Mapping[str, str] | None = None,
        adaptable: Mapping[str, Sequence[str]] | None = None,
        device: torch.device | str = "cpu",
    ) -> Experts:
        """Experts given as LoRA adapters ``{task: {module: (A [r, in], B [out, r], scale)}}``.

        ``module`` names a weight of the base, with or without its ``.weight``. As task vectors they are
        ``scale * B @ A``; the adapters themselves are read by :meth:`lora`.
        """
        first = StateFile(base) if isinstance(base, (str, Path)) else base
        named: dict[str, dict[str, tuple[Tensor, Tensor, float]]] = {}
        for task, modules in adapters.items():
            named[task] = {}
            for module, (a, b, scale) in modules.items():
                name = module if module in first else f"{module}.weight"
                if name not in first:
                    raise nearest("module of an adapter", module, list(first))
                rows, columns = first[name].shape[0], first[name][0].numel()
                if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != (rows, columns):
                    raise MergingError(
                        f"adapter {module} of {task}: A {tuple(a.shape)} and B {tuple(b.shape)} do not "
                        f"multiply to {(rows, columns)}; expected A [r, {columns}], B [{rows}, r]"
                    )
                named[task][name] = (a, b, float(scale))
        lora_experts = cls(
            first,
            {t: LowRankState(first, m) for t, m in named.items()},
            heads=heads,
            encoder=encoder,
            kinds=kinds,
            adaptable=adaptable,
            device=device,
        )
        lora_experts._lora = named
        return lora_experts

    def __len__(self) -> int:
        return len(self.tasks)

    def _is_merged(self, name: str) -> bool:
        return name not in self.statistics and all(
            is_floating(state, name) for state in (self.base, *self._experts.values())
        )

    def _check_layout(self) -> None:
        """Keys and shapes of every expert against the base; every difference in one message."""
        shapes = shapes_of(self.base)
        for task, state in self._experts.items():
            missing, extra = shapes.keys() - state.keys(), state.keys() - shapes.keys()
            if missing or extra:
                raise MergingError(
                    f"expert {task!r} does not match the base: missing {some(missing)}; extra {some(extra)}. "
                    "Expected the same keys; import it again from the same family as the base."
                )
            if isinstance(state, LowRankState):
                continue
            for name, shape in shapes_of(state).items():
                if shape != shapes[name]:
                    raise MergingError(
                        f"expert {task!r}: {name} has shape {shape}, the base has {shapes[name]}; expected "
                        "equal shapes. Is this expert of another backbone?"
                    )

    def _finite(self, name: str, owner: str, value: Tensor) -> Tensor:
        key = f"{owner}/{name}"
        if key not in self._checked:
            bad = not_finite(value)
            if bad:
                raise MergingError(
                    f"{owner}: {name} holds {bad} NaN or Inf of {value.numel()} values; expected finite weights. "
                    "The checkpoint is damaged: import it again."
                )
            self._checked.add(key)
        return value.detach()

    def expert(self, task: str) -> Mapping[str, Tensor]:
        """The fine-tuned state dict of ``task``, read lazily."""
        if task not in self._experts:
            raise nearest("task", task, list(self.tasks))
        return self._experts[task]

    def base_tensor(self, name: str) -> Tensor:
        """``base[name]`` as float32 on the device. Raises :class:`MergingError` when it is not finite."""
        return self._finite(name, "base", self.base[name].to(self.device, torch.float32))

    def expert_tensor(self, name: str, task: str) -> Tensor:
        """``expert(task)[name]`` as float32 on the device. Raises :class:`MergingError` when it is not finite."""
        return self._finite(name, f"expert {task}", self.expert(task)[name].to(self.device, torch.float32))

    def task_vector(self, name: str, task: str, base: Tensor | None = None) -> Tensor:
        """``expert(task)[name] - base[name]``, float32 on the device, ``[*shape]``."""
        tuned = self._finite(name, f"expert {task}", self.expert(task)[name].to(self.device, torch.float32))
        return tuned - (self.base_tensor(name) if base is None else base)

    def task_vectors(self, name: str) -> Tensor:
        """One parameter across experts: ``[K, *shape]``, float32 on the device; accumulate in this precision."""
        base = self.base_tensor(name)
        out = torch.empty((len(self), *base.shape), dtype=torch.float32, device=self.device)
        for k, task in enumerate(self.tasks):
            tuned = self._finite(name, f"expert {task}", self.expert(task)[name].to(self.device, torch.float32))
            torch.sub(tuned, base, out=out[k])
        return out

    def buffers(self) -> dict[str, Tensor]:
        """The tensors that are not merged (integer buffers and the like), as the base has them."""
        merged = set(self.names)
        return {name: self.base[name] for name in self.base if name not in merged}

    def numel(self) -> int:
        """Number of merged parameters, P."""
        shapes = shapes_of(self.base)
        return sum(number_of(shapes[name]) for name in self.names)

    def nbytes(self) -> int:
        """Bytes of one model in float32."""
        return 4 * self.numel()

    def kind(self, task: str) -> str:
        """``"classification"``, ``"regression"``, ...; it decides the self-label loss."""
        self.expert(task)
        return self.kinds[task]

    def head(self, task: str) -> nn.Module:
        """The task's predictor, the module itself; copy it before you change it."""
        self.expert(task)
        if task not in self.heads:
            raise MergingError(
                f"no head was given for task {task!r}; heads exist for: {', '.join(self.heads) or 'none'}. "
                "Give heads={task: module} when you make the Experts."
            )
        return self.heads[task]

    def state(self, task: str | None = None) -> dict[str, Tensor]:
        """The base (or one expert) as float32 tensors on the device, what ``forward`` takes."""
        source = self.base if task is None else self.expert(task)
        owner = "base" if task is None else f"expert {task}"
        merged = set(self.names)
        return {
            n: self._finite(n, owner, source[n].to(self.device, torch.float32))
            if n in merged or n in self.statistics
            else source[n].to(self.device)
            for n in source
        }

    def forward(self, state: Mapping[str, Tensor], task: str, inputs: Any) -> Any:
        """Features of ``inputs`` under the given weights, in evaluation mode. Tensors that ``state`` lacks are the
        base's where they are not merged and else the encoder's own; statistics that it lacks are those of the batch."""
        if self.encoder is None:
            raise MergingError("this method runs the encoder and none was given; make the Experts with encoder=module")
        encoder_names = self._encoder_names()
        tensors = self._unmerged | {n: valid(n, t) for n, t in state.items() if n in encoder_names}
        for names in self._tied:
            value = next((tensors[n] for n in names if n in tensors), None)
            if value is not None:
                tensors.update((n, value) for n in names if n not in tensors)
        lacking = any(n not in tensors for n in self.statistics)
        with (
            evaluating(self.encoder) if any(part.training for part in self._modules) else nullcontext(),
            batch_statistics(self.encoder) if lacking else nullcontext(),
        ):
            return torch.func.functional_call(self.encoder, tensors, (inputs,), tie_weights=False)

    def _encoder_names(self) -> set[str]:
        """The encoder's tensors. Looked up once: those under several names, and the base's that no method merges."""
        if not hasattr(self, "_known"):
            assert self.encoder is not None
            self._known = set(self.encoder.state_dict())
            self._modules = tuple(self.encoder.modules())
            by_tensor: dict[int, list[str]] = {}
            for part in (self.encoder.named_parameters, self.encoder.named_buffers):
                for name, tensor in part(remove_duplicate=False):
                    by_tensor.setdefault(id(tensor), []).append(name)
            self._tied = [names for names in by_tensor.values() if len(names) > 1]
            fixed = self._known.difference(self.statistics)
            self._unmerged = {n: t.to(self.device, copy=True) for n, t in self.buffers().items() if n in fixed}
        return self._known

    def adaptable(self, task: str) -> dict[str, Any]:
        """``"head"`` (the module) and, where blocks are numbered, ``"last_block"`` (tensor names)."""
        parts: dict[str, Any] = {"head": self.heads[task]} if task in self.heads else {}
        parts.update({k: v for k, v in self._adaptable.items() if k != "head"})
        if "last_block" not in parts:
            block = last_block(self.names)
            if block:
                parts["last_block"] = block
        return parts

    def edited(self, edit: Edit) -> Experts:
        """The same experts with other task vectors: ``edit(name, task, tau)`` gives ``[*shape]``, at each reading."""
        new = copy.copy(self)
        new._experts = {task: EditedState(self, task, edit) for task in self.tasks}
        new._lora, new._checked = None, set()
        return new

    def subset(self, tasks: Sequence[str]) -> Experts:
        """The experts of these tasks alone, in this order."""
        new = copy.copy(self)
        new._experts = {task: self.expert(task) for task in tasks}
        new.tasks = tuple(tasks)
        new.heads = {task: self.heads[task] for task in tasks if task in self.heads}
        new.kinds = {task: self.kinds[task] for task in tasks}
        new._checked = set()
        return new

    def with_experts(self, experts: Mapping[str, Mapping[str, Tensor] | str | Path]) -> Experts:
        """The same with other state dicts (or safetensors files) for some tasks. Raises :class:`MergingError`."""
        new = copy.copy(self)
        opened = {t: open_state(s, self.base) if isinstance(s, (str, Path)) else s for t, s in experts.items()}
        new._experts = {task: opened.get(task, state) for task, state in self._experts.items()}
        new._lora, new._checked = None, set()
        new._check_layout()
        return new

    def with_adaptable(self, adaptable: Mapping[str, Sequence[str]]) -> Experts:
        """The same with other modules under the names that a method adapts."""
        new = copy.copy(self)
        new._adaptable = {**self._adaptable, **_known_tensors(self.base, adaptable)}
        return new

    def lora(self, task: str) -> dict[str, tuple[Tensor, Tensor, float]]:
        """The adapters ``{tensor name: (A, B, scale)}`` of one expert. Raises :class:`NotApplicable` if it has none."""
        if self._lora is None:
            raise NotApplicable(
                "these experts are full fine-tunings; this method merges LoRA adapters (Experts.from_lora)"
            )
        self.expert(task)
        return self._lora[task]

    def copy_head(self, task: str) -> nn.Module:
        """A copy of the head on the device; the parameters that a method may train require gradients."""
        head = copy.deepcopy(self.head(task)).to(self.device, torch.float32)
        parts = self._adaptable.get("head", ("",))
        for name, parameter in head.named_parameters():
            parameter.requires_grad_(name.startswith(parts))
        return head

    def lacks(self, need: str) -> str | None:
        """Why these experts do not have what a method ``needs``, in one line; ``None`` where they have it."""
        return wrong_number(len(self), need) if need in COUNTS else self.lacks_part(need)

    def lacks_part(self, need: str) -> str | None:
        """:meth:`lacks` of classes, matrices and adapters."""
        if need == "classes":
            other = [t for t in self.tasks if self.kind(t) not in ("classification", "segmentation")]
            kind = self.kind(other[0]) if other else ""
            return f"works on a task's classes and {other[0]!r} is a {kind} task, which has none" if other else None
        if need == "matrices":
            shapes = shapes_of(self.base)
            if self.encoder is None or any(len(shapes[name]) == 2 for name in self.names):
                return None
            return "works on the matrices of linear layers and this encoder has none"
        if need == "adapters":
            return None if self._lora is not None else "merges LoRA adapters and these experts are full fine-tunings"
        raise MergingError(f"a method needs {need!r}; known needs: {', '.join(NEEDS)}")


def _known_tensors(base: Mapping[str, Tensor], adaptable: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """``adaptable``, once all but the head's names are known to be tensors of the base."""
    for part, tensors in adaptable.items():
        for name in tensors if part != "head" else ():
            if name not in base:
                raise nearest(f"tensor of adaptable {part!r}", name, list(base))
    return {part: tuple(tensors) for part, tensors in adaptable.items()}
