"""The whole way at full scale on tiny files of the public formats: import, heads, check, data, cache, run, board."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.hub_data import parquet
from helpers.public import hub_family, open_clip_family
from helpers.published_sets import SETS, downloads
from helpers.towers import tiny

from benchmark import suites
from benchmark.cli import main as cli
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import BACKBONES

TASKS = suites.load("vision-8").tasks
IMAGES = 12


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny ViT-B-32, and tiny copies of the eight data sets under ``data`` that their manifests expect."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    real = full.info

    def expecting(task: str, family: str | None = None) -> full.SetInfo:
        about = real(task, family)
        return about.model_copy(update={"test": about.test.model_copy(update={"n": IMAGES})})

    monkeypatch.setattr(full, "info", expecting)
    for task in TASKS:
        about = real(task)
        splits = {about.splits["train"]: 20, about.splits["test"]: IMAGES}
        parquet(tmp_path / "data" / about.folder, splits, about.classes, label=about.label)
    return tmp_path


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.mark.parametrize("family", ["task-arithmetic", "fusionbench"])
def test_public_files_end_on_a_board(family: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = BACKBONES["ViT-B-32"]
    if family == "fusionbench":
        hub_family(root / "public", backbone, TASKS)
    else:
        open_clip_family(root / "public", family, backbone, TASKS, "plain")
    own = ["--out", root / "own"]
    assert run("assets", "checkpoints", "import", family, root / "public", *own) == 0
    if family == "fusionbench":  # its heads are made, the other's are files
        assert run("assets", "checkpoints", "heads", family, "--tasks", "GTSRB", *own) == 0
    assert run("assets", "checkpoints", "check", family, "--suite", "vision-8", *own) == 0
    assert ("397 of 397 as named" in capsys.readouterr().out) == (family == "fusionbench")
    assert run("assets", "data", "check", "vision-8", "--root", root / "data") == 0
    folders = ["--checkpoints", root / "own", "--data-root", root / "data", "--results", root / "results"]
    command = ["run", "--suite", "vision-8", "--family", family, "--methods", "ties", "symerge:steps=2", *folders]
    assert run(*command) == 0
    cached = {p: p.stat().st_mtime_ns for p in (root / "cache").rglob("*.npy")}
    assert len(cached) == 2 * len(TASKS)  # the test splits, decoded once
    board = pd.read_csv(root / f"results/boards/vision-8--ViT-B-32--{family}.csv")
    assert set(board["method"]) == {"pretrained", "individual", "ties", "symerge:steps=2"}
    record = json.loads(next(root.glob("results/vision-8/ViT-B-32/*/record.json")).read_text())
    assert record["spec"]["family"] == family and len(record["spec"]["checkpoints"]) == 17
    assert all(result["n"] == IMAGES for result in record["tasks"].values()) and len(record["tasks"]) == 8
    capsys.readouterr()
    assert run(*command[:5], "--methods", "task_arithmetic", *folders) == 0
    assert {p: p.stat().st_mtime_ns for p in cached} == cached  # and mapped from then on
    assert "vision-8 · ViT-B-32 · " + family in capsys.readouterr().out


def test_one_task_on_its_own_expert_scores_what_the_public_model_scores(root: Path) -> None:
    models = hub_family(root / "public", BACKBONES["ViT-B-32"], TASKS)
    assert run("assets", "checkpoints", "import", "fusionbench", root / "public", "--out", root / "own") == 0
    bench = suites.open_bench(
        suites.load("vision-8"), family="fusionbench", checkpoints=root / "own", data_root=root / "data"
    )
    images, _ = bench.source("GTSRB", "test")[torch.arange(IMAGES)]
    experts = bench.experts()
    base = models["openai/clip-vit-base-patch32"]
    with torch.inference_mode():
        ours = experts.head("GTSRB")(experts.forward(experts.state("GTSRB"), "GTSRB", images))
        public = models["tanganke/clip-vit-base-patch32_gtsrb"].eval()
        features = base.visual_projection(public(images).pooler_output)
        theirs = torch.nn.functional.normalize(features, dim=-1) @ experts.head("GTSRB").weight.T
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_what_was_downloaded_ends_on_a_board_that_names_the_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's way with the eight data sets as archives and files of their authors, and pickled public experts."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    real = full.info

    def expecting(task: str, family: str | None = None) -> full.SetInfo:
        about = real(task, family)
        return about.model_copy(update={"test": about.test.model_copy(update={"n": SETS[task][2]})})

    monkeypatch.setattr(full, "info", expecting)
    places = tmp_path / "downloads", tmp_path / "data"
    downloads(places[0])
    open_clip_family(tmp_path / "public", "task-arithmetic", BACKBONES["ViT-B-32"], TASKS, "plain")
    assert run("assets", "data", "convert", "vision-8", *places) == 0
    assert run("assets", "data", "check", "vision-8", "--root", places[1]) == 0
    assert capsys.readouterr().out.count("converted from") == 8
    own = tmp_path / "own dir"
    assert run("assets", "checkpoints", "import", "task-arithmetic", tmp_path / "public", "--out", own) == 0
    # What the import says to type is typed.
    said = capsys.readouterr().err.partition("to merge these: ./run_all.sh ")[2].splitlines()[0]
    command = [places[1] if word == "DIR" else word for word in shlex.split(said)]
    assert run("run", *command, "--methods", "ties", "--results", tmp_path / "results") == 0
    board = (tmp_path / "results/boards/vision-8--ViT-B-32--task-arithmetic.md").read_text()
    assert "- DTD: converted from DTD with its partitions, partition 1 of ten" in board
    assert "- EuroSAT: converted from task" in board and "21,600" in board
