"""The same from Python: state dicts or paths in, a merge out, scored on batches of the caller's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import methods
from benchmark.checkpoints.models import Model, open_model
from benchmark.checkpoints.writing import copy_beside, write_like
from benchmark.common.errors import UserError, shown
from benchmark.merging import card
from benchmark.merging.merge import (
    MERGED,
    Plan,
    check,
    merge_experts,
    multiplied,
    new_folder,
    open_experts,
    weighed,
    within,
    write,
)
from benchmark.merging.opening import open_aligned, told
from methods.api import Experts, Merged, MergingError, Stream, place
from methods.core.states import LowRankState

State = Mapping[str, Tensor]


def merge(
    method: str,
    base: State | str | Path,
    experts: Mapping[str, State | str | Path],
    *,
    weights: Sequence[float] | None = None,
    out: str | Path | None = None,
    heads: Mapping[str, nn.Module] | None = None,
    encoder: nn.Module | None = None,
    stream: Stream | None = None,
    device: torch.device | str = "cpu",
    **keywords: Any,
) -> Merged:
    """Merge experts by a method of the registry.

    Args:
        method: its name, ``symerge_bench.names()``.
        base: the pretrained model: a state dict, or a file or folder of any layout of ``symerge-bench merge``.
        experts: ``{task: state dict or path}``, fine-tuned from the base; paths may be LoRA adapters.
        weights: one for each expert; multiplies its task vector. A method with a ``scale`` then has scale 1 unless it
            is given, one without gets weights divided by their mean; 0 leaves an expert out.
        out: a folder to write, as the command does; paths only.
        heads, encoder: ``{task: module}`` and the module whose parameters ``base`` names, for methods that run the
            model and for ``evaluate``.
        stream: data for the methods that adapt, ``Stream.from_batches({task: Tensor[n, B, ...]})``.
        device: where arithmetic takes place.
        keywords: of the method, e.g. ``keep=0.2``.

    Returns:
        The merge: ``state_dict(task)``, and ``model(task)`` where an encoder and heads were given.

    Raises:
        UserError, MergingError: checkpoints that do not fit, unknown names, a method that needs what was not given.
    """
    if not isinstance(experts, Mapping):
        raise UserError(f"experts is a {type(experts).__name__}", "Give {task: state dict or path}.")
    paths = [base, *experts.values()]
    for name, each in {"base": base, **experts}.items():
        if not isinstance(each, (str, Path, Mapping)):
            hint = f"Give its state dict: {name}.state_dict(), or a path." if hasattr(each, "state_dict") else ""
            raise UserError(f"{name} is a {type(each).__name__}", hint or "Give a state dict, or a path.")
    if all(isinstance(each, (str, Path)) for each in paths):
        return _of_paths(method, base, experts, weights, out, heads, encoder, stream, device, keywords)
    if out is not None or any(isinstance(each, (str, Path)) for each in paths):
        said = "out= needs base and experts as paths" if out is not None else "some are paths and some are state dicts"
        raise UserError(said, "Give either paths or state dicts, not both.")
    about = methods.describe(method)
    factors, keywords = weighed(about, list(experts), weights, keywords)
    _check_stream(about, stream, keywords)
    whole = Experts.from_state_dicts(base, experts, heads=heads, encoder=encoder, device=device)  # type: ignore[arg-type]
    return methods.get(method)(multiplied(whole.subset(list(factors)), factors), stream, **keywords)


def _check_stream(about: methods.Method, stream: Stream | None, keywords: Mapping[str, Any]) -> None:
    """Raise UserError for a method that is to be handed data and is not."""
    if stream is None and (access := about.access_for(keywords)):
        raise UserError(
            f"{about.name} needs data: {access.describe()}",
            "Give stream=Stream.from_batches({task: Tensor[n, B, ...]}), with encoder= and heads=.",
        )


def _of_paths(
    method: str, base: Any, experts: Mapping[str, Any], weights: Sequence[float] | None, out: str | Path | None,
    heads: Mapping[str, nn.Module] | None, encoder: nn.Module | None, stream: Stream | None,
    device: torch.device | str, keywords: dict[str, Any],
) -> Merged:  # fmt: skip
    with told():
        aligned = open_aligned(base, {task: Path(path) for task, path in experts.items()})
        plan = Plan(aligned, method, dict(keywords), weights)
        check(plan)
        _check_stream(plan.about, stream, plan.parameters)
        merged = merge_experts(plan, open_experts(plan, heads=heads, encoder=encoder, device=device), stream)
        if out is not None:
            notes = [*aligned.notes, *plan.said]
            with new_folder(Path(out)) as written:
                write(plan, written, merged=merged, device=device)
                said = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
                command = f"symerge_bench.merge({method!r}, base, experts{', ' + said if said else ''})"
                card.write_card(written, card.describe(plan, command, notes), aligned)
    return merged


def evaluate(
    merged: Merged, data: Mapping[str, Iterable[tuple[Any, Tensor]]], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Top-1 accuracy in percent of the merge on each task, and their mean under ``"mean"``.

    Args:
        merged: made with an encoder and heads.
        data: ``{task: batches}`` of ``(inputs, labels int64 [B])``, e.g. a ``torch.utils.data.DataLoader``.

    Raises:
        UserError: a task without samples; MergingError: a merge that has no encoder or heads, an unknown task.
    """
    scores = {}
    for task, batches in data.items():
        model = merged.model(task).to(device)
        correct = count = 0
        with torch.inference_mode():
            for inputs, labels in batches:
                said = model(place(inputs, torch.device(device))).argmax(-1)
                correct += int((said.cpu() == labels.cpu()).sum())
                count += len(labels)
        if not count:
            raise UserError(f"no samples of {task!r} to evaluate on", "Give batches of (inputs, labels).")
        scores[task] = 100 * correct / count
    return {**scores, "mean": sum(scores.values()) / len(scores)} if scores else {}


