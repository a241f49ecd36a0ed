"""Git Re-Basin: hidden units of each expert are permuted to those of the others that they resemble, then averaged.

Git Re-Basin: Merging Models modulo Permutation Symmetries. Ainsworth, Hayase, Srinivasa, ICLR 2023, arXiv:2209.04836.

    theta = mean_k pi_k(theta_k),    pi = argmax over permutations of  sum over axes  <W_a, pi W_b>, one group at a time

Weight matching, in the form of SewoongLab/PLeaS-Merging pleas/methods/weight_matching.py, which has the same fixed
points as samuela/git-re-basin: groups in a random order, each a linear assignment with all others as they are, until no
group gains (at most ``rounds``). Two experts: the second is matched to the first. More: as the paper's MergeMany, each
in turn to the mean of the others, until none moves. Groups are the hidden units of MLPs: of linear layers that read
what one before them writes, in a transformer's blocks (of open_clip, timm, torchvision, Hugging Face) or in a chain of
linear layers. Attention heads and residual channels are left as they are, as are convolutional nets, whose channels
ZipIt matches. Experts fine-tuned from one base are matched already, and the merge is their mean. No data; one model is
kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from methods.api import Count, Experts, Footprint, Merged, NotApplicable, method

#: First and second linear layer of an MLP, by the end of their names.
PAIRS = (
    ("c_fc", "c_proj"),
    ("fc1", "fc2"),
    ("mlp.0", "mlp.3"),
    ("intermediate.dense", "output.dense"),
    ("lin1", "lin2"),
    ("linear1", "linear2"),
)
GAIN = 1e-12
Group = Sequence[tuple[str, int]]
_CHAIN = re.compile(r"^(.*?)(\d+)\.weight$")


@method(title="Git Re-Basin", paper="arXiv:2209.04836", needs=("matrices",), footprint=Footprint(holds=(0, 1)))
def rebasin(experts: Experts, *, rounds: Count = 100) -> Merged:
    """Average the experts after matching the hidden units of their MLPs.

    Args:
        rounds: passes over all groups of units, at most.

    Raises:
        NotApplicable: no MLP of a known form.
    """
    groups = hidden_units({n: experts.base[n].shape for n in experts.names})
    names = {name for group in groups for name, _ in group}
    states = [{n: experts.expert_tensor(n, task) for n in names} for task in experts.tasks]
    matched = aligned(states, groups, rounds)
    merged = {}
    for name in experts.names:
        if name in names:
            merged[name] = torch.stack([state[name] for state in matched]).mean(0)
        else:
            merged[name] = experts.base_tensor(name) + experts.task_vectors(name).mean(0)
    return Merged(experts, merged)


def hidden_units(shapes: Mapping[str, Sequence[int]]) -> list[list[tuple[str, int]]]:
    """Groups of axes ``(tensor, axis)`` that one permutation reorders. Raises :class:`NotApplicable` without any."""
    groups = []
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module == name or len(shape) != 2:
            continue
        after = _after(module, shapes)
        if after is None or len(shapes[after]) != 2 or shapes[after][1] != shape[0]:
            continue
        bias = [(f"{module}.bias", 0)] if f"{module}.bias" in shapes else []
        groups.append([(name, 0), *bias, (after, 1)])
    if not groups:
        raise NotApplicable("matches the hidden units of MLPs, and no layers here are known to be one")
    return groups


def _after(module: str, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The weight that alone reads what a module writes, with nothing trained in between."""
    for first, second in PAIRS:
        if module == first or module.endswith(f".{first}"):
            head = module.removesuffix(first)
            found = f"{head}{second}.weight"
            return found if found in shapes and f"{head}norm.weight" not in shapes else None
    at = _CHAIN.match(f"{module}.weight")
    numbered = [_CHAIN.match(n.removesuffix(".bias").removesuffix(".weight") + ".weight") for n in shapes]
    if at is None or not all(m and m[1] == at[1] for m in numbered):
        return None
    later = sorted({int(m[2]) for m in numbered if m and int(m[2]) > int(at[2])})
    return f"{at[1]}{later[0]}.weight" if later and f"{at[1]}{later[0]}.weight" in shapes else None


def aligned(
    states: Sequence[Mapping[str, Tensor]], groups: Sequence[Group], rounds: int = 100
) -> list[Mapping[str, Tensor]]:
    """The states with their units in one order: the second as in the first, more than two as in one another's mean."""
    states = list(states)
    if len(states) < 2:
        return states
    if len(states) == 2:
        return [states[0], permuted(states[1], groups, match(states[0], states[1], groups, rounds))]
    for _ in range(rounds):
        moved = False
        for place, state in enumerate(states):
            others = [s for other, s in enumerate(states) if other != place]
            mean = {name: torch.stack([s[name] for s in others]).mean(0) for name in state}
            orders = match(mean, state, groups, rounds)
            if any(not torch.equal(order, torch.arange(len(order), device=order.device)) for order in orders):
                states[place], moved = permuted(state, groups, orders), True
        if not moved:
            break
    return states


def match(a: Mapping[str, Tensor], b: Mapping[str, Tensor], groups: Sequence[Group], rounds: int = 100) -> list[Tensor]:
    """For each group the order of b's units that resembles a's the most: ``b.index_select(axis, order)``.

    Coordinate descent on ``sum <W_a, pi W_b>``, in float32 as the authors' code, groups in a random order of seed 0.
    """
    b = dict(b)
    sizes = [next(iter(a[name].shape[axis] for name, axis in group)) for group in groups]
    orders = [torch.arange(size, device=next(iter(a.values())).device) for size in sizes]
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        progress = False
        for place in torch.randperm(len(groups), generator=generator).tolist():
            group, size = groups[place], sizes[place]
            likeness = torch.zeros(size, size, device=orders[place].device)
            for name, axis in group:
                one, other = (t.movedim(axis, 0).reshape(size, -1) for t in (a[name], b[name]))
                likeness += one @ other.T
            if in_order(likeness):
                continue
            step = torch.as_tensor(
                linear_sum_assignment(likeness.cpu().numpy(), maximize=True)[1], device=likeness.device
            )
            gain = float(likeness.gather(1, step[:, None]).sum() - likeness.diagonal().sum())
            if gain > GAIN:
                progress = True
                orders[place] = orders[place][step]
                b |= permuted({name: b[name] for name, _ in group}, [group], [step])
        if not progress:
            break
    return orders


def in_order(likeness: Tensor, tries: int = 100) -> bool:
    """Whether no order of b's units beats the one they have; ``False`` where ``tries`` passes do not show it.

    That is so where there are values v with ``L[i, j] - L[i, i] <= v[j] - v[i]`` for all i, j: around every cycle of a
    permutation the right side is nought. Each is raised to what the others ask of it until none is (Bellman and Ford).
    """
    least = likeness.double()
    values = least.diagonal() / 2  # what suffices where a unit is nearer to its own than to any other
    least = least - least.diagonal()[:, None]
    for _ in range(tries):
        raised = (least + values[:, None]).amax(0)
        if bool((raised <= values).all()):
            return True
        values = raised
    return False


def permuted(state: Mapping[str, Tensor], groups: Sequence[Group], orders: Sequence[Tensor]) -> dict[str, Tensor]:
    """``state`` with the units of each group in its order."""
    out = dict(state)
    for group, order in zip(groups, orders, strict=True):
        for name, axis in group:
            out[name] = out[name].index_select(axis, order)
    return out
