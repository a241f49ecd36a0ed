"""``dense-mini`` as it is committed: its files, a run through the real runner, what records say, panels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dense import SHAPE
from matplotlib import image as pictures
from matplotlib import pyplot

from benchmark import suites
from benchmark.assets.dense.family import keeps_the_rule, scores
from benchmark.assets.dense.training import mirror, train_pair
from benchmark.assets.training import Schedule
from benchmark.checkpoints.families import MINI
from benchmark.cli.main import main
from benchmark.domains.dense import scenes as scenes_data
from benchmark.domains.dense.bench import DenseBench
from benchmark.domains.dense.model import Normalisation
from benchmark.harness.job import Options
from benchmark.harness.runner import execute, plan
from benchmark.records import metrics
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.report import panels

FOLDER = MINI / "ResNet-mini"


@pytest.fixture(scope="module")
def bench() -> DenseBench:
    found = suites.open_bench(suites.load("dense-mini"))
    assert isinstance(found, DenseBench)
    return found


@pytest.fixture(scope="module")
def results(bench: DenseBench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("results")
    runs = plan(bench, ["ties", "symerge:steps=1,batch_size=4"], seeds=[0])
    return folder, execute(runs, bench, Store(folder), Options())


def test_a_run_scores_all_tasks_and_says_that_statistics_saw_images(results: tuple[Path, list[Record]]) -> None:
    records = {r.spec.method: r for r in results[1]}
    assert [r.status for r in results[1]] == ["done"] * 4, [r.error for r in results[1]]
    assert records["ties"].access == ["unlabelled train (statistics)"]
    assert records["symerge"].access == ["unlabelled test", "unlabelled train (statistics)"]
    assert "batchnorm=reestimate:600" in records["ties"].spec.suite_version
    for task, metric in {"segmentation": "miou", "depth": "abs_err", "normals": "mean_angle"}.items():
        found = records["ties"].tasks[task]
        assert found.metric == metric and found.n == 150 and found.kind == task
        for name, value in {metric: found.value, **found.others}.items():
            assert metrics.score(name, found.statistics) == pytest.approx(value)


def test_the_experts_score_as_their_manifest_says(results: tuple[Path, list[Record]]) -> None:
    kept = json.loads((FOLDER / "manifest.json").read_text())["scores"]["test"]["individual"]
    individual = next(r for r in results[1] if r.spec.method == "individual")
    for task, found in individual.tasks.items():
        assert found.value == pytest.approx(kept[task][found.metric], rel=2e-3), task


def test_the_choice_was_made_on_validation_by_the_rule() -> None:
    log = json.loads((FOLDER / "choice.json").read_text())
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    chosen = log["trials"][-1]
    assert chosen["validation"] == manifest["scores"]["val"] and chosen["keeps_the_rule"]
    assert keeps_the_rule(chosen["validation"])
    assert set(chosen["validation"]) == {"pretrained", "individual", "average"}


def test_mean_relative_change_takes_the_sign_of_each_metric(bench: DenseBench) -> None:
    found = scores(bench, "val")
    average, expert = found["average"], found["individual"]
    by_hand = [
        average["segmentation"]["miou"] / expert["segmentation"]["miou"] - 1,
        1 - average["depth"]["abs_err"] / expert["depth"]["abs_err"],
        1 - average["normals"]["mean_angle"] / expert["normals"]["mean_angle"],
    ]
    assert average["delta_m"] == pytest.approx(100 * sum(by_hand) / 3)
    assert found["individual"]["delta_m"] == 0


def test_embedded_files_stay_small() -> None:
    files = [p for folder in (FOLDER, scenes_data.FOLDER) for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 12e6


def test_both_protocols_of_statistics_are_suites_of_their_own() -> None:
    again, merged = suites.load("dense-mini"), suites.load("dense-mini-merged-statistics")
    assert again.tasks == merged.tasks and (again.batchnorm, merged.batchnorm) == ("reestimate", "merge")
    opened = suites.open_bench(merged)
    assert opened.access == () and "bn1.running_var" in opened.experts().names


def test_the_assets_commands_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assets", "data", "check", "dense-mini"]) == 0
    assert "test: 150 scenes" in capsys.readouterr().out
    assert main(["assets", "experts", "dense-mini"]) == 0
    assert "miou" in capsys.readouterr().out
    assert main(["assets", "data", "check", "nyuv2", "--root", "/nowhere"]) == 2
    assert main(["assets", "experts", "nyuv2", "--retrain", "--root", "/nowhere"]) == 2


def test_mirrored_normals_point_the_other_way_across() -> None:
    images, truth = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    flip = torch.tensor([True, False])
    seen, found = mirror(images, truth, "normals", flip)
    assert torch.equal(seen[0], images[0].flip(-1)) and torch.equal(seen[1], images[1])
    assert torch.equal(found[0, 0], -truth[0, 0].flip(-1)) and torch.equal(found[0, 1], truth[0, 1].flip(-1))
    assert torch.equal(found[1], truth[1])
    assert torch.equal(mirror(seen, found, "normals", flip)[1], truth)


def test_training_the_base_on_albedo_makes_its_loss_fall(capsys: pytest.CaptureFixture[str]) -> None:
    rows = scenes_data.load_split("val").rows(np.arange(8))
    images = Normalisation(SHAPE.mean, SHAPE.std, torch.device("cpu"), torch.float32)(torch.from_numpy(rows.image))
    target = torch.from_numpy(rows.image).permute(0, 3, 1, 2).float() / 255
    pair = train_pair(
        SHAPE, lambda i: (images[i], target[i]), 8, kind="albedo", channels=3, schedule=Schedule(40, 1e-2, 4, 8), seed=0
    )
    with torch.no_grad():
        after = float((pair(images) - target).abs().mean())
    assert after < 0.6 * float(target.mean()), "the error of painting all black"


def test_panels_show_image_truth_and_every_kept_run(results: tuple[Path, list[Record]]) -> None:
    out = results[0] / "panels.png"
    assert panels.main(["--results", str(results[0]), "--images", "0", "3", "--out", str(out)]) == 0
    picture = pictures.imread(out)
    assert picture.shape[0] > 300 and len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 200
    store = Store(results[0], read_only=True)
    assert {r.variant for r in panels.chosen(store, "dense-mini", None)} >= {"ties", "individual", "pretrained"}
    with pytest.raises(suites.UserError, match="nothing"):
        panels.chosen(store, "dense-mini", ["nothing"])


def test_a_figure_has_a_line_for_every_row_and_image() -> None:
    maps = {
        "segmentation": np.array([[[0, -1], [1, 2]]] * 2),
        "depth": np.array([[[0.0, 1.0], [2.0, 3.0]]] * 2),
        "normals": np.zeros((2, 3, 2, 2)),
    }
    figure = panels.draw(np.zeros((2, 2, 2, 3), np.uint8), {"truth": maps, "mine": maps}, 3, "about")
    photos, truth, mine = (figure.axes[start : start + 6] for start in (0, 6, 12))
    assert len(figure.axes) == 18 and all(axes.get_images() for axes in [*truth, *mine])
    assert [len(axes.get_images()) for axes in photos] == [0, 1, 0] * 2
    assert [axes.get_title() for axes in truth] == ["segmentation", "depth", "normals"] * 2
    assert [line[0].texts[0].get_text() for line in (photos, truth, mine)] == ["image", "truth", "mine"]
    assert figure.get_suptitle() == "about"
    shown = truth[0].get_images()[0].get_array()
    assert bool(np.ma.getmaskarray(shown)[0, 1]), "pixels without truth are left white"
    pyplot.close(figure)
