"""The committed experts of `llm-small`: PEFT's format, the rule that chose them, their size."""

from __future__ import annotations

import json

import pytest

from benchmark import suites
from benchmark.assets.choice import five_numbers
from benchmark.assets.text.small import choice, make
from benchmark.assets.text.small.command import table
from benchmark.checkpoints.families import sha256
from benchmark.common.errors import UserError
from benchmark.domains.text import chat_family, questions
from benchmark.domains.text.embedded import restore
from benchmark.domains.text.family import read_manifest

FOLDER, TASKS = chat_family.FOLDER, suites.load("llm-small").tasks


@pytest.fixture(scope="module")
def manifest():
    return read_manifest(FOLDER, restore(FOLDER))


def test_every_expert_is_an_adapter_of_all_linear_layers_of_the_blocks_made_from_the_committed_questions(manifest):
    family = chat_family.load_family(FOLDER, TASKS, manifest["base"])
    for task in TASKS:
        assert len(family.adapters[task]) == 30 * 7
        assert all(a.shape[0] == b.shape[1] == 8 and scale == 2.0 for a, b, scale in family.adapters[task].values())
        made, splits = manifest["made"][f"{task}/adapter_model.safetensors"], questions.info(task)["splits"]
        assert made["data"] == [splits[split]["sha256"] for split in ("train", "val")]
        assert made["base"] == manifest["base"] and {**made["recipe"]} == manifest["settings"]["recipe"]
    assert family.hashes["WordKind/adapter_config.json"] == sha256(FOLDER / "WordKind" / "adapter_config.json")


@pytest.mark.parametrize("family", make.FAMILIES)
def test_the_choice_follows_the_rule(family):
    log = json.loads(choice.log_of(family).read_text(encoding="utf-8"))
    assert log["rule"] == {name: vars(wanted) for name, wanted in choice.RULE.items()}
    assert choice.CHOICE.decide(log["trials"]) == log["chosen"]
    for each in log["trials"]:
        given = {name: value for name, value in each.items() if name not in ("distance", "outside")}
        assert choice.CHOICE.judged(given) == each
        assert each["settings"] == choice.TRIALS[family][each["trial"]].describe()
        again = five_numbers(each["validation"], each["relative_norms"], choice.share)["numbers"]
        assert each["numbers"] == pytest.approx(again, abs=2e-3)


def test_whole_fine_tunings_are_the_trial_that_misses_the_one_number_without_a_public_value():
    log = json.loads(choice.log_of("full").read_text(encoding="utf-8"))
    assert log["chosen"] is None
    trial = next(each for each in log["trials"] if each["settings"] == make.FAMILIES["full"].describe())
    assert trial["outside"] == ["relative_norm"]


def test_the_family_of_rank_16_is_made_with_what_its_choice_chose():
    log = json.loads(choice.log_of("rank16").read_text(encoding="utf-8"))
    trial = next(each for each in log["trials"] if each["trial"] == log["chosen"])
    assert trial["settings"] == make.FAMILIES["rank16"].describe()
    assert (trial["settings"]["recipe"]["rank"], trial["settings"]["recipe"]["alpha"]) == (16, 32.0)


def test_the_committed_family_is_the_trial_that_was_chosen(manifest):
    log = json.loads(choice.log_of("small").read_text(encoding="utf-8"))
    trial = next(each for each in log["trials"] if each["trial"] == log["chosen"])
    assert trial["settings"] == manifest["settings"] == make.FAMILIES["small"].describe()
    assert trial["validation"]["individual"] == manifest["validation"]["individual"]


def test_fewer_steps_win_then_the_least_distance():
    middle = {name: wanted.value for name, wanted in choice.RULE.items()}

    def trial(name, steps, **numbers):
        return {"trial": name, "settings": {"recipe": {"steps": steps}}, "numbers": {**middle, **numbers}}

    trials = [trial("long", 90), trial("near", 60, gain=0.5), trial("far", 60, gain=2.5), trial("out", 30, gain=3.5)]
    assert choice.CHOICE.decide(trials) == "near"
    assert choice.CHOICE.decide([trials[0], trials[3]]) == "long"
    assert choice.CHOICE.decide(trials[3:]) is None
    assert choice.CHOICE.judged(trials[3])["outside"] == ["gain"]


def test_the_choice_adopts_the_chosen_trials_files_and_no_others(manifest, tmp_path):
    log = json.loads((FOLDER / "choice.json").read_text(encoding="utf-8"))
    place = tmp_path / "trials" / log["chosen"]
    place.parent.mkdir()
    place.symlink_to(FOLDER)
    assert choice.adopt(log, tmp_path / "trials", tmp_path / "out") == log["chosen"]
    assert chat_family.load_family(tmp_path / "out", TASKS, manifest["base"]).hashes
    adopted = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    logs = {f"logs/{task}.json" for task in TASKS}
    assert adopted == {*manifest["files"], *manifest["configs"], *logs, "manifest.json"}
    other = [{**each, "settings": {**each["settings"], "seed": 1}} for each in log["trials"]]
    with pytest.raises(UserError, match="other settings"):
        choice.adopt({**log, "trials": other}, tmp_path / "trials", tmp_path / "none")
    with pytest.raises(UserError, match="no trial keeps the rule"):
        choice.adopt({**log, "chosen": None}, tmp_path / "trials", tmp_path / "none")


def test_the_table_says_which_files_are_the_committed_ones(manifest):
    files = {name: dict(entry) for name, entry in manifest["files"].items()}
    files["NounVerb/adapter_model.safetensors"]["sha256"] = "0" * 64
    lines = table({**manifest, "files": files}, TASKS, manifest).splitlines()
    assert [line.split("  ")[-1] for line in lines if "committed" in line and "NounVerb" in line] == [
        "another file than the committed one"
    ]
    assert sum(line.endswith("  the committed file") for line in lines) == len(TASKS) - 1


def test_data_and_family_are_below_their_share_of_the_repository():
    files = [path for folder in (FOLDER, questions.FOLDER) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
