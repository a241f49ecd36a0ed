"""A rehearsal runs the real path on random weights and generated images, and leaves no result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.forks import assert_nothing_outlives

from benchmark import suites
from benchmark.budget import rehearsal as rehearse
from benchmark.cli import main as cli
from benchmark.common.project import ROOT
from benchmark.domains.text.extent import ROBERTA
from benchmark.harness.job import Options
from benchmark.records.store import Store


@pytest.fixture
def suite() -> suites.Suite:
    """Two tasks of vision-8: class names and manifests are the real ones, the tower is the tiny one."""
    whole = suites.load("vision-8")
    return whole.model_copy(update={"tasks": ["MNIST", "DTD"]})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def test_a_rehearsal_goes_the_whole_way_and_its_records_lie_apart(suite: suites.Suite, tmp_path: Path) -> None:
    told: list[str] = []
    made = list(
        rehearse.rehearse(
            rehearse.Rehearsal(suite, "ViT-mini", tmp_path / "rehearsal", threads=1),
            asked=["symerge", "robustmerge"],
            tell=told.append,
        )
    )
    assert [(one.variant, one.status) for one in made] == [
        ("pretrained", "done"), ("individual", "done"), ("symerge:steps=1", "done"), ("robustmerge", "left out"),
    ]  # fmt: skip
    record = made[2].record
    assert record is not None and set(record.tasks) == {"MNIST", "DTD"} and record.spec.family == "rehearsal"
    assert all(task.n == rehearse.TEST for task in record.tasks.values())
    assert record.cost.images_drawn == 2 * 32 and record.cost.trainable_parameters
    assert all(one.peak and one.peak > 50e6 for one in made)
    # The tiny tower lies below what a process takes anyhow; docs/rehearsal.md compares at the size of ViT-B-32.
    assert [one.estimate is not None for one in made] == [True, True, True, False]
    assert all(0.3 < one.estimate / one.together < 3 for one in made if one.estimate and one.together)
    # Nothing lies where boards look, and the temporary files are gone.
    assert Store(tmp_path, read_only=True).all() == [] and len(Store(tmp_path / "rehearsal", read_only=True).all()) == 4
    folder = told[0].split(" to ")[-1]
    assert "symerge-rehearsal" in folder and not os.path.exists(folder)
    lines = rehearse.table(made).splitlines()
    assert len(lines) == 6 and lines[4].startswith("| `symerge:steps=1` | done |")
    assert all(one.together and one.peak and one.together > one.peak for one in made), "a method has its own process"


def test_nyuv2_is_rehearsed_as_vision_is(tmp_path: Path) -> None:
    what = rehearse.Rehearsal(suites.load("nyuv2"), "ResNet-mini", tmp_path / "rehearsal", threads=1)
    made = list(rehearse.rehearse(what, asked=["ties", "symerge:batch_size=2"], tell=lambda _: None))
    assert [(one.variant, one.status) for one in made][2:] == [
        ("ties", "done"),
        ("symerge:batch_size=2,steps=1", "done"),
    ]
    for one in made:
        assert one.record is not None and set(one.record.tasks) == {"segmentation", "depth", "normals"}
        assert one.record.spec.family == "rehearsal" and one.estimate and one.together
    assert made[3].record is not None and made[3].record.cost.images_drawn == 3 * 2


def test_glue_is_rehearsed_as_vision_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    for key, value in {**small, "vocab_size": 11}.items():
        monkeypatch.setitem(ROBERTA, key, value)
    suite = suites.load("glue").model_copy(update={"tasks": ["CoLA", "STS-B", "MNLI"]})
    what = rehearse.Rehearsal(suite, "RoBERTa-base", tmp_path / "rehearsal", threads=1)
    made = list(rehearse.rehearse(what, asked=["ties", "symerge"], tell=lambda _: None))
    assert [(one.variant, one.status) for one in made][2:] == [("ties", "done"), ("symerge:steps=1", "done")]
    for one in made:
        assert one.record is not None and set(one.record.tasks) == {"CoLA", "STS-B", "MNLI"}
        assert all(task.n == rehearse.TEST for task in one.record.tasks.values()) and one.estimate


def test_a_peak_further_than_a_quarter_from_its_estimate_is_named_and_the_command_says_so(
    suite: suites.Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(name: str, share: float | None) -> rehearse.Outcome:
        return rehearse.Outcome(name, "done", None, 80, 1.0, share and 100 / share, 100)

    near, over, under = ended("near", 1.2), ended("over", 1.3), ended("under", 0.7)
    assert [one.off for one in (near, over, under, ended("none", None))] == [False, True, True, False]
    said = rehearse.verdict([near, over, under, ended("none", None)])
    assert said.startswith("1 of 3 peaks lie within a quarter") and "over (1.30 of its estimate), under (0.70" in said
    for ends, status in (([near], 0), ([near, over], 1), ([rehearse.Outcome("x", "timeout", None, None, 1.0)], 1)):
        monkeypatch.setattr(rehearse, "rehearse", lambda *_, ends=ends, **__: iter(ends))
        assert rehearse.main(rehearse.Rehearsal(suite, "ViT-mini", tmp_path), None) == status
        assert f"{rehearse.verdict(ends)}\n" in capsys.readouterr().out
    assert "1.30*" in rehearse.table([over]) and "*" not in rehearse.table([near])


def test_a_run_beyond_the_memory_limit_is_ended_and_the_next_goes_on(suite: suites.Suite, tmp_path: Path) -> None:
    what = rehearse.Rehearsal(suite, "ViT-mini", tmp_path, Options(memory_limit=1))
    made = list(rehearse.rehearse(what, asked=["ties"], tell=lambda _: None))
    assert [one.variant for one in made] == ["pretrained", "individual", "ties"]
    assert all(one.status == "out of memory" for one in made)


@pytest.mark.slow
def test_a_run_ends_with_a_rehearsal_that_is_killed(tmp_path: Path) -> None:
    """Neither SIGTERM's handler nor any ``finally`` runs then."""
    text = (
        "from benchmark import suites; from benchmark.budget import rehearsal as rehearse; from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    suite = suites.load('vision-8').model_copy(update={'tasks': ['MNIST']})\n"
        f"    results = Path({str(tmp_path / 'results')!r})\n"
        "    what = rehearse.Rehearsal(suite, 'ViT-mini', results)\n"
        "    list(rehearse.rehearse(what, asked=['symerge:steps=100000']))\n"
    )
    (tmp_path / "script.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=environment)
    running = None
    while running is None:
        assert parent.poll() is None
        time.sleep(0.2)
        found = [json.loads(path.read_text()) for path in tmp_path.glob("results/*/*/*/record.json")]
        running = next((r for r in found if r["variant"].startswith("symerge") and r["status"] == "running"), None)
    assert_nothing_outlives(parent)


def test_what_adapts_makes_one_update_and_what_does_not_keeps_its_steps(suite: suites.Suite) -> None:
    found = rehearse.variants(["all"], suite)
    assert {"symerge:steps=1", "adamerging:steps=1", "joint:steps=1", "wudi", "ties", "fisher"} <= set(found)
    assert rehearse.variants(["symerge:steps=3,lr=0.1"], suite)[-1] == "symerge:steps=3,lr=0.1"
    assert rehearse.variants(["symerge:lr=0.1"], suite)[-1] == "symerge:lr=0.1,steps=1"


def test_a_mini_suite_has_nothing_to_rehearse(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["run", "--rehearse"]) == 2
    assert "--suite vision-8 --backbone ViT-B-32 --rehearse" in capsys.readouterr().err
