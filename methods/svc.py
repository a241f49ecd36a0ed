"""SVC: the singular values of a merge are divided by how often the tasks' shared directions were counted.

When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging. Li, Peng, Zhang, Guo, Duan, Shi, ICML 2026,
arXiv:2602.05536.

    theta = theta0 + sum_r (sigma_r / eta_r) u_r v_r^T,    theta_inner - theta0 = sum_r sigma_r u_r v_r^T
    eta_r = mean_k max(s_rk, alpha),    s_rk = <a_r, a_rk> / |a_rk|^2,  a_r = sigma_r v_r^T,  a_rk = u_r^T tau_k

Reference: lyymuwu/SVC merge_func.py, which we follow: 2-D tensors but text projections and names with "embedding";
every other tensor stays the inner method's (the code's TSV-M leaves embeddings at their mean, ours does not). alpha is
relative to the scale of the inner merge: the code's script takes 1/K, which is our default, and 1 for TSV-M; its README
shows 0.1 and 0.5, its command line has 1. eta is below 1 where alpha is and a direction is weak: SVC then amplifies.
The calibration has no coefficient.
Ours departs where the code's result hangs on the decomposition's rounding: equal singular values (the merges of Iso-C
and Iso-CTS) have no singular directions of their own, so that each choice of them gives another merge. It is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from methods.api import Experts, Footprint, Merged, MergingError, MethodName, Natural, method
from methods.tools.inner import run, shared_state
from methods.tools.spectral import RANK_TOLERANCE, svd
from methods.tools.vectors import is_matrix

#: The share of a merge that may hang on rounding, through singular values that are nearly equal.
ARBITRARY = 0.1


@method(
    title="SVC",
    paper="arXiv:2602.05536",
    needs=("matrices",),
    footprint=Footprint(local=True, tensor=(10.4, 2.2), passes=1, decompositions=(1, 0), products=(2, 1)),
)
def svc(
    experts: Experts,
    *,
    inner: MethodName = "task_arithmetic",
    alpha: Annotated[float, "(0, inf)"] | None = None,
    target: str | Natural | None = None,
    row_space: bool = False,
) -> Merged:
    """Calibrate the singular values of what another method merged, by its default keywords and without data.

    Args:
        inner: the method that merges; it must give one encoder for all tasks.
        alpha: the least coefficient, above 0; default 1/K.
        target: calibrate for this task alone (its name or number): eta is 1 where it has no share in a direction.
        row_space: measure along the right singular directions.

    Raises:
        MergingError: the inner merge has no singular directions of its own (Iso-C, Iso-CTS).
    """
    merged = shared_state(run(inner, experts, outer="svc"), "svc", inner)
    vectors = {n: torch.sub(t.to(experts.device), experts.base_tensor(n)) for n, t in merged.shared.items()
               if n in experts.names and treated(experts, n)}  # fmt: skip
    again = from_vectors(experts, vectors, alpha=alpha, target=target, row_space=row_space)
    merged.shared.update(again.shared)
    return merged


def from_vectors(
    experts: Experts,
    vectors: Mapping[str, Tensor],
    *,
    alpha: float | None = None,
    target: str | int | None = None,
    row_space: bool = False,
) -> Merged:
    """SVC of a merge made elsewhere; the keywords as :func:`svc`.

    Args:
        vectors: ``{name: theta - theta0, [*shape]}`` of the merge, before calibration.
    """
    least = 1 / len(experts) if alpha is None else alpha
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not least > 0:
        raise MergingError(f"alpha is {alpha!r}; expected a number above 0, such as alpha=0.125, or none for 1/K")
    chosen = _task(experts, target)
    merged = {}
    for name, vector in vectors.items():
        base = experts.base_tensor(name)
        vector = vector.to(base)
        if treated(experts, name):
            tasks = experts.task_vectors(name) if chosen is None else experts.task_vectors(name)[chosen : chosen + 1]
            if row_space:
                vector, share = calibrated(vector.T, tasks.transpose(1, 2), least, chosen is not None)
                vector = vector.T
            else:
                vector, share = calibrated(vector, tasks, least, chosen is not None)
            if share > ARBITRARY:
                raise MergingError(
                    f"svc is not defined for this merge: the singular values of the merged {name} are nearly equal, so "
                    f"that {min(share, 1):.0%} of the result would hang on rounding; expected a method that does not "
                    "flatten the spectrum, as iso_c and iso_cts do, such as inner='task_arithmetic' or inner='tsv_m'"
                )
        merged[name] = base + vector
    return Merged(experts, merged)


def treated(experts: Experts, name: str) -> bool:
    """Whether a tensor is calibrated."""
    return "embedding" not in name and is_matrix(name, experts.base[name].shape)


def _task(experts: Experts, target: str | int | None) -> int | None:
    """The number of the task that is meant."""
    if target is None:
        return None
    if isinstance(target, int):
        if 0 <= target < len(experts):
            return target
        raise MergingError(f"target is {target}; expected a task, 0 to {len(experts) - 1}, or its name")
    experts.expert(target)  # names the nearest task where there is none of this name
    return experts.tasks.index(target)


def calibrated(vector: Tensor, tasks: Tensor, alpha: float, single: bool = False) -> tuple[Tensor, float]:
    """The merged matrix ``[m, n]`` calibrated on ``tasks [K, m, n]``, and the share of it that hangs on rounding.

    Args:
        single: ``tasks`` is one task, and directions that it has no positive share in stay.
    """
    if not bool(vector.any()):
        return vector, 0.0
    u, s, _ = svd(vector)
    along = u.T @ vector  # [r, n]
    own = u.T @ tasks  # [K, r, n]
    shares = (along * own).sum(-1) / own.square().sum(-1).clamp(min=1e-12)
    factor = shares.clamp(min=alpha)
    if single:
        factor = factor.where(shares > 0, 1.0)
    factor = factor.mean(0)
    return (u / factor) @ along, arbitrary(s, factor)


def arbitrary(values: Tensor, factor: Tensor) -> float:
    """How much of ``sum_r (sigma_r / eta_r) u_r v_r^T`` rounding moves, relative to its norm.

    Rounding turns two directions into each other by about its size over the distance of their singular values; the
    merge moves where their factors differ. ``values [r]`` falling, ``factor [r]``.
    """
    s, inverse = values.double().cpu(), 1 / factor.double().cpu()
    size = float((s * inverse).square().sum())
    if not size:
        return 0.0
    turns = (RANK_TOLERANCE * s[0] / (s[:, None] - s).abs()).nan_to_num(nan=0.0, posinf=1.0).clamp(max=1.0)
    moved = turns * (inverse[:, None] - inverse) * s
    return float(moved.square().sum() / size) ** 0.5
