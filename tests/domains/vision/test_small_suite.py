"""The committed family of `vision-small-8`, as any run opens it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmark import suites
from benchmark.assets.vision.small import choice, make
from benchmark.checkpoints.families import read_manifest
from benchmark.suites import open_bench
from methods.core import packed

TASKS = ["OptDigits", "EmojiGroup"]


@pytest.fixture(scope="module")
def bench():
    return open_bench(suites.load("vision-small-8").model_copy(update={"tasks": TASKS}))


def test_experts_are_the_base_and_their_packed_vectors(bench):
    experts = bench.experts()
    base = load_file(make.FOLDER / "base.safetensors")
    for task in TASKS:
        state = packed.open_state(make.FOLDER / f"{task}.safetensors", base)
        assert experts.expert(task).keys() == base.keys()
        for name in ("visual.conv1.weight", "visual.transformer.resblocks.3.attn.in_proj_weight", "visual.proj"):
            torch.testing.assert_close(experts.expert(task)[name], state[name], rtol=0, atol=0)
            assert (state[name] != base[name].float()).any()


def test_experts_lie_as_near_to_the_base_as_clips(bench):
    experts = bench.experts()
    names = list(experts.base)
    start = sum(float(experts.base[n].double().square().sum()) for n in names) ** 0.5
    moved = [
        sum(float(experts.task_vectors(n)[i].double().square().sum()) for n in names) ** 0.5 for i in range(len(TASKS))
    ]
    assert all(0.002 < each / start < 0.006 for each in moved)


def test_accuracies_on_validation_images_are_those_of_the_manifest(bench):
    from benchmark.assets.vision.finetuning import accuracy, load_encoder
    from benchmark.domains.vision import embedded

    manifest = read_manifest(make.FOLDER)
    encoder = load_encoder(make.load_expert(make.FOLDER, "EmojiGroup"), make.Settings().backbone())
    data = embedded.load_split("EmojiGroup", "validation")
    head = make.load_head(make.FOLDER / "heads/EmojiGroup.safetensors")
    measured = accuracy(encoder, head, data.images, data.labels)
    # Another processor may turn an image or two.
    assert measured == pytest.approx(manifest["validation"]["individual"]["EmojiGroup"], abs=200 / len(data.labels))


def test_the_choice_follows_the_rule_and_the_family_is_the_chosen_one():
    log = json.loads((make.FOLDER / "choice.json").read_text(encoding="utf-8"))
    assert log["rule"] == {name: vars(wanted) for name, wanted in choice.RULE.items()}
    assert choice.decide(log["trials"]) == log["chosen"] and log["chosen"] is not None
    trial = next(each for each in log["trials"] if each["trial"] == log["chosen"])
    assert trial["settings"] == read_manifest(make.FOLDER)["settings"] == choice.TRIALS[log["chosen"]].describe()
    assert (
        not choice.broken(trial["numbers"])
        and trial["validation"]["individual"] == (read_manifest(make.FOLDER)["validation"]["individual"])
    )


def test_the_family_is_below_its_share_of_the_repository():
    assert sum(path.stat().st_size for path in make.FOLDER.rglob("*") if path.is_file()) < 120e6
