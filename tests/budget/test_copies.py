"""How many copies of its largest tensor a merge makes at once is as its footprint says."""

from __future__ import annotations

import pytest
import torch

import methods
from benchmark.budget.shapes import Live
from methods.api import Experts, Footprint, NotApplicable

SIDE = 512


def streams(name: str) -> bool:
    """Whether it needs no data and decomposes nothing: what decompositions and products take is estimated apart."""
    about = methods.describe(name)
    work = (about.footprint.decompositions, about.footprint.products, about.footprint.step_products)
    return not about.access_for({}) and not any(map(any, work))


NAMES = [name for name in methods.names() if streams(name)]


def copies(name: str, tasks: int) -> float:
    """The most bytes at once that merging one matrix takes, in matrices, without base and experts."""
    generator = torch.Generator().manual_seed(0)
    base = {"e.weight": torch.randn(SIDE, SIDE, generator=generator)}
    experts = {
        f"t{k}": {"e.weight": base["e.weight"] + 0.01 * torch.randn(SIDE, SIDE, generator=generator)}
        for k in range(tasks)
    }
    known = [base["e.weight"], *(state["e.weight"] for state in experts.values())]
    steps = {"steps": 1} if "steps" in methods.describe(name).parameters else {}
    with Live(known=known) as live:
        methods.get(name)(Experts.from_state_dicts(base, experts), **steps)
    return live.peak / (4 * SIDE * SIDE)


@pytest.mark.parametrize("name", NAMES)
def test_a_merge_makes_as_many_copies_of_a_tensor_as_it_declares(name: str) -> None:
    footprint = methods.describe(name).footprint
    for tasks in (3, 8):
        try:
            measured = copies(name, tasks)
        except NotApplicable:
            return
        declared = 1 + footprint.tensor[0] + footprint.tensor[1] * tasks
        assert measured <= 1.25 * declared, (tasks, measured, declared)
        if footprint.tensor != Footprint.tensor:
            assert measured >= declared / 1.25, (tasks, measured, declared)
