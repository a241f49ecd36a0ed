"""Adam on a quadratic whose gradient at X is 2 (X C + R), with few of its products.

Adam works on every entry by itself, so it has no closed form in the eigenvectors of C; but X moves smoothly, and so
does X C. It is split into what is stiff, which every step computes, and the rest, which few steps compute:

    X C = (X Q) (Q^T C) + X * d + X H,    Q: leading directions of C;  d: the diagonal of the rest;  H: all else

X H is computed at some steps, the nodes, and between them foretold by the cubic through the last four. At every node
the foretold product is held against the computed one, in units of each entry's own step: from that follows how far the
next node may be, one step where the gradient is not smooth. Rows of X do not touch one another; they go in groups of
like size of R, as small rows are stiffer, and each group has its own nodes. Against every product computed, entries of
experts' merged matrices (moved by up to 7e-3) differed by 2e-6 at most and 2e-8 in the mean; one step is 1e-5, and
rounding in float32 makes 3e-9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS, EPSILON = (0.9, 0.999), 1e-8
#: Nodes that foretell, and steps at the start that are all nodes.
NODES, FIRST = 4, 5
#: What foretold gradients may miss, in units of each entry's root mean square of gradients; the norm is the fourth
#: power's, as few entries with small gradients miss the most.
MISS = 1e-3
#: The farthest that two nodes are apart, and by what their distance grows or shrinks from one to the next.
FARTHEST, SHRINK, GROW = 24, 0.5, 1.5
#: Directions computed at every step: so many for each 768 columns, which fill a processor's registers.
DIRECTIONS = 16
#: Rows that go together at least, and entries: what a processor's cache holds, and what keeps a GPU busy.
ROWS, ENTRIES, ENTRIES_OF_GPU = 192, 1 << 16, 1 << 24


def descend(start: Tensor, c: Tensor, r: Tensor, steps: int, lr: float) -> Tensor:
    """``start [m, n]`` after ``steps`` steps of Adam; the gradient is ``2 ((M - start) c + r)``.

    ``c [n, n]`` is used up.
    """
    entries = ENTRIES if start.device.type == "cpu" else ENTRIES_OF_GPU
    rows = max(ROWS, entries // len(c))
    parts = split(c, min(DIRECTIONS * math.ceil(len(c) / 768), max(1, len(c) // 8)))
    groups = math.ceil(len(start) / rows)
    merged = start.clone()
    for group in r.norm(dim=1).argsort(stable=True).tensor_split(groups):
        merged.index_add_(0, group, moved(r[group], *parts, steps, lr))
    return merged


def split(c: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``Q [n, rank]``, ``Q^T C``, the diagonal of the rest ``[n]`` and all else ``[n, n]``, in place of C."""
    left = torch.randn(len(c), rank, generator=torch.Generator().manual_seed(0)).to(c)
    for _ in range(3):
        left = torch.linalg.qr(c @ left)[0]
    right = left.T @ c
    rest = c.addmm_(left, right, alpha=-1)
    diagonal = rest.diagonal().clone()
    rest.diagonal().zero_()
    return left, right, diagonal, rest


def moved(r: Tensor, left: Tensor, right: Tensor, diagonal: Tensor, rest: Tensor, steps: int, lr: float) -> Tensor:
    """How far ``steps`` steps go, ``[m, n]``; half the gradient is followed, with half of Adam's epsilon."""
    x, mean, square, gradient = (torch.zeros_like(r) for _ in range(4))
    products = [torch.zeros_like(r) for _ in range(NODES)]
    nodes: list[int] = []
    step = torch.zeros((), device=r.device)
    due, distance = 1, 1.0
    for now in range(1, steps + 1):
        computed = now == due
        checked = computed and now > FIRST
        if checked or not computed:
            foretold(r, products, nodes, now, out=gradient)
        if computed:
            # The oldest product makes room.
            products.append(torch.mm(x, rest, out=products.pop(0)))
            nodes = [*nodes[1 - NODES :], now]
            if checked:
                distance = further(distance, miss(gradient.sub_(r).sub_(products[-1]), square, now - 1))
            torch.add(r, products[-1], out=gradient)
            due = now + int(distance)
        gradient.addmm_(x @ left, right).addcmul_(x, diagonal)
        adam(
            [x], [gradient], [mean], [square], [], [step],
            fused=r.device.type in ("cpu", "cuda"), amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=lr,
            weight_decay=0.0, eps=EPSILON / 2, maximize=False,
        )  # fmt: skip
    return x


def foretold(r: Tensor, products: list[Tensor], nodes: list[int], now: int, *, out: Tensor) -> Tensor:
    """``r`` and, at ``now``, the polynomial through the ``products`` at the ``nodes``."""
    torch.add(r, 0.0, out=out)
    for at, product in zip(nodes, products, strict=True):
        out.add_(product, alpha=math.prod((now - other) / (at - other) for other in nodes if other != at))
    return out


def miss(difference: Tensor, square: Tensor, steps: int) -> float:
    """``difference`` against the root mean square of the gradients of ``steps`` steps; ``difference`` is used up."""
    size = (square / (1 - BETAS[1] ** steps)).add_(EPSILON**2 / 4)
    return float(difference.square_().div_(size).square_().mean()) ** 0.25


def further(distance: float, missed: float) -> float:
    """The distance of the next node, where the last one at ``distance`` showed what was ``missed``."""
    if not missed < math.inf:
        return 1.0
    factor = (MISS / missed) ** (1 / NODES) if missed else GROW
    return min(max(distance * min(max(factor, SHRINK), GROW), 1.0), FARTHEST)