class _Absent(LowRankState):
    """Stands for an expert that a saved merge does not hold: its tensors' names, and no tensor."""

    def __init__(self, task: str, base: Mapping[str, Tensor]) -> None:
        super().__init__(base, {})
        self.task = task

    def __getitem__(self, name: str) -> Tensor:
        raise MergingError(
            f"the merge needs {name} of the expert {self.task!r} itself, which lies not in its folder: keep the "
            "experts, or choose a method that stores what it needs"
        )


def load_merge(
    folder: str | Path, *, heads: Mapping[str, nn.Module] | None = None, encoder: nn.Module | None = None
) -> Merged:
    """A merge whose tasks have models of their own, from the folder that ``symerge-bench merge`` wrote.

    With ``encoder`` (its parameters under the base's names) and ``heads``, ``load_merge(...).model(task)`` runs.

    ``load_merge(folder).state_dict(task)`` is the task's whole model, under the base's names.

    Raises :class:`UserError` for a folder that holds no such merge.
    """
    return _load(Path(folder), heads=heads, encoder=encoder)[1]


def write_task(folder: str | Path, task: str, out: str | Path) -> None:
    """Write the model of one task of such a merge as a folder of its own, which loads as the base does.

    Raises :class:`UserError` for a folder that holds no such merge, or an ``out`` that is not free; MergingError for an
    unknown task.
    """
    base, merged = _load(Path(folder))
    if merged.wrap is not None:
        raise UserError(
            f"the models of {merged.trace.get('method', 'this merge')} are more than weights (a router or adapters run "
            "with them)", "Use load_merge(folder) with an encoder and heads, and its model(task)."
        )  # fmt: skip
    state = merged.state_dict(task)
    with new_folder(Path(out)) as folder:
        write_like(base, folder, [{name: state[name]} for name in merged.experts.names])
        copy_beside(base, folder)


def _load(folder: Path, **keywords: Any) -> tuple[Model, Merged]:
    if not (folder / MERGED).is_file() or not (folder / card.RECORD).is_file():
        raise UserError(
            f"{shown(folder)} holds no {MERGED}", "A merge that is one model for all tasks loads as its base does."
        )
    about = json.loads((folder / card.RECORD).read_text(encoding="utf-8"))
    base = open_model(_weights_beside(folder))
    whole = Experts(base.state, {task: _Absent(task, base.state) for task in about["tasks"]}, **keywords)
    return base, Merged.load(folder / MERGED, within(whole, about["names"]))


def _weights_beside(folder: Path) -> Path:
    """The base's weights in a merge's folder: the folder itself as transformers has it, or the one file."""
    others = [
        path for path in folder.iterdir()
        if path.suffix in (".safetensors", ".pt", ".pth", ".bin") and path.name != MERGED
    ]  # fmt: skip
    return others[0] if len(others) == 1 and not (folder / "config.json").is_file() else folder
