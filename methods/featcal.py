"""FeatCal: the blocks of a merge are calibrated one after the other towards the features of the experts.

FeatCal: Feature Calibration for Post-Merging Models. Gu, Cai, Wang, Wang, Wang, Wang, Huang, Lu, Wu, Yang,
arXiv:2605.13030.

    W = (sum_k C_k W_k^T / n_k + ridge A^T)^T (sum_k S_k / n_k + (ridge + floor) I)^-1,    n_k = || S_k ||_F
    S_k = E x_s x_s^T,  C_k = E x_s x_t^T,  x_t = mix x_e + (1 - mix) x_s,   A = base + extrapolation (merge - base)

x_s is what a linear layer is given in the merge's own block when the calibrated blocks below run on task k's samples,
x_e in the expert's block in the expert itself; A anchors the solution. Biases follow from the means of x_s and x_t, and
the two parameters of a norm, channel by channel, from a 2 x 2 system in its normalised input. Reference: egangu/featcal
src/featcal/featcal.py and solver.py, which we follow: the start is task arithmetic at 0.3; all layers of a block are
calibrated on one run of it, then replaced together; in the last block every token but the first weighs 0.01, for all
layers but keys and values; what is outside the blocks, and what is no linear layer or norm, stays the start's. Defaults
are the code's (the paper's text has extrapolation 2.0 and mix 0.3). Sums are in float64. Padding of texts weighs 0.
Nothing is stored per task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.api import UNLABELLED, Access, Count, Experts, Footprint, Merged, NonNegative, Portion, Stream, method
from methods.tools.activations import layers, samples
from methods.tools.progression import Blocks, Call, each, weights_of_rows
from methods.tools.vectors import per_tensor

FLOOR = 1e-8
OTHER_TOKENS = 0.01
#: Which rows of a packed in-projection have token weights in the last block: the query's, not the key's and value's.
QUERY, KEY_VALUE = "query", "key and value"
_KEY_VALUE = re.compile(r"(^|[._])(k_proj|v_proj|key|value|k_lin|v_lin)\.weight$")


@method(
    title="FeatCal",
    paper="arXiv:2605.13030",
    access=Access(train=UNLABELLED),
    needs=("matrices",),
    footprint=Footprint(statistics="grams"),
)
def featcal(
    experts: Experts,
    stream: Stream,
    *,
    prior: float = 0.3,
    examples: Count = 256,
    ridge: NonNegative = 0.05,
    extrapolation: float = 2.2,
    mix: Portion = 0.25,
    bias: bool = True,
    norms: bool = True,
) -> Merged:
    """Calibrate task arithmetic, block by block, on the features of unlabelled samples.

    Args:
        prior: coefficient of task arithmetic, the start.
        examples: unlabelled training samples per task.
        ridge: weight of the anchor, the start beyond itself: ``base + extrapolation * (start - base)``.
        mix: share of the expert's features in the target; the rest is the merge's own.
        bias, norms: calibrate these as well.
    """
    blocks = Blocks(experts)
    merged = per_tensor(experts, lambda vectors: prior * vectors.sum(0))
    kinds = {kind: set(layers(experts, kind)) for kind in ("linear", "projection", "norm")}
    batches = {task: list(samples(stream, task, examples)) for task in experts.tasks}
    with torch.no_grad():
        start = {**experts.state(), **merged}
        ours = {task: [blocks.enter(start, task, batch) for batch in drawn] for task, drawn in batches.items()}
        theirs: dict[str, list[Call]] = {}
        for task, drawn in batches.items():
            state = experts.state(task)
            theirs[task] = [blocks.enter(state, task, batch) for batch in drawn]
        for number in range(len(blocks)):
            names = set(blocks.names(number))
            wanted = {n for kind in kinds.values() for n in kind if n in names}
            last = number == len(blocks) - 1
            moments = {task: statistics(blocks, number, task, merged, wanted, ours, theirs, mix, last) for task in ours}
            for name in wanted:
                if name in kinds["norm"]:
                    if norms:
                        merged |= calibrated_norm(experts, name, moments, merged, ridge, extrapolation)
                else:
                    merged |= calibrated(experts, name, moments, merged, ridge, extrapolation, bias)
            each(blocks, number, dict.fromkeys(experts.tasks, merged), ours)
    return Merged(experts, merged)


@dataclass
class Moments:
    """Weighted sums over rows: of x_s x_s^T, x_s x_t^T, x_s and x_t; of a norm's z (``own``) and z^2 (``square``)."""

    weight: float = 0.0
    square: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    own: Tensor | float = 0.0
    target: Tensor | float = 0.0

    def add(self, ours: Tensor, target: Tensor | None, weights: Tensor) -> None:
        """Add rows ``[n, in]`` weighted by ``[n]``; without a target those of a norm."""
        weighted = ours * weights[:, None]
        self.weight += float(weights.sum())
        self.own = self.own + weighted.sum(0)
        if target is None:
            self.square = self.square + (weighted * ours).sum(0)
            return
        self.square = self.square + weighted.T @ ours
        self.cross = self.cross + weighted.T @ target
        self.target = self.target + (target * weights[:, None]).sum(0)

    def mean(self, what: str) -> Tensor:
        """One of the sums over the weight of all rows."""
        value: Tensor = getattr(self, what)
        return value / self.weight


