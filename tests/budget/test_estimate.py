"""Estimates from shapes: what a run takes before it starts, and the refusal of what cannot fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import methods
from benchmark import suites
from benchmark.budget import dry_run, estimate
from benchmark.budget.estimate import GIB, Machine, Setting
from benchmark.budget.shapes import outline
from benchmark.cli import main as cli
from benchmark.domains.vision.backbones import create_encoder
from benchmark.records.precision import Precision

ROOMY = Machine(device=80 * GIB, host=256 * GIB, disk=1000 * GIB, cache=1000 * GIB, flops=1e13, bandwidth=1e11)


def towers(n: int) -> torch.Tensor:
    return torch.empty(n, 3, 28, 28, device="meta")


@pytest.fixture(scope="module")
def full() -> Setting:
    """The setting of vision-8 on ViT-B-32; its shapes are ViT-mini's, enlarged, which takes no time."""
    shapes = outline(create_encoder("ViT-mini", device="meta"), towers)
    large = replace(shapes, parameters=88_000_000, largest=2_400_000, flops=8.8e9, forward=3.1e6, training=43.5e6)
    return Setting(large, 8, {"test": 87_000, "val": 40_000, "train": None}, 150_528, 128)


def need(name: str, s: Setting, **changes: object) -> estimate.Need:
    return estimate.need(name, {**methods.describe(name).parameters, **changes}, s, ROOMY)


def test_an_encoders_sizes_are_those_of_its_weights_and_layers() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 6)).to("meta")
    found = outline(net, lambda n: torch.empty(n, 3, 2, 2, device="meta"))
    assert found.parameters == 12 * 40 + 40 + 40 * 6 + 6 and found.largest == 480 and found.bytes == 4 * 766
    assert found.matrices == ((40, 12), (6, 40)) == found.linear and found.inputs == 48
    assert found.flops == 2 * (12 * 40 + 40 * 6)
    # Forward: input, then hidden before and after the activation at once. Training also keeps what backward reads.
    assert found.forward == pytest.approx(4 * (12 + 40 + 40), abs=4)
    assert found.forward < found.training <= 4 * (12 + 40 + 40 + 6 + 40 + 40 + 6 + 12)
    real = create_encoder("ViT-mini")
    assert outline(create_encoder("ViT-mini", device="meta"), towers).parameters == sum(
        p.numel() for p in real.parameters()
    )


def test_every_registered_method_has_an_estimate(full: Setting) -> None:
    for name in methods.names():
        found = need(name, full)
        assert full.shapes.bytes < found.host < 40 * GIB and found.seconds and found.seconds > 0 and found.phase
        assert found.cache >= 87_000 * 150_528 and found.disk < 3 * GIB


def test_what_holds_more_is_estimated_higher(full: Setting) -> None:
    m, plain, symerge = full.shapes.bytes, need("task_arithmetic", full), need("symerge", full)
    # Task vectors of eight tasks, base, merge and gradients are held at once; a streamed merge holds one result.
    assert symerge.host > 11 * m > 4 * m > plain.host - estimate.RUNTIME
    assert need("symerge", replace(full, tasks=20)).host - symerge.host == pytest.approx(12 * m)
    assert need("symerge", full, batch_size=64).host > symerge.host > need("symerge", full, batch_size=8).host
    assert need("symerge", full.at(Precision(autocast="bfloat16"))).host < symerge.host
    # In half the bytes: half of eight task vectors less, and one tensor's of all tasks read as float32.
    halved = need("symerge", full.at(Precision(vectors="bfloat16")))
    assert symerge.host - halved.host == pytest.approx(4 * m - 8 * 4 * full.shapes.largest)
    assert need("ties", full.at(Precision(vectors="bfloat16"))) == need("ties", full)
    assert need("pcgrad", full).host > need("joint", full).host + 7 * m
    assert need("symerge", full, steps=1).seconds < symerge.seconds  # type: ignore[operator]
    assert need("regmean", full).unknown == ("images of train",) and not symerge.unknown
    on_gpu = need("symerge", replace(full, cuda=True))
    assert plain.device == symerge.device == 0 < on_gpu.device < 8 * GIB and on_gpu.host < 4 * GIB


def test_what_runs_at_once_is_added_up_and_what_follows_is_not(full: Setting) -> None:
    m, fixed = full.shapes.bytes, estimate.SERVER + 2 * estimate.RUNTIME
    pretrained, individual = need("pretrained", full), need("individual", full)
    # Where nothing is merged, two processes hold an encoder; or the harness judges, when the method's has ended.
    judging = estimate.phases("pretrained", {}, full)["evaluation"]
    assert pretrained.together == pytest.approx(max(fixed + 2 * m, fixed - estimate.RUNTIME + m + judging))
    # The experts are served by a process beside the harness's.
    assert individual.together == pytest.approx(fixed + m + estimate.phases("individual", {}, full)["evaluation"])
    assert need("symerge", full).together > need("symerge", full).host + estimate.RUNTIME + m


