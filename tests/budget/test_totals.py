"""A dry run counts what choosing on validation costs, shows what all runs take together, and knows every domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.budgets import SETTINGS
from helpers.lacking import lacks_package

import methods
from benchmark import suites
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import Machine, Need
from benchmark.cli import main as cli
from benchmark.domains.dense.model import Decoder, Encoder, get_backbone
from benchmark.harness import runner, tuning

CPU = SETTINGS["eight on a CPU"]
SPEED = (1e11, 1e10)


def taken(name: str, setting: estimate.Setting = CPU, **changes: object) -> float:
    return estimate.work(name, {**methods.describe(name).parameters, **changes}, setting, *SPEED)


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.describe(name).grids])
def test_a_scale_chosen_on_validation_costs_a_merge_and_a_validation_for_each_value(name: str) -> None:
    about = methods.describe(name)
    (key,) = about.grids
    validation = replace(CPU, samples={**CPU.samples, "test": CPU.samples["val"]})
    first = about.grids[key][0]
    each, own = taken(name, validation, **{key: first}), taken(name, **{key: first})
    experts = estimate.work("individual", {}, validation, *SPEED)
    values = len(tuning.grid(about, key))
    assert taken(name, **{key: "val"}) == pytest.approx(own + values * each + experts)
    need = estimate.need(name, {**about.parameters, key: "val"}, CPU, Machine(0, 0, 0, 0, *SPEED))
    assert need.seconds == pytest.approx(taken(name, **{key: "val"})) and need.seconds > 2 * own


def test_runs_one_after_another_take_the_largest_memory_and_all_the_time() -> None:
    train = ("images of train",)
    needs = [Need(3.0, 5.0, 10.0, 7.0, 60.0, "a", (), 8.0), Need(4.0, 2.0, 1.0, 9.0, 40.0, "b", train, 6.0)]
    together = dry_run.total(needs)
    assert together.together == 8.0
    assert (together.device, together.host, together.disk, together.cache) == (4.0, 5.0, 11.0, 9.0)
    assert together.seconds == 100.0 and together.unknown == train
    assert dry_run.total([*needs, replace(needs[0], seconds=None)]).seconds is None
    assert dry_run.total([]).seconds == 0.0


def test_all_processes_of_a_run_count_beside_its_largest() -> None:
    need = estimate.need("ties", methods.describe("ties").parameters, CPU)
    assert need.together - need.host == pytest.approx(estimate.RUNTIME + estimate.SERVER + CPU.shapes.bytes)
    tight = Machine(device=0, host=need.together - 1, disk=1e12, cache=1e12)
    assert list(estimate.lacking(need, tight)) == ["host memory"]
    assert not estimate.lacking(need, replace(tight, host=need.together))


def planned(name: str, *texts: str, limit: int | None = None) -> tuple[dry_run.Planned, list, estimate.Setting]:
    bench = dry_run.Planned(suites.load(name), None, None, limit=limit)
    return bench, runner.plan(bench, list(texts), seeds=[0]), dry_run.setting(bench)  # type: ignore[arg-type]


def sizes(setting: estimate.Setting) -> tuple[float, float]:
    return setting.shapes.bytes / 2**20, setting.beside / 2**20


def test_nyuv2_is_known_without_its_files() -> None:
    _, jobs, around = planned("nyuv2", "symerge", "ties")
    encoder, heads = sizes(around)
    # ResNet-50 without its classifier has 23,508,032 weights; each DeepLab head about 16 million.
    assert (
        around.shapes.parameters
        == sum(p.numel() for p in Encoder(get_backbone("ResNet-50")).parameters())
        == 23_508_032
    )
    with torch.device("meta"):
        one = sum(p.numel() for p in Decoder(get_backbone("ResNet-50"), 13).parameters())
    assert heads == pytest.approx(3 * one * 4 / 2**20, rel=0.01) and 3 * one > 40_000_000
    assert around.samples == {"train": 3 * 795, "val": 3 * 80, "test": 3 * 654}
    # A forward pass over 288 x 384 with the decoder: tens of GFLOP, hundreds of MB to train.
    assert 1e11 < around.shapes.flops < 1e12 and around.shapes.training > around.shapes.forward > 10e6
    needs = [estimate.need(job.spec.method, job.spec.parameters, around) for job in jobs]
    assert all(need.host > encoder and not need.unknown for need in needs)


def test_glue_is_known_without_its_files() -> None:
    pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
    _, _, around = planned("glue", "symerge")
    # roberta-base: 124,645,632 weights with its pooler of 590,592.
    assert around.shapes.parameters == 124_645_632 - 590_592 and around.shapes.largest == 50265 * 768
    assert around.samples["test"] == 1043 + 872 + 408 + 1500 + 40430 + 9815 + 5463 + 277
    assert around.samples["val"] and around.samples["val"] <= 8 * 2000
    assert 128 * 2 * 85e6 < around.shapes.flops < 128 * 2 * 85e6 * 1.2


def test_a_trial_is_estimated_for_its_few_samples() -> None:
    _, _, few = planned("nyuv2", "ties", limit=10)
    assert few.samples == {"train": 30, "val": 30, "test": 30}
    _, _, vision = planned("vision-8", "ties", limit=16)
    assert vision.samples == {"train": 128, "val": 128, "test": 128}


@pytest.mark.parametrize("suite", ["vision-mini-8", "dense-mini", "nyuv2", "glue"])
def test_the_plan_of_every_suite_has_no_question_mark_and_ends_with_what_all_take(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if suite == "glue":
        pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path / "none"))
    command = ["run", "--suite", suite, "--methods", "ties", "task_arithmetic:scale=val", "--dry-run"]
    assert cli.main([*command, "--results", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.partition(": 4 runs\n")[2].splitlines()
    assert [line.split()[1] for line in lines[1:5]] == ["pretrained", "individual", "ties", "task_arithmetic:scale=val"]
    assert lines[5].split()[:3] == ["total", "4", "to"] and not any("?" in line for line in lines)
