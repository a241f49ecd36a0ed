"""MASS: each input is routed to the tasks whose singular directions hold it, and a TSV-M merge of these answers.

MASS: MoErging through Adaptive Subspace Selection. Crisostomi, Zirilli, Gargiulo, Bucarelli, Scardapane, Silvestri,
Masi, Rodola, arXiv:2504.05342.

    theta(x) = theta0 + P([U_k]) diag([S_k]) P([V_k])^T  over k in T(x),    tau_k ~ U_k S_k V_k^T of rank int(r / K)
    T(x): the 3 largest of w above threshold, at least one;  w = softmax over k of the standardised -|x - V_k^T V_k x|
    x: the first token at the MLP of block int(3 L / 4) in a first pass through the TSV-M merge of all tasks

Reference: crisostomi/mass src/mass/utils/routing_methods.py and modules/router.py, which we follow: select="topk" on
l2 residuals is its default, "top1" takes the best task alone, router="mahalanobis" measures residuals by the covariance
of V_k's rows, plus 1e-3 on its diagonal. The code averages the latter's residuals over a batch, which then holds one
task; ours routes every sample by itself. Coefficient 1. Tensors that are no matrices are the mean of the chosen tasks'.
The layer is the code's for 12 blocks (9). Of the chosen tasks' heads the one with the largest logit answers; where that
is another task's head than the one asked for, the answer is of another task's classes and so wrong: the logits are then
the asked head's, negated. The code doubles text tensors that it leaves out of the merge; ours does not. No data and no
task id; stored are the base, the first merge and each task's factors.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from methods.api import Count, Experts, Footprint, Merged, MergingError, NotApplicable, Share, method
from methods.core.stream import pick
from methods.rebasin import hidden_units
from methods.tools.progression import Blocks
from methods.tools.spectral import inverse_root, significant, task_svd
from methods.tools.vectors import choice, fraction, is_matrix
from methods.tsv import triplets, tsv_m

RIDGE = 1e-3
#: Merges kept at once while a model answers, and sets of tasks whose small matrices are.
KEPT, KNOWN = 8, 64
Tasks = tuple[str, ...]
#: Of each merge: by set of tasks what stands between the factors of each tensor, for the models of all tasks.
_CORES: WeakKeyDictionary[Merged, dict[Tasks, dict[str, Tensor]]] = WeakKeyDictionary()


@method(
    title="MASS",
    paper="arXiv:2504.05342",
    needs=("matrices", "classes"),
    footprint=Footprint(decompositions=(3, 1), factors=True, serves=(16, 0), keeps=(2, 0)),
)
def mass(
    experts: Experts,
    *,
    router: Literal["l2", "mahalanobis"] = "l2",
    select: Literal["topk", "top1"] = "topk",
    threshold: Share = 0.2,
    temperature: Annotated[float, "(0, inf)"] = 1.0,
    most: Count = 3,
) -> Merged:
    """Merge for every input the tasks that it is routed to.

    Args:
        router: how an input's distance from a task's directions is measured.
        select: the tasks of a weight above ``threshold``, at most ``most``, or the best alone.
        temperature: of the softmax that makes weights of distances.

    Raises:
        NotApplicable: tasks that are no classifications, or an encoder without blocks of known MLPs.
    """
    choice("router", router, ("l2", "mahalanobis"))
    choice("select", select, ("topk", "top1"))
    fraction("threshold", threshold)
    if experts.statistics:
        raise NotApplicable("makes a model for every sample; statistics cannot be estimated for each")
    if other := [task for task in experts.tasks if experts.kind(task) != "classification"]:
        raise NotApplicable(f"compares the largest logits of all heads, and {other[0]!r} is no classification")
    options: dict[str, Any] = {"select": select, "threshold": threshold, "temperature": temperature, "most": most}
    options |= {"router": router, "layer": layer_of(experts), "batch_first": Blocks(experts).batch_first}
    extra = {}
    for name in experts.names:
        base = experts.base_tensor(name)
        for task in experts.tasks:
            vector = experts.task_vector(name, task, base)
            if not is_matrix(name, vector.shape):
                extra[f"{task}/vector/{name}"] = vector
                continue
            rank = triplets(vector.shape, len(experts))
            u, s, vh = task_svd(experts, name, task, rank, vector=vector)
            extra |= {f"{task}/left/{name}": u, f"{task}/values/{name}": s, f"{task}/right/{name}": vh}
    first = tsv_m(experts).shared
    return Merged(experts, first, extra=extra, wrap=routed, declared=experts.nbytes(), options=options)


def layer_of(experts: Experts) -> str:
    """The first weight of the MLP of block ``int(3 L / 4)``, whose input is routed by."""
    blocks = Blocks(experts)
    names = blocks.names(int(3 * len(blocks) / 4))
    return hidden_units({n: experts.base[n].shape for n in names})[0][0][0]


def residuals(features: Tensor, right: Tensor, router: str = "l2") -> Tensor:
    """How far ``features [B, d]`` are from each task's directions ``right [K, r, d]``, ``[B, K]``."""
    rest = features - (features @ right.transpose(1, 2)) @ right  # [K, B, d]
    if router == "l2":
        return rest.norm(dim=-1).T
    rows = right.double() - right.double().mean(1, keepdim=True)
    eye = torch.eye(right.shape[2], dtype=torch.float64, device=right.device)
    spread = rows.transpose(1, 2) @ rows / max(1, right.shape[1] - 1) + RIDGE * eye
    solved = torch.linalg.solve(spread, rest.double().transpose(1, 2))
    return (rest.double().transpose(1, 2) * solved).sum(1).sqrt().T.to(features.dtype)


