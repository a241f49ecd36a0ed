"""The committed mini family is whole, is what its manifest says, and can be made again."""

import dataclasses
import json

import pytest
import torch
from helpers.support import assert_same_files
from safetensors.torch import load_file

from benchmark.assets.training import Schedule
from benchmark.assets.vision import choice as choose
from benchmark.assets.vision import command as retrain
from benchmark.assets.vision import family as make
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision.family import BACKBONE, FOLDER, Settings, load_head, make_family, manifest_of
from benchmark.checkpoints.families import sha256
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.family import load_family
from benchmark.domains.vision.heads import zero_shot_head
from benchmark.domains.vision.vocabulary import join_towers

TASKS = vision.tasks()
QUICK = Settings(expert=Schedule(steps=3, lr=1e-4, warmup=1, batch=16))


@pytest.fixture(scope="module")
def family():
    return load_family(FOLDER, "ViT-mini", TASKS, class_counts={t: len(vision.info(t).classes) for t in TASKS})


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield 1
    torch.set_num_threads(before)


def test_all_twenty_experts_are_committed_in_half_precision_and_small(family):
    files = family.manifest["files"]
    assert list(family.experts) == TASKS and len(TASKS) == 20
    assert {files[n]["dtype"] for n in files} == {"F16"}
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 25e6


def test_experts_were_trained_on_the_committed_data_with_the_committed_settings(family):
    manifest = family.manifest
    assert manifest["data"] == {t: vision.info(t).arrays_sha256["train"] for t in TASKS}
    assert manifest["classes"] == {t: vision.info(t).classes for t in TASKS}
    assert {k: manifest["made"][k] for k in ("base", "expert")} == Settings().describe()


def test_heads_are_built_from_the_committed_text_tower(family):
    clip, tokenizer = join_towers(BACKBONE, load_file(family.base), load_file(FOLDER / "text.safetensors"))
    for task in TASKS:
        info = vision.info(task)
        built = zero_shot_head(clip, tokenizer, info.classes, info.templates)
        torch.testing.assert_close(family.heads[task].weight, built.weight, rtol=2e-3, atol=2e-2)
        assert not family.heads[task].bias.any()


@pytest.mark.parametrize("task", ["FashionMNIST", "GlyphCyrillic"])
def test_an_expert_beats_the_base_on_its_task(family, task):
    data = vision.load_split(task, "validation")
    right = {}
    for name, path in (("base", family.base), ("expert", family.experts[task])):
        encoder = finetune.load_encoder(load_file(path))
        right[name] = finetune.accuracy(encoder, family.heads[task], data.images[:120], data.labels[:120])
    assert right["expert"] > right["base"] + 5
    assert right["expert"] == pytest.approx(family.manifest["scores"]["validation"]["individual"][task], abs=12)


def test_the_choice_keeps_its_rule_on_validation_images():
    for suite in vision.SUITES:
        found = choose.scores_of(manifest_of(FOLDER), suite)
        assert found["keeps_the_rule"], (suite, found)
    log = json.loads((FOLDER / "choice.json").read_text(encoding="utf-8"))
    assert log["sentence"] == manifest_of(FOLDER)["choice"]
    assert {"pretrained", "average", "individual", "gap", "keeps_the_rule"} == {
        k for trial in log["trials"] for scores in trial["validation"].values() for k in scores
    }


def test_retraining_continues_where_it_was_interrupted(tmp_path, monkeypatch, one_thread):
    tasks = ["OptDigits", "TextileDefect"]
    make_family("vision-mini-20", tasks, tmp_path / "whole", settings=QUICK, threads=1, splits=())
    real = finetune.finetune

    def dies(*args, task, **keywords):
        if task == "TextileDefect":
            raise KeyboardInterrupt
        return real(*args, task=task, **keywords)

    monkeypatch.setattr(finetune, "finetune", dies)
    out = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        make_family("vision-mini-20", tasks, out, settings=QUICK, threads=1, splits=())
    assert (out / "OptDigits.safetensors").exists() and not (out / "TextileDefect.safetensors").exists()
    trained = []
    monkeypatch.setattr(finetune, "finetune", lambda *a, task, **k: trained.append(task) or real(*a, task=task, **k))
    make_family("vision-mini-20", tasks, out, settings=QUICK, threads=1, splits=())
    assert trained == ["TextileDefect"]
    assert_same_files(out, tmp_path / "whole", [f"{task}.safetensors" for task in tasks])
    assert list(load_family(out, "ViT-mini", tasks).experts) == tasks


def test_expert_made_with_other_settings_is_made_again(tmp_path, one_thread):
    make_family("vision-mini-20", ["OptDigits"], tmp_path, settings=QUICK, threads=1, splits=())
    before = sha256(tmp_path / "OptDigits.safetensors")
    other = Settings(expert=QUICK.expert, expert_seed=1)
    make_family("vision-mini-20", ["OptDigits"], tmp_path, settings=other, threads=1, splits=())
    assert sha256(tmp_path / "OptDigits.safetensors") != before


def test_retrain_command_compares_with_the_committed_scores(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.setattr(make, "Settings", lambda **given: dataclasses.replace(QUICK, **given))
    argv = ["vision-mini-20", "--retrain", "--tasks", "TextileDefect", "--out", str(tmp_path), "--threads", "1"]
    assert retrain.main(argv) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("TextileDefect")).split()
    committed = manifest_of(FOLDER)["scores"]["test"]["individual"]["TextileDefect"]
    assert float(line[4]) == committed and float(line[5]) == pytest.approx(float(line[2]) - committed, abs=0.02)
    assert line[6] == "differs"


def test_without_retrain_the_committed_scores_are_shown(capsys):
    assert retrain.main(["vision-mini-8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[0] for x in lines[1:]] == [*TASKS[:8], "mean"]


def test_unknown_task_is_an_error_that_lists_those_of_the_suite(capsys):
    assert retrain.main(["vision-mini-8", "--tasks", "GlyphThai"]) == 2
    assert "vision-mini-8 has no task GlyphThai; it has: FashionMNIST" in capsys.readouterr().err


def test_stored_head_is_read_in_float32():
    assert load_head(FOLDER / "heads/MNIST.safetensors").weight.dtype == torch.float32
