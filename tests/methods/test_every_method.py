"""Every registered method, run by the real runner on a tiny bench: all tasks, or one line why it does not fit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from helpers.small import SMALL
from helpers.support import random_experts
from helpers.tiny import TinyBench, run

import methods
from benchmark.records.store import Store
from methods.api import Merged, NotApplicable, Stream


def few(name: str) -> str:
    """The method with so little work that it takes a moment."""
    chosen = {k: v for k, v in SMALL.items() if k in methods.describe(name).parameters}
    return name + (":" + ",".join(f"{k}={v}" for k, v in chosen.items()) if chosen else "")


@pytest.mark.parametrize("name", [n for n in methods.names() if n not in ("pretrained", "individual")])
def test_every_method_runs_or_says_why_not(name: str, tmp_path: Path) -> None:
    record = run(TinyBench(), Store(tmp_path), few(name))[-1]
    if record.status == "failed":
        assert record.error.type == "NotApplicable", record.error
        assert "\n" not in record.error.message and len(record.error.message) > 20
        return
    assert record.status == "done" and len(record.tasks) == 3
    assert record.cost.storage_bytes >= 0 and record.cost.images_drawn >= 0
    declared = methods.describe(name).access_for(record.spec.parameters)
    assert bool(record.access) == bool(declared)
    if not declared:
        assert record.cost.images_drawn == 0


@pytest.mark.parametrize("name", methods.names())
def test_every_method_file_says_what_it_is_and_where_it_is_from(name: str) -> None:
    about = methods.get(name)
    header = sys.modules[about.module].__doc__ or ""
    assert header.strip(), f"methods/{about.path.name} has no docstring: what it does, the paper, the formula"
    source = re.search(r"arXiv|doi|ICML|NeurIPS|ICLR|CVPR|PMLR|http|[Nn]o paper", header)
    assert source, f'methods/{about.path.name} names no source: an arXiv id or another, or "no paper"'
    assert about.summary, f"{name} has no docstring"
    if about.stochastic:
        assert about.parameters["seed"] == 0, "the default of a seed is 0"


@pytest.mark.parametrize("name", methods.names())
def test_every_method_gives_the_same_twice(name: str) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(len(results))  # of no influence: a method draws from its seed
        try:
            results.append(_merged(name))
        except NotApplicable:
            return
    first, second = (dict(merged.tensors()) for merged in results)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first), f"{name} gives other tensors the second time"


def _merged(name: str) -> Merged:
    about = methods.get(name)
    experts = random_experts()
    small = {k: v for k, v in SMALL.items() if k in about.parameters}
    access = about.access_for({**about.parameters, **small})
    bench = TinyBench()
    sources = {split: {task: bench.source(task, split) for task in bench.tasks} for split, _ in access.items()}
    return about(experts, *([Stream(sources, access)] if access else []), **small)
