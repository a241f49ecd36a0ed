"""The rule that chose the small family: five numbers, their tolerances, and a tie-break that was fixed beforehand."""

import json

import pytest

from benchmark.assets.vision.small import choice
from benchmark.common.errors import UserError
from benchmark.domains.vision.backbones import BACKBONES

ON_TARGET = {name: wanted.value for name, wanted in choice.RULE.items()}


def trial(name, image_size=28, steps=150, **numbers):
    return {
        "trial": name,
        "settings": {"image_size": image_size, "expert": {"steps": steps}},
        "numbers": {**ON_TARGET, **numbers},
    }


def test_a_trial_on_the_public_values_keeps_the_rule():
    assert choice.broken(ON_TARGET) == [] and choice.distance(ON_TARGET) == 0


@pytest.mark.parametrize("name", list(choice.RULE))
def test_each_number_alone_breaks_the_rule_beyond_its_tolerance(name):
    wanted = choice.RULE[name]
    for sign in (-1, 1):
        inside = {**ON_TARGET, name: wanted.value + 0.99 * sign * wanted.tolerance}
        outside = {**ON_TARGET, name: wanted.value + 1.01 * sign * wanted.tolerance}
        assert choice.broken(inside) == [] and choice.broken(outside) == [name]
    assert choice.broken({**ON_TARGET, name: float("nan")}) == [name]


def test_distance_counts_each_number_in_its_own_tolerance():
    one = {**ON_TARGET, "pretrained": 48.0 + 8.0}
    other = {**ON_TARGET, "relative_norm": 0.4 - 0.2}
    assert choice.distance(one) == pytest.approx(choice.distance(other)) == pytest.approx(0.2**0.5)


def test_no_choice_without_a_trial_that_keeps_the_rule():
    assert choice.decide([trial("far", individual=70.0)]) is None
    assert choice.decide([{"trial": "abandoned", "settings": {}, "note": "no scores"}]) is None


def test_the_smallest_image_wins_then_the_fewest_steps_then_the_least_distance():
    far = trial("far but small", pretrained=41.0)
    trials = [
        trial("large", image_size=42),
        trial("long", steps=300),
        far,
        trial("near", pretrained=44.0),
        trial("broken", image_size=14, pretrained=20.0),
    ]
    assert choice.decide(trials) == "near"
    assert choice.decide(trials[:3]) == "far but small"
    assert choice.decide(trials[:2]) == "long"
    assert choice.decide(trials[:1]) == "large"


def test_a_trial_that_is_run_again_takes_its_own_place_and_discarded_ones_stay():
    log = choice.logged({}, trial("a", individual=70.0))
    log = choice.logged(log, trial("b"))
    assert [t["trial"] for t in log["trials"]] == ["a", "b"] and log["chosen"] == "b"
    log = choice.logged(log, trial("b", individual=60.0))
    assert [t["trial"] for t in log["trials"]] == ["a", "b"] and log["chosen"] is None


def family(folder, settings):
    folder.mkdir(parents=True)
    (folder / "base.safetensors").write_bytes(b"base")
    (folder / "left over").write_bytes(b"not in the manifest")
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "name": "small",
                "backbone": "ViT-S-14",
                "quick_gelu": False,
                "classes": {},
                "settings": settings,
                "files": {"base.safetensors": {"sha256": "", "bytes": 4}},
            }
        )
    )


def test_the_chosen_trial_and_only_its_files_are_adopted(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "get_backbone", lambda name: BACKBONES[name].at(28))
    log = choice.logged(choice.logged({}, trial("a", image_size=42)), trial("b"))
    for entry in log["trials"]:
        family(tmp_path / entry["trial"], entry["settings"])
    assert choice.adopt(log, tmp_path, tmp_path / "out") == "b"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["base.safetensors", "manifest.json"]
    with pytest.raises(UserError, match="no trial keeps the rule"):
        choice.adopt(choice.logged({}, trial("a", individual=1.0)), tmp_path, tmp_path / "none")
    monkeypatch.setattr(choice, "get_backbone", lambda name: BACKBONES[name].at(42))
    with pytest.raises(UserError, match="for images of 42 pixels, the chosen trial 'b' for 28"):
        choice.adopt(log, tmp_path, tmp_path / "none")
    log["trials"][1]["settings"] = {**log["trials"][1]["settings"], "image_size": 56}
    with pytest.raises(UserError, match="made with other settings than the trial 'b'"):
        choice.adopt(log, tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()