def chosen(
    distances: Tensor, select: str = "topk", threshold: float = 0.2, temperature: float = 1.0, most: int = 3
) -> tuple[Tensor, Tensor]:
    """The weights ``[B, K]`` of tasks at ``distances [B, K]``, and which of them are merged, bool ``[B, K]``."""
    logits = -distances
    best = nn.functional.one_hot(logits.argmax(1), logits.shape[1])
    if select == "top1" or logits.shape[1] == 1:
        return best.to(logits.dtype), best.bool()
    logits = (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-6)
    weights = (logits / temperature).softmax(1)
    largest = torch.zeros_like(best).scatter_(1, weights.topk(min(most, weights.shape[1]), dim=1).indices, 1)
    return weights, (largest.bool() & (weights > threshold)) | best.bool()


def subspace_merge(merged: Merged, tasks: Tasks) -> dict[str, Tensor]:
    """The TSV-M merge of these tasks from their stored factors, on the experts' device."""
    experts, state = merged.experts, {}
    cores = _CORES.setdefault(merged, {})
    known = cores.pop(tasks) if tasks in cores else {}
    for name in experts.names:
        base = experts.base_tensor(name)
        if f"{tasks[0]}/vector/{name}" in merged.extra:
            state[name] = base + torch.stack(stored(merged, "vector", name, tasks)).mean(0)
            continue
        left = torch.cat(stored(merged, "left", name, tasks), 1).double()
        right = torch.cat(stored(merged, "right", name, tasks), 0).double()
        if name not in known:
            known[name] = core(left, stored(merged, "values", name, tasks), right)
        state[name] = base + ((left @ known[name]) @ right).to(base.dtype)
    # The last one used is at the end.
    cores[tasks] = known
    if len(cores) > KNOWN:
        del cores[next(iter(cores))]
    return state


def stored(merged: Merged, part: str, name: str, tasks: Tasks) -> list[Tensor]:
    """The tasks' stored tensors of one part, on the experts' device."""
    return [merged.extra[f"{task}/{part}/{name}"].to(merged.experts.device) for task in tasks]


