"""SyMerge and Model Tinting: coefficients and one task layer learned together from the experts' own predictions.

SyMerge: From Non-Interference to Synergistic Merging via Single-Layer Adaptation. arXiv:2412.19098 (its second
version: Model Tinting).

    SyMerge:          theta_l = theta0_l + sum_k lambda_lk tau_kl,  min over lambda, heads  sum_k E_x [kept] L(f_k, y_k)
    Model Tinting:    theta_l = theta0_l + sum_k lambda_lk tau_kl,  min over lambda, heads  sum_k E_x L(f_k, y_k)
    Model Tinting++:  as SyMerge, each batch a new draw of the samples
    f_k = h_k(f(x; theta)), x unlabelled, y_k what expert k predicts; kept: f_k and y_k agree, or the expert is as sure

References: AIM-SKKU/SyMerge src/main_symerge.py, AIM-SKKU/ModelTinting src/main_layer_wise_adamerging.py. Where the
code departs from the paper's text we follow the code, and the text's form is a keyword away:
- labels: the code takes the expert's argmax (``labels="hard"``); the text speaks of soft labels (``"soft"``).
- filter: the code keeps a sample if merged model and expert agree, or the expert is at least as sure
  (``select="agreement"``); the text describes the most confident share by the expert's largest softmax (``"top_p"``;
  its share is not published, ours is ``top_p=0.5``); Model Tinting keeps all (``"all"``).
- learning rate: 1e-2 when a layer is adapted, 1e-3 for coefficients alone; the text says AdaMerging's (1e-3).
- one Adam step after each task's batch, tasks in shuffled order; Adam skips the heads that a batch does not reach.
- autocast is the run's choice here (the code always has it on).
An empty selection is a zero loss with zero gradients (NaN with zero gradients in the code); Adam steps all the same.
Regression-like tasks have no argmax: their self-label loss is L1 on all samples, as the paper has it for dense
prediction; labels and select do not apply to them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.adamerging import coefficient_trace
from methods.api import (
    LABELLED,
    UNLABELLED,
    Access,
    Batch,
    Count,
    Experts,
    Footprint,
    Merged,
    MergingError,
    Natural,
    NonNegative,
    Share,
    Stream,
    method,
    variant,
)
from methods.tools.adaptation import ExpertOutputs, adapt, entropy
from methods.tools.coefficients import LayerwiseMerge
from methods.tools.losses import labelled, mean_where
from methods.tools.vectors import choice, fraction

Layer = Literal["head", "last_block", "none"]
Labels = Literal["hard", "soft", "entropy", "truth"]
Select = Literal["agreement", "top_p", "all"]


@method(
    title="SyMerge",
    paper="arXiv:2412.19098",
    access=Access(test=UNLABELLED),
    access_if={("labels", "truth"): Access(test=LABELLED)},
    footprint=Footprint(vectors=True, teacher=True, merges=(0, 1)),
)
def symerge(
    experts: Experts,
    stream: Stream,
    *,
    steps: Natural = 500,
    lr: NonNegative | None = None,
    prior: float = 0.3,
    batch_size: Count = 32,
    adapt: Layer = "head",
    coefficients: bool = True,
    labels: Labels = "hard",
    select: Select = "agreement",
    clamp: bool = True,
    replace: bool = False,
    top_p: Share = 0.5,
    seed: int = 0,
) -> Merged:
    """Learn layer-wise coefficients and one layer per task from the experts' filtered predictions.

    Args:
        steps: rounds over all tasks, one update per task and round.
        lr: Adam's rate; ``None`` is 1e-2 when a layer is adapted and 1e-3 otherwise.
        prior: what every coefficient starts from.
        adapt: ``"head"`` (of a decoder its last layer), ``"last_block"`` (started from the expert's, kept per task) or
            ``"none"``.
        coefficients: learn them too; ``False`` leaves all at ``prior``.
        labels: ``"hard"``, ``"soft"``, ``"entropy"`` (no expert: the merged model's own entropy) or ``"truth"``
            (oracle: needs labels).
        select: which samples count: ``"agreement"``, ``"top_p"`` (the share ``top_p`` the expert is surest of) or
            ``"all"``.
        clamp: keep coefficients in [0, 1].
        replace: draw every batch from a fresh shuffle.
        seed: the stream's seed.
    """
    return learn(
        experts,
        stream,
        steps=steps,
        lr=lr,
        prior=prior,
        batch_size=batch_size,
        layer=adapt,
        coefficients=coefficients,
        labels=labels,
        select=select,
        clamp=clamp,
        replace=replace,
        top_p=top_p,
    )


model_tinting = variant(
    symerge,
    title="Model Tinting",
    paper="arXiv:2412.19098v2",
    summary="SyMerge's second version: every sample counts, each batch is from a fresh shuffle.",
    select="all",
    replace=True,
)

model_tinting_pp = variant(
    symerge,
    title="Model Tinting++",
    paper="arXiv:2412.19098v2",
    summary="Model Tinting with the agreement filter.",
    replace=True,
)


def learn(
    experts: Experts,
    stream: Stream,
    *,
    steps: int,
    lr: float | None,
    prior: float,
    batch_size: int,
    layer: str,
    coefficients: bool,
    labels: str,
    select: str,
    clamp: bool,
    replace: bool,
    top_p: float,
) -> Merged:
    """What ``symerge`` and its variants do; ``layer`` is their keyword ``adapt``."""
    choice("adapt", layer, ("head", "last_block", "none"))
    choice("labels", labels, ("hard", "soft", "entropy", "truth"))
    choice("select", select, ("agreement", "top_p", "all"))
    fraction("top_p", top_p)
    blocks = _last_blocks(experts) if layer == "last_block" else {}
    merge = LayerwiseMerge(experts, prior=prior, clamp=clamp, skip=tuple(next(iter(blocks.values()), {})))
    merge.raw.requires_grad_(coefficients)
    heads = {task: experts.copy_head(task).eval() for task in experts.tasks}
    if layer != "head":
        for head in heads.values():
            head.requires_grad_(False)
    fixed = None if coefficients else merge.merged()
    needs_expert = labels in ("hard", "soft") or (labels == "truth" and select != "all")
    teacher = (
        ExpertOutputs(experts, stream, steps=steps, batch_size=batch_size, replace=replace) if needs_expert else None
    )

    def loss(task: str, batch: Batch) -> Tensor:
        state = {**(merge() if fixed is None else fixed), **blocks.get(task, {})}
        outputs = heads[task](experts.forward(state, task, batch.inputs))
        return self_label_loss(
            outputs,
            teacher(task, batch) if teacher else None,
            batch.labels,
            kind=experts.kind(task),
            labels=labels,
            select=select,
            top_p=top_p,
        )

    trained = [
        merge.raw,
        *(p for h in heads.values() for p in h.parameters()),
        *(p for b in blocks.values() for p in b.values()),
    ]
    trace = adapt(
        stream,
        trained,
        loss,
        steps=steps,
        lr=(1e-3 if layer == "none" else 1e-2) if lr is None else lr,
        batch_size=batch_size,
        replace=replace,
    )
    state = merge.merged()
    if blocks:
        state.update({n: experts.base_tensor(n) for n in next(iter(blocks.values()))})
    return Merged(
        experts,
        state,
        heads={t: h.state_dict() for t, h in heads.items()} if layer == "head" else None,
        layers=blocks,
        trace={**trace, **coefficient_trace(merge)},
    )


def self_label_loss(
    outputs: Tensor,
    expert: Tensor | None,
    truth: Tensor | None,
    *,
    kind: str,
    labels: str,
    select: str,
    top_p: float = 0.5,
) -> Tensor:
    """The loss of one batch against the expert's predictions.

    Args:
        outputs: the merged model's, ``[B, C]`` (``[B, C, H, W]`` for segmentation: every pixel is a sample).
        expert: the expert's, of the same shape; not needed for entropy, or for truth without a filter.
        truth: labels ``[B]``, for ``labels="truth"`` only; pixels without one (as in ``supervised_loss``) do not count.
        kind: the task's; tasks without classes take L1.

    Returns:
        A scalar; 0 with zero gradients where no sample is kept.
    """
    if kind not in ("classification", "segmentation"):
        target: Any = truth if labels == "truth" else expert
        if target is None:
            raise MergingError(
                f"labels={labels!r} has no meaning for a {kind} task; use labels='hard' (L1 to the expert's outputs)"
            )
        if labels == "truth" and kind in ("depth", "normals"):
            valid = labelled(kind, target, 0)
            valid = valid.view_as(outputs) if kind == "depth" else valid.unsqueeze(1).expand_as(outputs)
            return mean_where((outputs.float() - target.float().view_as(outputs)).abs(), valid)
        return F.l1_loss(outputs.float(), target.float().view_as(outputs))
    logits = _rows(outputs)
    sure = _rows(expert).softmax(-1) if expert is not None else None
    has_label: Tensor | None = None
    if labels == "entropy":
        each = entropy(logits)
        sure = logits.detach().softmax(-1) if sure is None else sure
    elif labels == "soft":
        assert sure is not None
        each = -(sure * logits.log_softmax(-1)).sum(-1)
    else:
        target = (
            truth.reshape(-1)
            if labels == "truth" and truth is not None
            else sure.argmax(-1)
            if sure is not None
            else None
        )
        if target is None or (labels == "truth" and truth is None):
            raise MergingError("labels='truth' needs a stream with labels; its access is labelled test")
        if labels == "truth" and kind == "segmentation":
            has_label = labelled(kind, target, logits.shape[1])
            target = target.where(has_label, 0)
        each = F.cross_entropy(logits, target, reduction="none")
    if select == "all":
        return each.mean() if has_label is None else mean_where(each, has_label)
    assert sure is not None
    keep = selection(logits.detach().softmax(-1), sure, select, top_p)
    return mean_where(each, keep if has_label is None else keep & has_label)


def selection(merged: Tensor, expert: Tensor, select: str, top_p: float) -> Tensor:
    """The samples that count: bool ``[N]`` from probabilities ``[N, C]``."""
    if select == "top_p":
        confidence = expert.amax(-1)
        most = max(1, round(top_p * len(confidence)))
        return torch.zeros_like(confidence, dtype=torch.bool).index_fill_(0, confidence.topk(most).indices, True)
    agree = merged.argmax(-1) == expert.argmax(-1)
    return agree | (expert.amax(-1) >= merged.amax(-1))


def _rows(outputs: Tensor) -> Tensor:
    """``[B, C, ...]`` as float32 rows ``[N, C]``."""
    outputs = outputs.float()
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]) if outputs.ndim > 2 else outputs


def _last_blocks(experts: Experts) -> dict[str, dict[str, nn.Parameter]]:
    """Every expert's own last block, to be trained."""
    blocks: dict[str, dict[str, nn.Parameter]] = {}
    for task in experts.tasks:
        names = experts.adaptable(task).get("last_block")
        if not names:
            raise MergingError(
                f"adapt='last_block': no numbered blocks among the encoder's tensors (first: {experts.names[0]}); "
                "allowed here: adapt='head', adapt='none'"
            )
        blocks[task] = {
            n: nn.Parameter(experts.expert(task)[n].to(experts.device, torch.float32).clone()) for n in names
        }
    return blocks
