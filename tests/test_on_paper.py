"""The table of docs/performance.md that is computed, not measured."""

from __future__ import annotations

from helpers import on_paper
from helpers.on_paper import Gpu, Step

from benchmark.common.project import ROOT


def test_the_table_of_steps_on_a_gpu_is_the_one_that_methods_declare() -> None:
    """PYTHONPATH=.:tests python -m helpers.on_paper prints it."""
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert on_paper.table() in text


def test_what_takes_the_time_follows_from_operations_a_byte() -> None:
    gpu = Gpu("small", 1e9, flops=10e12, bandwidth=1e12)
    assert gpu.ridge == 10
    assert Step("much", 1, flops=40e12, bytes=1e12, device=0).seconds(gpu) == 4.0
    assert Step("little", 1, flops=1e12, bytes=2e12, device=0).seconds(gpu) == 2.0


def test_every_method_that_updates_on_data_has_a_step() -> None:
    about = {step.method: step for step in on_paper.steps()}
    assert {"symerge", "adamerging", "surgery"} <= set(about) and "ties" not in about
    assert about["symerge"].bytes > about["surgery"].bytes, "a merge at every step moves the task vectors"