def core(left: Tensor, values: list[Tensor], right: Tensor) -> Tensor:
    """``C [r, r]`` with ``left C right = P(left) diag(values) P(right)``, of a task's values those above rounding.

    ``left [m, r]`` and ``right [r, n]`` are stacked factors; everything is float64, so that nearly dependent ones may
    cancel.
    """
    all_values = torch.cat(values).double()
    kept = torch.cat([significant(s) for s in values])
    out = left.new_zeros(len(all_values), len(all_values))
    if bool(kept.any()):
        inner = (inverse_root(left[:, kept]) * all_values[kept]) @ inverse_root(right[kept].T)
        at = kept.nonzero().flatten()
        out[at[:, None], at] = inner
    return out


class Routed(nn.Module):
    """The model of one task, which nobody told its inputs' task."""

    def __init__(self, merged: Merged, task: str) -> None:
        super().__init__()
        self.merged, self.task = merged, task
        experts = merged.experts
        self.heads = nn.ModuleList(merged.head(t) for t in experts.tasks)
        self.layer = merged.options["layer"].removesuffix(".weight")
        self._states: dict[Tasks, dict[str, Tensor]] = {}
        self._samples: Counter[Tasks] = Counter()
        self._first: dict[str, Tensor] | None = None
        self._right: Tensor | None = None

    def features(self, inputs: Any) -> Tensor:
        """The first token that the routing layer is given in the first pass, ``[B, d]``."""
        experts = self.merged.experts
        if self._first is None:
            self._first = {n: t.to(experts.device) for n, t in self.merged.state_dict().items()}
        seen: list[Tensor] = []

        def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            hidden = arguments[0].detach().float()
            seen.append(
                hidden if hidden.ndim < 3 else hidden[:, 0] if self.merged.options["batch_first"] else hidden[0]
            )

        if experts.encoder is None:
            raise MergingError("mass runs the encoder and none was given; make the Experts with encoder=module")
        handle = experts.encoder.get_submodule(self.layer).register_forward_pre_hook(keep)
        try:
            experts.forward(self._first, self.task, inputs)
        finally:
            handle.remove()
        return seen[0]

    def state(self, tasks: Tasks, samples: int) -> dict[str, Tensor]:
        """The merge of these tasks, which so many ``samples`` need; those that most samples needed are kept."""
        self._samples[tasks] += samples
        if tasks not in self._states:
            # It is kept for calls to come, which need not be in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                state = subspace_merge(self.merged, tasks)
            if len(self._states) >= KEPT:
                rarest = min(self._states, key=self._samples.__getitem__)
                if self._samples[rarest] >= self._samples[tasks]:
                    return state
                del self._states[rarest]
            self._states[tasks] = state
        return self._states[tasks]

    def forward(self, inputs: Any) -> Tensor:
        experts, options = self.merged.experts, self.merged.options
        if self._right is None:
            parts = [self.merged.extra[f"{t}/right/{options['layer']}"] for t in experts.tasks]
            self._right = torch.stack(parts).to(experts.device)
        distances = residuals(self.features(inputs), self._right, options["router"])
        routing = {key: options[key] for key in ("select", "threshold", "temperature", "most")}
        masks, groups = chosen(distances, **routing)[1].unique(dim=0, return_inverse=True)
        own = experts.tasks.index(self.task)
        answers: list[tuple[Tensor, Tensor]] = []
        for number, mask in enumerate(masks):
            index = (groups == number).nonzero().flatten()
            members = mask.nonzero().flatten().tolist()
            state = self.state(tuple(experts.tasks[k] for k in members), len(index))
            features = experts.forward(state, self.task, pick(inputs, index))
            outputs = self.heads[own](features)
            surest = torch.stack([self.heads[k](features).amax(1) for k in members], 1).argmax(1)
            right = torch.tensor(members, device=surest.device)[surest] == own
            answers.append((index, torch.where(right[:, None], outputs, -outputs)))
        order = torch.cat([index for index, _ in answers]).argsort()
        return torch.cat([outputs for _, outputs in answers])[order]


def routed(merged: Merged, task: str, model: nn.Module) -> nn.Module:
    """The task's model, merged for every input."""
    return Routed(merged, task)
