"""Ablations: every YAML file fits the registry, settings change what they say and nothing else, tables are paired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import TinyBench, run
from safetensors.torch import save_file
from scipy import ndimage

from benchmark import suites
from benchmark.common.errors import UserError
from benchmark.harness import runner
from benchmark.harness.job import Options
from benchmark.records.store import Store
from benchmark.studies import ablation as ablate
from benchmark.studies import settings, tables
from benchmark.studies.corruptions import CORRUPTIONS, corrupt
from benchmark.studies.settings import Ablation, Setting
from benchmark.studies.variants import AdaptOn, Block, OtherExperts, Variant, vary

SMALL = {"symerge": {"steps": 3, "batch_size": 8}}


@pytest.mark.parametrize("name", settings.names())
def test_every_ablation_names_variants_as_records_do_and_settings_that_exist(name: str) -> None:
    study = settings.load(name)
    suite = suites.load(study.suite)

    class Named(TinyBench):
        def __init__(self) -> None:
            super().__init__(2)
            self.suite = suite.model_copy(update={"tasks": self.suite.tasks})

    planned = {r.variant for r in runner.plan(Named(), study.variants, seeds=[0])}
    assert set(study.variants) <= planned, "write each variant as its records are labelled"
    for setting, place in study.places():
        tasks = len(suites.load(setting.suite or study.suite).tasks)
        assert (setting.tasks or 2) <= tasks and (setting.unseen or 1) < tasks
        assert setting.corruption in (None, *CORRUPTIONS) and place.startswith("vision-mini-")
    assert len({place for _, place in study.places()}) == len(study.settings)


def study(**given: object) -> Ablation:
    return Ablation.model_validate({"name": "x", "question": "Why?", "suite": "tiny", **given})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyBench:
    bench = TinyBench(**SMALL)
    monkeypatch.setattr(suites, "load", lambda name: bench.suite)
    return bench


def test_rows_are_compared_with_the_first_variant_of_their_setting(tiny: TinyBench, tmp_path: Path) -> None:
    plan = study(variants=["symerge", "symerge:adapt='none'"], seeds=[0, 1], settings=[{}, {"tasks": 2}])
    found = []
    for setting in plan.settings:
        found += ablate.run(tiny, plan, setting, seeds=[0, 1], store=Store(tmp_path), known=None, options=Options())
    frame = tables.ablation(plan, found)
    assert list(frame["suite"].unique()) == [place for _, place in plan.places()] and len(frame) == 8
    for _, group in frame.groupby("suite"):
        rows = group.set_index("variant")
        gap = rows.loc["symerge:adapt='none'", "mean"] - rows.loc["symerge", "mean"]
        assert rows.loc["symerge:adapt='none'", "difference"] == pytest.approx(gap, abs=1e-4)
        assert np.isnan(rows.loc["symerge", "difference"]) and rows.loc["symerge", "n"] == 2
        assert rows.loc["individual", "normalised"] == pytest.approx(100)
    assert not list(tmp_path.rglob("merged.safetensors"))


def test_finished_runs_are_taken_over_and_not_done_again(tiny: TinyBench, tmp_path: Path) -> None:
    known = Store(tmp_path / "known")
    run(tiny, known, "symerge")
    plan = study(variants=["symerge", "ties"])
    found = ablate.run(tiny, plan, Setting(), seeds=[0], store=Store(tmp_path / "new"), known=known, options=Options())
    assert {r.variant for r in found} == {"pretrained", "individual", "symerge", "ties"}
    taken = {r.variant: r for r in Store(tmp_path / "new").all()}
    assert taken["symerge"] == known.load(taken["symerge"].spec) and set(taken) == {r.variant for r in found}
    assert not known.load(taken["ties"].spec)


def test_images_to_adapt_on_are_those_of_the_setting_and_the_test_stays_whole(tiny: TinyBench, tmp_path: Path) -> None:
    on_train = vary(tiny, Setting(adapt_on="train"))
    part = vary(tiny, Setting(fraction=0.25))
    index = torch.arange(6)
    assert torch.equal(on_train.stream_source("t1", "test")[index][0], tiny.source("t1", "train")[index][0])
    few = part.stream_source("t1", "test")
    assert len(few) == 6 and len(part.source("t1", "test")) == 24
    every = tiny.source("t1", "test")[torch.arange(24)][0]
    assert all(any(torch.equal(image, other) for other in every) for image in few[index][0])
    assert isinstance(part, AdaptOn) and part.suite.name == "tiny+on-test-25pc"
    record = run(on_train, Store(tmp_path), "symerge")[-1]
    assert record.access == ["unlabelled train"] and record.tasks["t0"].n == 24
    assert run(part, Store(tmp_path), "symerge")[-1].access == ["unlabelled 25 % of test"]


def test_another_block_is_the_one_adapted(tiny: TinyBench, tmp_path: Path) -> None:
    bench = vary(tiny, Setting(block=0))
    assert isinstance(bench, Block)
    names = bench.experts().adaptable("t0")["last_block"]
    assert names and all("resblocks.0." in name for name in names)
    assert all("resblocks.0." not in name for name in tiny.experts().adaptable("t0")["last_block"])
    record = run(bench, Store(tmp_path), "symerge:adapt=last_block")[-1]
    assert record.status == "done" and record.needs_task_id
    with pytest.raises(UserError, match="block of tower '9'(.|\n)*0, 1"):
        vary(tiny, Setting(block=9))


def test_other_experts_take_the_place_of_the_suites(tiny: TinyBench, tmp_path: Path) -> None:
    state = {n: t.float() * 0 for n, t in tiny.experts().base.items()}
    save_file(state, tmp_path / "weak.safetensors")
    bench = OtherExperts(tiny, "weak", {"t1": tmp_path / "weak.safetensors"}, {"t1": "2" * 64})
    experts = bench.experts()
    name = experts.names[0]
    assert experts.expert("t1")[name].abs().max() == 0 and torch.equal(
        experts.expert("t0")[name], tiny.experts().expert("t0")[name]
    )
    assert bench.checkpoints["t1.safetensors"] == "2" * 64 and "t1.safetensors" not in tiny.checkpoints


def test_unseen_tasks_keep_their_heads_and_are_scored_apart(tiny: TinyBench, tmp_path: Path) -> None:
    plan = study(variants=["symerge", "weight_average", "emr"], settings=[{"unseen": 1}])
    store = Store(tmp_path)
    found = ablate.run(tiny, plan, plan.settings[0], seeds=[0], store=store, known=None, options=Options())
    frame = tables.ablation(plan, found).set_index("variant")
    experts = tiny.experts()
    mean = {n: experts.base[n] + experts.subset(["t0", "t1"]).task_vectors(n).mean(0) for n in experts.names}
    inputs, labels = tiny.source("t2", "test")[torch.arange(24)]
    right = (experts.head("t2")(experts.forward(mean, "t2", inputs)).argmax(-1) == labels).float().mean()
    assert frame.loc["weight_average", "unseen"] == pytest.approx(100 * float(right))
    row = frame.loc["symerge"]
    assert row["mean"] == pytest.approx((2 * row["seen"] + row["unseen"]) / 3) and "emr" not in frame.index
    assert [r.error.type for r in found if r.status == "failed"] == ["NotApplicable"]


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_corruptions_grow_with_severity_and_depend_on_the_seed_alone(name: str) -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(4, 28, 28, 3)), (0, 1.5, 1.5, 0))
    coarse = np.clip(128 + 300 * smooth, 0, 255).astype(np.uint8)
    distance = []
    for severity in (1, 3, 5):
        made = corrupt(coarse, name, severity)
        assert made.dtype == np.uint8 and made.shape == coarse.shape
        assert np.array_equal(made, corrupt(coarse, name, severity))
        distance.append(float(np.abs(made.astype(float) - coarse).mean()))
    assert 0 < distance[0] < distance[1] < distance[2] < 128
    grey = coarse[..., 0]
    assert corrupt(grey, name, 3).shape == grey.shape and not np.array_equal(corrupt(grey, name, 3), grey)
    with pytest.raises(UserError, match="unknown corruption 'fog'"):
        corrupt(grey, "fog")


def test_corrupted_images_are_what_is_tested_and_adapted_on() -> None:
    bench = suites.open_bench(suites.load("vision-mini-8"))
    changed: Variant = vary(bench, Setting(tasks=2, corruption="contrast"))
    assert changed.suite.name.endswith("+contrast-3") and list(changed.tasks) == ["FashionMNIST", "MNIST"]
    index = torch.arange(5)
    clean, labels = bench.source("MNIST", "test")[index]
    test, same = changed.source("MNIST", "test")[index]
    assert torch.equal(labels, same) and float(test.std()) < 0.5 * float(clean.std())
    assert torch.equal(changed.stream_source("MNIST", "test")[index][0], test)
    assert torch.equal(changed.source("MNIST", "train")[index][0], bench.source("MNIST", "train")[index][0])


def test_a_weak_expert_is_fine_tuned_again_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    bench = suites.open_bench(suites.load("vision-mini-8"))
    setting = Setting(expert_steps=2, label_noise=0.5, weak=1)
    weak = vary(bench, setting)
    name = "visual.proj"
    assert not torch.equal(weak.experts().expert("FashionMNIST")[name], bench.experts().expert("FashionMNIST")[name])
    assert torch.equal(weak.experts().expert("MNIST")[name], bench.experts().expert("MNIST")[name])
    (file,) = tmp_path.glob("experts/*/FashionMNIST.safetensors")
    before = file.stat().st_mtime_ns
    assert vary(bench, setting).checkpoints == weak.checkpoints != bench.checkpoints
    assert file.stat().st_mtime_ns == before
