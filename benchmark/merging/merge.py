"""One merge of a user's experts: the method on them, a few tensors at a time where it allows, and its folder."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import methods
from benchmark.checkpoints.alignment import Aligned
from benchmark.checkpoints.families import save_json
from benchmark.checkpoints.writing import check_layout, copy_beside, write_like
from benchmark.common.errors import UserError
from benchmark.common.files import TEMPORARY, cannot_write, remove_left
from benchmark.merging.checks import check_free, check_weights
from benchmark.records.spec import checked_parameters
from methods.api import Experts, Merged, Stream

#: Values that are merged at once by a method that allows it: 256 MiB of float32.
PIECE = 1 << 26
MERGED, HEADS, LOADER = "merged.safetensors", "heads", "load_merged.py"


@dataclass
class Plan:
    """What is merged, and how.

    Attributes:
        aligned: base and experts.
        method: a name of the registry.
        keywords: of the method, those that were given.
        weights: of the experts, in their order; ``None`` leaves the task vectors as they are.
    """

    aligned: Aligned
    method: str
    keywords: dict[str, Any] = field(default_factory=dict)
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.about = methods.describe(self.method)
        self.factors, keywords = weighed(self.about, list(self.aligned.experts), self.weights, self.keywords)
        self.parameters = checked_parameters(self.method, keywords)
        self.access = self.about.access_for(self.parameters)

    @property
    def tasks(self) -> list[str]:
        """The experts that take part: those whose weight is not 0."""
        return list(self.factors)

    @property
    def said(self) -> list[str]:
        """What the weights do, in words."""
        if self.weights is None:
            return []
        factors = ", ".join(f"{task} {value:g}" for task, value in self.factors.items())
        left = [task for task in self.aligned.experts if task not in self.factors]
        out = f"; weight 0 leaves out {', '.join(left)}" if left else ""
        if "scale" in self.about.parameters:
            return [f"weights multiply the task vectors, and scale is {self.parameters['scale']:g}: {factors}{out}"]
        return [f"{self.method} has no scale: weights are divided by their mean: {factors}{out}"]

    @property
    def local(self) -> bool:
        """Whether the merge can be made a few tensors at a time."""
        return not self.access and all(about.footprint.local for about, _ in self.about.stack(self.parameters))


def weighed(
    about: methods.Method, tasks: Sequence[str], weights: Sequence[float] | None, keywords: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """What each task vector is multiplied by before the method is handed it, and the method's keywords.

    A method that has a scale gets it as 1, unless it is given, and the weights as they are; one that has none, such as
    an average, gets weights whose mean is 1. Weight 0 leaves an expert out.

    Raises :class:`UserError` for weights that cannot be meant.
    """
    if weights is None:
        return dict.fromkeys(tasks, 1.0), dict(keywords)
    check_weights(weights, len(tasks))
    given = {task: float(weight) for task, weight in zip(tasks, weights, strict=True) if weight}
    if "scale" in about.parameters:
        return given, {"scale": 1.0, **keywords}
    total = sum(given.values())
    if total == 0:
        raise UserError(f"the weights of {about.name} sum to 0", "Give weights whose sum is not 0.")
    return {task: weight * len(given) / total for task, weight in given.items()}, dict(keywords)


def merge_experts(plan: Plan, experts: Experts, stream: Stream | None = None) -> Merged:
    """The whole merge, in memory. Raises :class:`MergingError`."""
    merged: Merged = methods.get(plan.method)(experts, stream, **plan.parameters)
    return merged


def open_experts(plan: Plan, **keywords: Any) -> Experts:
    """The experts that take part, their task vectors multiplied by the plan's factors."""
    return multiplied(plan.aligned.open(plan.tasks, **keywords), plan.factors, **keywords)


def multiplied(experts: Experts, factors: Mapping[str, float], **keywords: Any) -> Experts:
    """The experts with their task vectors times ``factors``; ``keywords`` are those that they were opened with."""
    if all(value == 1 for value in factors.values()):
        return experts
    if experts.lacks("adapters") is None:
        scaled = {t: {n: (a, b, s * factors[t]) for n, (a, b, s) in experts.lora(t).items()} for t in experts.tasks}
        return Experts.from_lora(experts.base, scaled, **keywords)
    return experts.edited(lambda name, task, vector: vector.mul_(factors[task]))


def within(experts: Experts, names: Iterable[str]) -> Experts:
    """The same experts, of which these tensors alone are merged."""
    part = copy.copy(experts)
    part.names = tuple(names)
    return part


def pieces(experts: Experts, most: int | None = None) -> Iterator[list[str]]:
    """Merged tensors in groups of at most ``most`` values (:data:`PIECE`), or of one that has more, as in the base."""
    group, size, most = list[str](), 0, most or PIECE
    shapes = getattr(experts.base, "shapes", None) or {n: tuple(t.shape) for n, t in experts.base.items()}
    for name in experts.names:
        count = torch.Size(shapes[name]).numel()
        if group and size + count > most:
            yield group
            group, size = [], 0
        group.append(name)
        size += count
    if group:
        yield group


