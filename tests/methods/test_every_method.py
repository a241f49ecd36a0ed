"""Every registered method, run by the real runner on a tiny bench: all tasks, or one line why it does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers.small import SMALL
from helpers.support import random_experts
from helpers.tiny import TinyBench, run

import methods
from benchmark.records.store import Store
from methods.api import LABELLED


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
def test_every_method_file_documents_itself(name: str) -> None:
    about = methods.get(name)
    module = sys.modules[about.module]
    assert module.__doc__ and len(module.__doc__.splitlines()) >= 5, "no header"
    assert any(word in module.__doc__ for word in ("arXiv", "ICML", "NeurIPS", "ICLR", "CVPR")), "no source"
    assert about.summary, "no docstring"
    if about.stochastic:
        assert about.parameters["seed"] == 0


def test_only_methods_that_say_so_see_labels() -> None:
    labelled = {n for n in methods.names() if any(level == LABELLED for _, level in methods.describe(n).access.items())}
    allowed = {"joint", "pcgrad", "pcgrad_weighted", "cagrad", "nash_mtl", "taps", "supermerge", "twin", "fisher"}
    assert labelled <= allowed
    assert not random_experts().heads.keys() - {"t0", "t1", "t2"}