def test_a_merge_of_a_large_tensor_takes_the_copies_that_it_declares(full: Setting) -> None:
    large = replace(full, shapes=replace(full.shapes, largest=full.shapes.parameters // 3))
    grown = {name: need(name, large).host - need(name, full).host for name in ("ties", "task_arithmetic", "sce")}
    tensor = 4 * (large.shapes.largest - full.shapes.largest)
    for name, size in grown.items():
        a, b = methods.describe(name).footprint.tensor
        assert 0 < size <= (a + 8 * b) * tensor
    assert grown["sce"] > grown["ties"] > 2 * grown["task_arithmetic"]


def test_what_the_protocol_runs_on_every_merge_is_counted(full: Setting) -> None:
    planned = SimpleNamespace(suite=suites.load("nyuv2"), backbone="ResNet-50", family="own")
    around = dry_run.setting(planned)
    assert around.finishing == 50 and full.finishing == 0
    phases = estimate.phases("weight_average", {}, around)
    assert phases["statistics"] == 2 * around.shapes.bytes + 50 * around.shapes.forward
    assert "statistics" not in estimate.phases("weight_average", {}, full)
    few = replace(around, samples={**around.samples, "train": 3 * 20})
    assert estimate.phases("weight_average", {}, few)["statistics"] < phases["statistics"], "of a trial there are fewer"


def test_vectors_concern_runs_that_hold_all_task_vectors_while_they_adapt() -> None:
    # AdaRank holds triplets of the task vectors, in float32 whatever is asked for; DOGE reads no data and only sums.
    holds = [methods.describe(name).holds_vectors({}) for name in ("symerge", "doge", "adarank", "ties")]
    assert holds == [True, False, False, False]
    assert methods.describe("doge").holds_vectors({"coefficients": "adamerging"})
    assert methods.describe("lines").holds_vectors({"inner": "symerge"})
    assert not methods.describe("lines").holds_vectors({"inner": "ties"})


@pytest.mark.parametrize(
    ("machine", "cuda", "says"),
    [
        ({"device": 5.4 * GIB}, True, "--autocast bfloat16"),
        ({"device": 4.7 * GIB}, True, "--vectors bfloat16"),
        ({"device": 1 * GIB}, True, "--device cpu"),
        ({"device": 1 * GIB, "host": 6.4 * GIB}, True, None),
        ({"host": 6.75 * GIB}, False, "--autocast bfloat16"),
        ({"cache": 1 * GIB}, False, "SYMERGE_CACHE"),
        ({"disk": 0.1 * GIB}, False, "--results"),
        ({}, True, ""),
    ],
)
def test_what_does_not_fit_is_told_with_a_setting_that_would(
    full: Setting, machine: dict[str, float], cuda: bool, says: str | None
) -> None:
    name, s, small = "symerge", replace(full, cuda=cuda), replace(ROOMY, **machine)
    parameters = methods.describe(name).parameters
    short = estimate.lacking(estimate.need(name, parameters, s), small)
    found = list(estimate.remedies(name, parameters, s, small)) if short else []
    if says == "":
        assert not short
    elif says is None:
        assert short and not found
    else:
        assert short and any(says in text for text in found)


def test_a_smaller_batch_is_offered_where_only_activations_are_too_large(full: Setting) -> None:
    parameters = methods.describe("symerge").parameters
    wide = replace(full, shapes=replace(full.shapes, training=400e6), cuda=True)
    small = replace(ROOMY, device=8 * GIB)
    found = [t for t in estimate.remedies("symerge", parameters, wide, small) if "batch_size" in t]
    size = int(found[0].split("batch_size=")[1].split()[0])
    assert not estimate.lacking(estimate.need("symerge", {**parameters, "batch_size": size}, wide), small)
    assert estimate.lacking(estimate.need("symerge", {**parameters, "batch_size": 2 * size}, wide), small)


def test_a_dry_run_of_a_full_suite_needs_no_files_and_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, full: Setting
) -> None:
    monkeypatch.setattr(dry_run, "setting", lambda bench, *_, **__: replace(full, tasks=len(bench.suite.tasks)))
    monkeypatch.setattr(estimate, "look", lambda *_, **__: ROOMY)
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path / "none"))
    argv = ["run", "--suite", "vision-20", "--backbone", "ViT-L-14", "--methods", "symerge", "ties", "--dry-run"]
    assert cli.main([*argv, "--results", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "note:" in said.err and "vision-20 on ViT-L-14" in said.out and "free now" in said.out
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(estimate, "look", lambda *_, **__: replace(ROOMY, host=2 * GIB))
    assert cli.main([*argv, "--results", str(tmp_path / "out")]) == 1
    assert "cannot fit: symerge needs" in capsys.readouterr().out
    assert cli.main(["run", "--suite", "vision-8", "--backbone", "ViT-B", "--dry-run"]) == 2


def test_a_full_run_that_cannot_fit_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Setting
) -> None:
    from benchmark.common.errors import UserError
    from benchmark.harness import runner
    from benchmark.records.store import Store

    bench = dry_run.Planned(suites.load("vision-8"), "ViT-B-32", None)
    bench.device = torch.device("cpu")  # type: ignore[attr-defined]
    runs = runner.plan(bench, ["symerge", "ties"], seeds=[0])  # type: ignore[arg-type]
    monkeypatch.setattr(dry_run, "setting", lambda bench, *_, **__: full)
    monkeypatch.setattr(estimate, "look", lambda *_, **__: replace(ROOMY, host=6.75 * GIB))
    with pytest.raises(UserError, match=r"(?s)1 of 4 runs.*symerge needs \d\.\d GiB of host.*bfloat16.*--unchecked"):
        dry_run.refuse([(bench, runs)], Store(tmp_path), tmp_path)
    monkeypatch.setattr(estimate, "look", lambda *_, **__: ROOMY)
    dry_run.refuse([(bench, runs)], Store(tmp_path), tmp_path)
