"""FlexMerge: merge block by block, most similar first, and stop at the size you can afford.

Navigating the Accuracy-Size Trade-Off with Flexible Model Merging. Dhasade et al., ICLR 2026, arXiv:2505.23209.

    theta_k,block = theta0 + inner({tau_j : j in the block's cluster of k})
    every block starts with one cluster per task; repeat: over all blocks, merge the two clusters of one block
    whose vectors have the highest cosine; until stored parameters / parameters of one model <= size

Reference: sacs-epfl/flexmerge main_merge.py, Utils/merging_{datastructure,utils}.py. We follow it:
- inner: "avg" mean; "ta" scale * mean; "ties" scale * disjoint mean of vectors trimmed once over the whole model;
  "emr" for clusters of more than two tasks (unified vector, masks, a factor per block and task), smaller ones stay
  experts. A cluster is merged from its members' own vectors; a task that is alone keeps its expert.
- size counts a copy per cluster; with emr each member of a small cluster, or one copy and a bit per member of a
  large one and the base once per block. Its least is 1, with emr 2 + K / 32.
- similarity="constituents" compares members: linkage="single" is the least and "complete" the largest of their
  cosines (the code's names, the reverse of clustering's).
- its vision script runs ta with scale=1.5 and constituents; without --K nothing is trimmed (keep=1). Its search of
  scales on validation data is left out.
Ours departs: blocks are found from the names (for ViT towers they are the code's: resblocks.i.attn, .mlp, .ln_1,
.ln_2 and the modules outside); blocks that no expert changed are shared from the start and not counted; a zero
vector has cosine 0 (the code's NaN); equal cosines go to the block nearer the output. Stored: the clusters of every
block; the task id is needed unless every block ends in one cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, Natural, Share, method
from methods.core.blocks import parts
from methods.emr import elect, rescalers, unify
from methods.ties import disjoint_mean
from methods.tools.masks import fill, masked_tensor, room
from methods.tools.vectors import agreeing, choice, fraction, thresholds, total, trim

Clusters = list[list[int]]


class Step(NamedTuple):
    """One merge within a block: how similar the two clusters were, and the clusters after it."""

    similarity: float
    clusters: Clusters


@method(title="FlexMerge", paper="arXiv:2505.23209", footprint=Footprint(masks=True, tensor=(0, 3)))
def flexmerge(
    experts: Experts,
    *,
    inner: Literal["avg", "ta", "ties", "emr"] = "avg",
    size: Annotated[float, "[1, inf)"] = 1.0,
    merges: Natural | None = None,
    scale: float = 1.5,
    keep: Share = 1.0,
    similarity: Literal["merged", "constituents"] = "merged",
    linkage: Literal["average", "single", "complete"] = "single",
) -> Merged:
    """Merge similar blocks until the whole is small enough.

    Args:
        inner: ``"avg"``, ``"ta"``, ``"ties"`` or ``"emr"``.
        size: stop at this many models' worth of parameters, 1 to K.
        merges: stop after this many block merges instead.
        scale: coefficient of ``"ta"`` and ``"ties"``.
        keep: share of each task vector that ``"ties"`` keeps.
        similarity: ``"merged"`` compares the clusters' merged vectors, ``"constituents"`` their members.
        linkage: for constituents: ``"average"``, ``"single"`` (least) or ``"complete"`` (largest) of their cosines.
    """
    choice("inner", inner, ("avg", "ta", "ties", "emr"))
    choice("similarity", similarity, ("merged", "constituents"))
    choice("linkage", linkage, ("average", "single", "complete"))
    fraction("keep", keep)
    if not isinstance(size, (int, float)) or size < 1:
        raise MergingError(f"size is {size!r}; expected 1 (one model) to {len(experts)} (all), such as size=1.5")
    if merges is not None and (not isinstance(merges, int) or merges < 0):
        raise MergingError(f"merges is {merges!r}; expected None, or a number of block merges such as merges=20")
    limits = thresholds(experts, keep) if inner == "ties" and keep < 1 else None
    plans, counts = {}, {}
    groups = parts(experts.names)
    for part, names in groups.items():
        vectors = _flat(experts, names, limits)
        if bool(vectors.any()) or (limits is not None and bool(_flat(experts, names, None).any())):
            plans[part] = sequence(vectors, inner, linkage if similarity == "constituents" else None)
            counts[part] = vectors.shape[1]
    clusters, trace = _choose(plans, counts, len(experts), inner, size, merges)
    builder = _Builder(experts, inner, scale, limits)
    for part, names in groups.items():
        builder.add(part, names, clusters.get(part))
    return builder.merged(trace)


def sequence(vectors: Tensor, inner: str, linkage: str | None) -> list[Step]:
    """The merges of one block in order, down to one cluster.

    Args:
        vectors: ``[K, n]``; ``linkage``: how members are compared, ``None`` for the merged vectors.
    """
    clusters, ranks = {k: [k] for k in range(len(vectors))}, [1] * len(vectors)
    products = (vectors @ vectors.t()).to("cpu", torch.float64).numpy()
    lengths = products.diagonal() ** 0.5
    held = dict(enumerate(vectors))
    steps: list[Step] = []

    def alike(i: int, j: int) -> float:
        a, b = clusters[i], clusters[j]
        if linkage is not None:
            cos = products[a][:, b] / (lengths[a][:, None] * lengths[b] + 1e-8)
            return float(cos.mean() if linkage == "average" else cos.min() if linkage == "single" else cos.max())
        if inner in ("avg", "ta"):
            product, square = products[a][:, b].mean(), products[a][:, a].mean() * products[b][:, b].mean()
            return float(product / square**0.5) if square > 0 else 0.0
        length = float(held[i].norm() * held[j].norm())
        return float(held[i] @ held[j]) / length if length > 0 else 0.0

    table = {(i, j): alike(i, j) for j in clusters for i in range(j)}
    while table:
        i, j = max(sorted(table), key=table.__getitem__)
        similarity = table[i, j]
        root = j if ranks[i] < ranks[j] else i
        ranks[i] += ranks[i] == ranks[j]
        members = sorted(clusters.pop(i) + clusters.pop(j))
        # A pair under EMR stays two experts; the code goes on comparing it by its first one's vector.
        if linkage is None and (inner == "ties" or (inner == "emr" and len(members) > 2)):
            held[root] = _combine(vectors[members], inner)
        table = {pair: value for pair, value in table.items() if i not in pair and j not in pair}
        others, clusters[root] = list(clusters), members
        table.update({(min(o, root), max(o, root)): alike(min(o, root), max(o, root)) for o in others})
        steps.append(Step(similarity, sorted(clusters.values())))
    return steps


def copies(clusters: Clusters, inner: str) -> float:
    """Copies of a block that these clusters store."""
    if inner != "emr":
        return len(clusters)
    large = [len(c) for c in clusters if len(c) > 2]
    return sum(len(c) for c in clusters if len(c) <= 2) + sum(1 + n / 32 for n in large) + bool(large)


def _choose(
    plans: Mapping[str, list[Step]], counts: Mapping[str, int], tasks: int, inner: str, size: float, merges: int | None
) -> tuple[dict[str, Clusters], dict[str, object]]:
    """The clusters of every block where merging stops, and its trace."""
    clusters: dict[str, Clusters] = {part: [[k] for k in range(tasks)] for part in plans}
    done = dict.fromkeys(plans, 0)
    log: list[list[object]] = []
    whole = max(1, sum(counts.values()))
    stored = sum(copies(clusters[p], inner) * n for p, n in counts.items())
    while True:
        open_ = [p for p in plans if done[p] < len(plans[p])]
        if not open_ or (len(log) >= merges if merges is not None else stored <= size * whole * (1 + 1e-9)):
            break
        part = max(open_, key=lambda p: plans[p][done[p]].similarity)
        step = plans[part][done[part]]
        stored += (copies(step.clusters, inner) - copies(clusters[part], inner)) * counts[part]
        clusters[part], done[part] = step.clusters, done[part] + 1
        log.append([part, step.similarity])
    return clusters, {"size": stored / whole if counts else 1.0, "merges": len(log), "merge_log": log}


class _Builder:
    """Collects what is stored, block by block."""

    def __init__(self, experts: Experts, inner: str, scale: float, limits: Tensor | None) -> None:
        self.experts, self.inner, self.scale, self.limits = experts, inner, scale, limits
        self.shared: dict[str, Tensor] = {}
        self.extra: dict[str, Tensor] = {}
        self.blocks: list[dict[str, object]] = []
        self.declared = 0

    def add(self, part: str, names: list[str], clusters: Clusters | None) -> None:
        """Merge one block; ``None`` is a block that no expert changed."""
        nbytes = 4 * sum(self.experts.base[n].numel() for n in names)
        if clusters is None:
            self.declared += nbytes
            return
        masks = self.inner == "emr" and any(len(c) > 2 for c in clusters)
        self.declared += nbytes * (masks + sum(len(c) for c in clusters if _alone(c, self.inner)))
        if masks:
            self._mask(part, names, [c for c in clusters if len(c) > 2])
        elif self.inner != "emr" and any(len(c) > 1 for c in clusters):
            self._merge(names, clusters)
        if masks or len(clusters) > 1 or _alone(clusters[0], self.inner):
            self.blocks.append({"part": part, "names": names, "clusters": clusters})

    def _merge(self, names: list[str], clusters: Clusters) -> None:
        vectors = _flat(self.experts, names, self.limits)
        for members in (c for c in clusters if len(c) > 1):
            size = 1.0 if self.inner == "avg" else self.scale
            vector = _combine(vectors[members], self.inner).mul_(size)
            for name, piece in zip(names, vector.split([self.experts.base[n].numel() for n in names]), strict=True):
                base = self.experts.base_tensor(name)
                merged = base + piece.view(base.shape)
                if len(clusters) == 1:
                    self.shared[name] = merged
                else:
                    self.extra[f"cluster{members[0]}/{name}"] = merged

    def _mask(self, part: str, names: list[str], clusters: Clusters) -> None:
        factors = torch.ones(len(self.experts))
        for members in clusters:
            tasks = [self.experts.tasks[k] for k in members]
            self.extra.update(room(self.experts, names, tasks))
            lengths = torch.zeros(2, len(members), dtype=torch.float64)
            for name in names:
                unified, masks, length = unify(self.experts.task_vectors(name)[members])
                lengths += length / max(1, unified.numel())
                self.extra[f"cluster{members[0]}/{name}"] = unified
                fill(self.extra, name, tasks, masks)
            factors[members] = rescalers(lengths)
        self.extra[f"factors/{part}"] = factors

    def merged(self, trace: dict[str, object]) -> Merged:
        if not self.blocks:
            return Merged(self.experts, self.shared, trace=trace)
        return Merged(
            self.experts,
            self.shared,
            extra=self.extra,
            state=cluster_state,
            declared=self.declared,
            needs_task=True,
            trace=trace,
            options={"inner": self.inner, "blocks": self.blocks},
        )


def cluster_state(merged: Merged, task: str) -> Mapping[str, Tensor]:
    """The encoder of ``task``: each block from its cluster."""
    experts, inner = merged.experts, merged.options["inner"]
    k, state = experts.tasks.index(task), dict(merged.shared)
    for block in merged.options["blocks"]:
        members = next(c for c in block["clusters"] if k in c)
        for name in block["names"]:
            if _alone(members, inner):
                state[name] = experts.expert(task)[name]
            elif inner == "emr":
                factor = float(merged.extra[f"factors/{block['part']}"][k])
                state[name] = masked_tensor(merged, task, name, f"cluster{members[0]}/{name}", factor)
            else:
                state[name] = merged.extra[f"cluster{members[0]}/{name}"]
    return state


def _alone(members: list[int], inner: str) -> bool:
    """Whether the members of this cluster keep their own experts."""
    return len(members) == 1 or (inner == "emr" and len(members) == 2)


def _combine(vectors: Tensor, inner: str) -> Tensor:
    """The merged vector of a cluster, ``[k, n] -> [n]``, before scaling; ``vectors`` may be overwritten."""
    if inner in ("avg", "ta"):
        return vectors.mean(0)
    if inner == "emr":
        return elect(vectors)
    sums = total(vectors)
    positive = sums >= 0 if float(sums.sign().sum()) >= 0 else sums > 0
    return disjoint_mean(agreeing(vectors, positive), positive)


def _flat(experts: Experts, names: list[str], limits: Tensor | None) -> Tensor:
    """The task vectors of one block, ``[K, n]``, trimmed where there are limits."""
    rows = []
    for name in names:
        vectors = experts.task_vectors(name)
        rows.append((vectors if limits is None else trim(vectors, limits)).reshape(len(experts), -1))
    return torch.cat(rows, 1)