def statistics(
    blocks: Blocks,
    number: int,
    task: str,
    merged: dict[str, Tensor],
    wanted: set[str],
    ours: dict[str, list[Call]],
    theirs: dict[str, list[Call]],
    mix: float,
    last: bool,
) -> dict[tuple[str, str], Moments]:
    """What one task's samples say of each wanted layer of a block; the expert's calls become those of the next block.

    Keys are ``(name, rows)``, rows ``""`` or, of a packed in-projection, ``QUERY`` and ``KEY_VALUE``.
    """
    expert = blocks.expert(number, task)
    moments: dict[tuple[str, str], Moments] = {}
    for place, (call, other) in enumerate(zip(ours[task], theirs[task], strict=True)):
        seen, _ = blocks.inputs(number, merged, call, wanted)
        goal, after = blocks.inputs(number, expert, other, wanted)
        theirs[task][place] = after
        plain = weights_of_rows(call, blocks.batch_first).double()
        weighted = weights_of_rows(call, blocks.batch_first, OTHER_TOKENS).double() if last else plain
        for name, rows in seen.items():
            x = rows.double()
            norm = blocks.experts.base[name].ndim == 1
            target = None if norm else mix * goal[name].double() + (1 - mix) * x
            packed = name.endswith("in_proj_weight")
            alone = plain if _KEY_VALUE.search(name) else weighted
            for part, weights in ((QUERY, weighted), (KEY_VALUE, plain)) if packed else (("", alone),):
                moments.setdefault((name, part), Moments()).add(x, target, weights)
    return moments


def anchor(experts: Experts, name: str, merged: dict[str, Tensor], extrapolation: float) -> Tensor:
    """``base + extrapolation (start - base)``, float64."""
    base = experts.base_tensor(name).double()
    return base + extrapolation * (merged[name].double() - base)


def calibrated(
    experts: Experts,
    name: str,
    moments: dict[str, dict[tuple[str, str], Moments]],
    merged: dict[str, Tensor],
    ridge: float,
    extrapolation: float,
    with_bias: bool,
) -> dict[str, Tensor]:
    """The weight of one linear layer, and its bias where it has one."""
    weight, bias_name = anchor(experts, name, merged, extrapolation), name.removesuffix("weight") + "bias"
    has_bias = with_bias and bias_name in experts.names
    bias = anchor(experts, bias_name, merged, extrapolation) if has_bias else None
    third = len(weight) // 3
    rows = {"": slice(None), QUERY: slice(0, third), KEY_VALUE: slice(third, None)}
    for part in [part for (n, part) in moments[experts.tasks[0]] if n == name]:
        own, at = {task: moments[task][name, part] for task in experts.tasks}, rows[part]
        squares = {task: each_task.mean("square") for task, each_task in own.items()}
        norms = {task: square.norm().clamp(min=FLOOR) for task, square in squares.items()}
        left = (ridge + FLOOR) * torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
        right = ridge * weight[at].T
        for task in experts.tasks:
            left += squares[task] / norms[task]
            expert = experts.expert_tensor(name, task).double()[at]
            right = right + own[task].mean("cross") @ expert.T / norms[task]
        weight[at] = torch.linalg.solve(left, right).T
        if bias is None:
            continue
        total, share = ridge * bias[at], torch.full((), ridge, dtype=torch.float64, device=weight.device)
        for task in experts.tasks:
            expert, shift = (experts.expert_tensor(n, task).double()[at] for n in (name, bias_name))
            wanted, given = expert @ own[task].mean("target"), weight[at] @ own[task].mean("own")
            total = total + (shift + wanted - given) / norms[task]
            share = share + 1 / norms[task]
        bias[at] = total / share
    found = {name: weight.float()}
    return found if bias is None else {**found, bias_name: bias.float()}


def calibrated_norm(
    experts: Experts,
    name: str,
    moments: dict[str, dict[tuple[str, str], Moments]],
    merged: dict[str, Tensor],
    ridge: float,
    extrapolation: float,
) -> dict[str, Tensor]:
    """The weight and bias of one norm: the line through the experts' outputs over its normalised input, by channel."""
    bias_name = name.removesuffix("weight") + "bias"
    if bias_name not in experts.names:
        return {}
    gain, shift = (anchor(experts, n, merged, extrapolation) for n in (name, bias_name))
    square, first, count = torch.full_like(gain, ridge), torch.zeros_like(gain), len(experts) + ridge
    up, down = ridge * gain, ridge * shift
    for task in experts.tasks:
        own = moments[task][name, ""]
        m1, m2 = own.mean("own"), own.mean("square")
        weight, bias = (experts.expert_tensor(n, task).double() for n in (name, bias_name))
        square, first = square + m2, first + m1
        up, down = up + m2 * weight + m1 * bias, down + m1 * weight + bias
    determinant = (square * count - first**2).clamp(min=FLOOR)
    return {
        name: ((up * count - first * down) / determinant).float(),
        bias_name: ((square * down - first * up) / determinant).float(),
    }
