"""What a method returns: tensors, and the rule that makes a task's model from them. It can be saved and read back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.core.encoders import valid
from methods.core.experts import Experts
from methods.core.registry import MergingError, nearest, rule_name, rule_of
from methods.core.states import StateFile, not_finite

StateRule = Callable[["Merged", str], Mapping[str, Tensor]]
WrapRule = Callable[["Merged", str, nn.Module], nn.Module]


class TaskModel(nn.Module):
    """Encoder and head of one task: ``forward(inputs)`` gives the task's predictions."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, inputs: Any) -> Any:
        return self.head(self.encoder(inputs))


class Merged:
    """One merged model, possibly with per-task parts.

    Args:
        experts: what was merged; supplies base, encoder and the heads that were not adapted.
        shared: encoder tensors that all tasks share (names the method left alone may be absent: the base has them).
        heads: ``{task: state dict}`` of adapted heads.
        layers: ``{task: {name: tensor}}`` encoder tensors that replace the shared ones for that task.
        extra: other tensors the method stores (masks, routers, adapters), by name.
        state: module-level function ``(merged, task) -> state dict`` where tasks differ otherwise (masks on a shared
            vector); ``None`` means ``shared`` with the task's ``layers``.
        wrap: module-level function ``(merged, task, model) -> module`` that puts more around the task's model.
        declared: bytes beyond ``shared``, ``layers`` and ``extra`` that must be kept as well (experts, the base).
        needs_task: whether a task id is needed to pick more than the head.
        trace: coefficients, loss curves, times, trainable count.
        options: plain JSON values that ``state`` and ``wrap`` need.
        statistics: ``{task or "all": {name: tensor}}``, the experts' ``statistics`` estimated on this merge. Without
            them its models use those of each batch.

    ``state`` and ``wrap`` live in a file of this package, so that a saved merge names them and no code is stored.
    """

    def __init__(
        self,
        experts: Experts,
        shared: Mapping[str, Tensor] | None = None,
        *,
        heads: Mapping[str, Mapping[str, Tensor]] | None = None,
        layers: Mapping[str, Mapping[str, Tensor]] | None = None,
        extra: Mapping[str, Tensor] | None = None,
        state: StateRule | None = None,
        wrap: WrapRule | None = None,
        declared: int = 0,
        needs_task: bool = False,
        trace: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.experts = experts
        self.shared = {n: t.detach() for n, t in (shared or {}).items()}
        self.heads = {k: {n: t.detach() for n, t in v.items()} for k, v in (heads or {}).items()}
        self.layers = {k: {n: t.detach() for n, t in v.items()} for k, v in (layers or {}).items()}
        self.extra = {n: t.detach() for n, t in (extra or {}).items()}
        self.statistics = {k: {n: t.detach() for n, t in v.items()} for k, v in (statistics or {}).items()}
        self.rule, self.wrap = state, wrap
        self.declared, self.needs_task = declared, needs_task or bool(self.layers)
        self.trace: dict[str, Any] = dict(trace or {})
        self.options: dict[str, Any] = dict(options or {})
        self._encoder: nn.Module | None = None
        for rule in (state, wrap):
            if rule is not None:
                rule_name(rule)
        for name, value in self.tensors():
            if value.is_floating_point() and not_finite(value):
                raise MergingError(
                    f"the merge produced NaN or Inf in {name} {tuple(value.shape)}; expected finite weights"
                )
        names = set(experts.base)
        for name, value in self.shared.items():
            if name not in names:
                raise nearest("tensor in the merge", name, sorted(names))
            if value.shape != experts.base[name].shape:
                raise MergingError(
                    f"the merge gives {name} the shape {tuple(value.shape)}; the base has "
                    f"{tuple(experts.base[name].shape)}"
                )

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Every stored tensor under the name it has in the file."""
        return (
            [(f"shared/{n}", t) for n, t in self.shared.items()]
            + [(f"head/{k}/{n}", t) for k, v in self.heads.items() for n, t in v.items()]
            + [(f"layer/{k}/{n}", t) for k, v in self.layers.items() for n, t in v.items()]
            + [(f"extra/{n}", t) for n, t in self.extra.items()]
            + [(f"statistics/{k}/{n}", t) for k, v in self.statistics.items() for n, t in v.items()]
        )

    def state_dict(self, task: str | None = None) -> dict[str, Tensor]:
        """The encoder's weights, float32; for one task where tasks differ.

        Raises :class:`MergingError` when no task is named and the tasks have different encoders.
        """
        if task is not None:
            self.experts.expert(task)
        if self.rule is not None or self.layers:
            if task is None:
                if len(self.experts) > 1:
                    raise MergingError(
                        "the tasks of this merge have different encoders; name one: state_dict(task), with "
                        f"task one of {', '.join(self.experts.tasks)}"
                    )
                task = self.experts.tasks[0]
        special = self.rule(self, task) if self.rule is not None and task is not None else self.shared
        merged = set(self.experts.names)
        state = {
            n: special[n] if n in special else (self.experts.base[n].float() if n in merged else self.experts.base[n])
            for n in self.experts.base
        }
        if task is not None:
            state.update(self.layers.get(task, {}))
        state.update(self.statistics.get("all", {}))
        state.update(self.statistics.get(task or "", {}))
        real = merged.union(self.experts.statistics)
        return {n: valid(n, t.to(torch.float32)) if n in real else t for n, t in state.items()}

    def head(self, task: str) -> nn.Module:
        """The task's head (a copy), adapted where the method adapted it."""
        head = copy.deepcopy(self.experts.head(task)).to(torch.float32)
        if task in self.heads:
            head.load_state_dict({n: t.clone() for n, t in self.heads[task].items()})
        return head

    def model(self, task: str) -> nn.Module:
        """The task's model: inputs to predictions, in eval mode. All that the evaluator calls."""
        experts = self.experts
        if experts.encoder is None:
            raise MergingError("this merge has no encoder to run; make the Experts with encoder=module")
        encoder = self._encoder
        if encoder is None or self.differs:
            encoder = copy.deepcopy(experts.encoder)
            if experts.statistics and not self.statistics:
                forget_statistics(encoder)
            names = set(encoder.state_dict())
            state = {n: t.to(experts.device) for n, t in self.state_dict(task).items() if n in names}
            encoder.load_state_dict(state, strict=False, assign=True)
            self._encoder = encoder
        model: nn.Module = TaskModel(encoder, self.head(task))
        if self.wrap is not None:
            model = self.wrap(self, task, model)
        return model.to(experts.device).eval().requires_grad_(False)

    @property
    def differs(self) -> bool:
        """Whether tasks have encoders of their own."""
        return self.rule is not None or bool(self.layers)

    @property
    def storage(self) -> int:
        """Bytes to keep beyond one float32 model (and the K heads that every method needs)."""
        seen: dict[tuple[int, torch.Size, tuple[int, ...]], int] = {}
        for name, value in self.tensors():
            if name.startswith(("head/", "statistics/all/")):
                continue
            seen[value.data_ptr(), value.shape, value.stride()] = value.numel() * value.element_size()
        merged = set(self.experts.names)
        whole = sum(4 * self.experts.base[n].numel() for n in merged if self.rule is None and n not in self.shared)
        return max(0, sum(seen.values()) + whole + self.declared - self.experts.nbytes())

    def adapted(self, task: str) -> dict[str, dict[str, Tensor]]:
        """The layers adapted for ``task``: ``{"head": state dict, "layers": {name: tensor}}``, the parts that exist."""
        self.experts.expert(task)
        parts = {"head": self.heads.get(task, {}), "layers": self.layers.get(task, {})}
        return {part: value for part, value in parts.items() if value}

    def with_adapted(self, adapted: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> Merged:
        """This merge with other adapted layers ``{task: adapted(task)}`` in place of its own."""
        new = copy.copy(self)
        new.heads, new.layers = dict(self.heads), dict(self.layers)
        new._encoder = None
        for task, parts in adapted.items():
            self.experts.expert(task)
            if "head" in parts:
                new.heads[task] = dict(parts["head"])
            if "layers" in parts:
                new.statistics = {}
                new.layers[task] = {**new.layers.get(task, {}), **parts["layers"]}
        new.needs_task = self.needs_task or bool(new.layers)
        return new

    def save(self, path: str | Path) -> None:
        """Write everything but experts and encoder to one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, value in self.tensors():
            tensors[name] = value.to("cpu").contiguous().clone()
        plain: dict[str, Any] = {}
        for key, value in self.trace.items():
            if isinstance(value, Tensor):
                tensors[f"trace/{key}"] = value.detach().to("cpu").contiguous().clone()
            else:
                plain[key] = value
        about = {
            "state": rule_name(self.rule),
            "wrap": rule_name(self.wrap),
            "declared": self.declared,
            "needs_task": self.needs_task,
            "trace": plain,
            "options": self.options,
            "tasks": list(self.experts.tasks),
        }
        save_file(tensors, str(path), metadata={"merged": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, experts: Experts) -> Merged:
        """Read what :meth:`save` wrote, for the same experts."""
        stored = StateFile(path)
        if "merged" not in stored.metadata:
            raise MergingError(f"{Path(path).name} is no saved merge: it has no description of itself")
        about = json.loads(stored.metadata["merged"])
        if about["tasks"] != list(experts.tasks):
            raise MergingError(f"{Path(path).name} merges {about['tasks']}, these experts are {list(experts.tasks)}")
        parts: dict[str, Any] = {"shared": {}, "head": {}, "layer": {}, "extra": {}, "trace": {}, "statistics": {}}
        for full in stored:
            part, _, name = full.partition("/")
            value = stored[full].clone() if part == "head" else stored[full]
            if part in ("head", "layer", "statistics"):
                task, _, name = name.partition("/")
                parts[part].setdefault(task, {})[name] = value
            else:
                parts[part][name] = value
        return cls(
            experts,
            parts["shared"],
            heads=parts["head"],
            layers=parts["layer"],
            extra=parts["extra"],
            state=rule_of(about["state"]),
            wrap=rule_of(about["wrap"]),
            declared=about["declared"],
            needs_task=about["needs_task"],
            trace={**about["trace"], **parts["trace"]},
            options=about["options"],
            statistics=parts["statistics"],
        )


def forget_statistics(module: nn.Module) -> None:
    """From now on batch normalisations use the mean and variance of their batch."""
    for each in module.modules():
        if isinstance(each, _BatchNorm):
            each.running_mean = each.running_var = None


def pack_mask(mask: Tensor) -> Tensor:
    """A boolean mask as uint8, eight entries a byte."""
    return torch.from_numpy(np.packbits(mask.reshape(-1).cpu().numpy()))


def unpack_mask(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The boolean mask of this shape that :func:`pack_mask` packed."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed.cpu().numpy(), count=count).astype(bool)
    return torch.from_numpy(bits).reshape(tuple(shape)).to(packed.device)
