"""One layer per task adapted on any merged encoder: the control that tells transfer from mere training of a layer.

    min over the layer of task k of  E_x L( f_k(x; theta, layer), f_k(x; theta_k) ),   x unlabelled, theta frozen

Losses, labels, filter, optimiser and data are those of the source (``methods/symerge.py`` for heads and last blocks,
``methods/surgery.py`` for corrections of features), so that a recipient's own adaptation costs the same budget of
images and updates as the layers that are transferred to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.api import Batch, Merged, NotApplicable, Stream, TaskModel
from methods.surgery import Correction, Frozen, on_top
from methods.symerge import self_label_loss
from methods.tools.adaptation import ExpertOutputs, adapt

#: Keywords of an adaptation and the values it takes where the source has none of that name.
DEFAULTS: dict[str, Any] = {
    "steps": 500, "lr": 1e-2, "batch_size": 32, "labels": "hard", "select": "agreement", "top_p": 0.5, "replace": False,
}  # fmt: skip
CORRECTION: dict[str, Any] = {"steps": 500, "lr": 1e-3, "batch_size": 16, "batches_per_task": 2, "rank": 16}


def layer_of(layers: Merged) -> str:
    """Which layer a run adapted: ``"head"``, ``"last_block"`` or ``"correction"``."""
    if layers.wrap is not None:
        return "correction"
    return "last_block" if layers.layers else "head"


def budget(layer: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of an adaptation of ``layer`` with the budget of a run that had these ``parameters``."""
    usual = CORRECTION if layer == "correction" else DEFAULTS
    found = {key: parameters.get(key, value) for key, value in usual.items()}
    return {"layer": layer, **found, "lr": found["lr"] or usual["lr"]}


def adapt_layer(merged: Merged, stream: Stream, *, layer: str, seed: int = 0, **keywords: Any) -> Merged:
    """``merged`` with one layer per task adapted to the experts' predictions, its encoder frozen.

    Args:
        layer: ``"head"``, ``"last_block"`` (started from the expert's) or ``"correction"``.
        keywords: as :func:`budget` gives them.

    Raises:
        NotApplicable: the merge has modules around its model that the layer cannot be put behind.
    """
    if layer == "head":
        return _heads(merged, stream, **keywords)
    if layer == "last_block":
        return _blocks(merged, stream, **keywords)
    return _corrections(merged, stream, seed=seed, **keywords)


def _heads(merged: Merged, stream: Stream, **keywords: Any) -> Merged:
    models = {task: _parts(merged, task) for task in merged.experts.tasks}
    heads = {task: _trainable(merged, task) for task in merged.experts.tasks}

    def encoder(task: str) -> Callable[[Any], Tensor]:
        return lambda inputs: models[task].encoder(inputs)

    features = ExpertOutputs(merged.experts, stream, run=encoder, **_draws(keywords))
    trained = [p for head in heads.values() for p in head.parameters()]
    trace = _train(merged, stream, trained, lambda task, batch: heads[task](features(task, batch)), keywords)
    made = merged.with_adapted({task: {"head": head.state_dict()} for task, head in heads.items()})
    made.trace = trace
    return made


def _blocks(merged: Merged, stream: Stream, **keywords: Any) -> Merged:
    experts = merged.experts
    if merged.wrap is not None:
        raise NotApplicable("a last block is adapted on plain encoders; this merge puts modules around its model")
    states, blocks, heads = {}, {}, {}
    for task in experts.tasks:
        names = experts.adaptable(task).get("last_block")
        if not names:
            raise NotApplicable("this encoder has no numbered blocks, so there is no last one to adapt")
        states[task] = {n: t.to(experts.device) for n, t in merged.state_dict(task).items()}
        heads[task] = merged.head(task).to(experts.device).eval().requires_grad_(False)
        start = experts.expert(task)
        blocks[task] = {n: nn.Parameter(start[n].to(experts.device, torch.float32).clone()) for n in names}

    def outputs(task: str, batch: Batch) -> Tensor:
        return heads[task](experts.forward({**states[task], **blocks[task]}, task, batch.inputs))

    trained = [p for block in blocks.values() for p in block.values()]
    trace = _train(merged, stream, trained, outputs, keywords)
    made = merged.with_adapted({t: {"layers": {n: p.detach() for n, p in b.items()}} for t, b in blocks.items()})
    made.trace = trace
    return made


def _corrections(merged: Merged, stream: Stream, *, seed: int, **keywords: Any) -> Merged:
    if merged.wrap is not None:
        raise NotApplicable("features are corrected on merges without modules of their own around the model")
    draws = keywords["batches_per_task"]
    frozen = Frozen(
        merged.experts, stream, merged, steps=keywords["steps"], batch_size=keywords["batch_size"], draws=draws
    )
    generator = torch.Generator().manual_seed(seed)
    modules = {
        task: Correction(frozen.width, keywords["rank"], generator).to(merged.experts.device)
        for task in merged.experts.tasks
    }
    trace = adapt(
        stream,
        [p for module in modules.values() for p in module.parameters()],
        lambda task, batch: F.l1_loss(modules[task](frozen.ours(task, batch)), frozen.theirs(task, batch)),
        steps=keywords["steps"],
        lr=keywords["lr"],
        batch_size=keywords["batch_size"],
        draws=draws,
        split="test",
    )
    return on_top(merged, {task: module.state_dict() for task, module in modules.items()}, trace, needs_task=True)


def _train(
    merged: Merged,
    stream: Stream,
    trained: list[nn.Parameter],
    outputs: Callable[[str, Batch], Tensor],
    keywords: Mapping[str, Any],
) -> dict[str, Any]:
    experts, labels, select = merged.experts, keywords["labels"], keywords["select"]
    needs_expert = labels in ("hard", "soft") or (labels == "truth" and select != "all")
    teacher = ExpertOutputs(experts, stream, **_draws(keywords)) if needs_expert else None

    def loss(task: str, batch: Batch) -> Tensor:
        return self_label_loss(
            outputs(task, batch),
            teacher(task, batch) if teacher else None,
            batch.labels,
            kind=experts.kind(task),
            labels=labels,
            select=select,
            top_p=keywords["top_p"],
        )

    return adapt(stream, trained, loss, lr=keywords["lr"], **_draws(keywords))


def _trainable(merged: Merged, task: str) -> nn.Module:
    """The merge's head; what may be trained of it, as of the expert's, requires gradients."""
    head = merged.experts.copy_head(task).eval()
    head.load_state_dict(merged.head(task).state_dict())
    return head


def _draws(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {key: keywords[key] for key in ("steps", "batch_size", "replace")}


def _parts(merged: Merged, task: str) -> TaskModel:
    model = merged.model(task)
    if not isinstance(model, TaskModel):
        raise NotApplicable(f"the model of {task} is a {type(model).__name__}, not an encoder with a head to adapt")
    return model