def merged_pieces(plan: Plan, experts: Experts) -> Iterator[dict[str, Tensor]]:
    """``{name: tensor}`` of a merge that is local, a few at a time. A local merge is one model for all tasks."""
    for names in pieces(experts):
        yield merge_experts(plan, within(experts, names)).shared


def averages(plan: Plan) -> dict[str, Tensor]:
    """Running statistics of normalisations, averaged over the experts by the plan's factors, float32."""
    factors, made = plan.factors, {}
    total = sum(factors.values())
    for name in plan.aligned.statistics:
        parts = [plan.aligned.experts[t].weights[name].float() * (f / total) for t, f in factors.items()]
        made[name] = torch.stack(parts).sum(0)
    return made


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder that becomes ``out`` once it is whole. Raises :class:`UserError` where ``out`` holds something."""
    check_free(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_left(out.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{out.name[:100]}.", dir=out.parent))
    except OSError as error:
        raise cannot_write(out, error) from None
    try:
        place = temporary / "content"
        place.mkdir()
        yield place
        if out.exists():
            os.replace(out, temporary / "former") if overwrite else out.rmdir()
        os.replace(place, out)
    except OSError as error:
        raise cannot_write(out, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check(plan: Plan) -> None:
    """Raises :class:`UserError` or :class:`MergingError` for what can be seen before anything is merged."""
    check_layout(plan.aligned.base)
    if any(value == "val" for key, value in plan.parameters.items() if key in plan.about.grids):
        raise UserError(
            f"{plan.method} chooses a keyword on labelled validation data, which merge does not have",
            "Give a number, or use a suite of your own: docs/own-suite.md",
        )


def write(
    plan: Plan,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    merged: Merged | None = None,
    device: torch.device | str = "cpu",
    head_names: Mapping[str, str] = MappingProxyType({}),
) -> list[Path]:
    """Write the merge into the folder ``out``, which exists: weights, what lies beside the base's, heads.

    Args:
        dtype: of the weights, by default the base's.
        head_names: what stands before ``weight`` and ``bias`` of a task's head in its expert.
        merged: what the method returned, where it needed data; by default it is made here, in pieces where that can be.
    """
    base, statistics = plan.aligned.base, averages(plan)
    if merged is None and not plan.local:
        merged = merge_experts(plan, open_experts(plan, device=device))
    if merged is None:
        made: Iterable[Mapping[str, Tensor]] = merged_pieces(plan, open_experts(plan, device=device))
    elif merged.differs or merged.wrap is not None:
        # The base stays the base: the file says what each task's model is made of it.
        made = []
    else:
        made = [merged.shared]
    files = write_like(base, out, itertools.chain(made, [statistics]), dtype)
    if merged is not None and (merged.differs or merged.wrap is not None):
        merged.save(out / MERGED)
        files.append(out / MERGED)
        (out / LOADER).write_text(_LOADER)
    copy_beside(base, out, dtype)
    files += _write_heads(plan, out, merged.heads if merged is not None else {}, head_names)
    return files


def _write_heads(
    plan: Plan, out: Path, adapted: Mapping[str, Mapping[str, Tensor]], names: Mapping[str, str]
) -> list[Path]:
    """``heads/TASK.safetensors`` of each task that has tensors of its own, and the names of its classes."""
    files = []
    for task in plan.tasks:
        expert = plan.aligned.experts[task]
        own = {name: value.contiguous() for name, value in expert.own.items()}
        if task in adapted:
            ahead = f"{names[task]}." if names.get(task) else ""
            own |= {f"{ahead}{name}": value.detach().cpu().contiguous() for name, value in adapted[task].items()}
        if not own:
            continue
        (out / HEADS).mkdir(exist_ok=True)
        path = out / HEADS / f"{task}.safetensors"
        save_file(own, path, metadata={"format": "pt"})
        files.append(path)
        if labels := expert.config.get("id2label"):
            save_json(path.with_suffix(".json"), {"id2label": labels, "expert": expert.path.name})
    return files


_LOADER = '''"""Put together the model of one task:  python load_merged.py TASK FOLDER

This merge is not one model. merged.safetensors holds what all tasks share (shared/NAME), what a task has for itself
(layer/TASK/NAME) and what the method keeps besides, such as masks, factors or routers (extra/NAME); the weights beside
it are the base's, on which it is laid. FOLDER then loads as the base does.
"""

import sys
from pathlib import Path

from symerge_bench import write_task

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write_task(Path(__file__).parent, task=sys.argv[1], out=sys.argv[2])
'''
