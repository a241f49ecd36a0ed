"""vision-mini-8-disjoint: experts of two independent bases, what they were made with, and what a run of it is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmark import suites
from benchmark.assets.vision import command as retrain
from benchmark.assets.vision import finetuning as finetune
from benchmark.assets.vision.family import BACKBONE, FOLDER, Settings, load_head, manifest_of
from benchmark.checkpoints.families import MINI, FamilyError, sha256
from benchmark.domains.vision import embedded as vision
from benchmark.domains.vision.family import load_embedded, second_base
from benchmark.domains.vision.heads import zero_shot_head
from benchmark.domains.vision.vocabulary import join_towers
from benchmark.harness.runner import plan
from methods.api import Access

SECOND = second_base("mini-disjoint", "ViT-mini")
THEIRS = ["MNIST", "AnimalSilhouettes", "PhotoPatch", "GlyphCyrillic"]
TASKS = vision.tasks("vision-mini-8")
RESULTS = Path(__file__).parents[3] / "results"


@pytest.fixture(scope="module")
def family():
    return load_embedded("mini-disjoint", "ViT-mini", TASKS)


def flat(path):
    return torch.cat([tensor.float().flatten() for _, tensor in sorted(load_file(path).items())])


def test_every_second_expert_comes_with_its_head_from_the_second_base(family):
    assert TASKS[1::2] == THEIRS and list(family.experts) == TASKS == list(family.heads)
    assert {t for t in TASKS if family.experts[t].parent == SECOND} == set(THEIRS)
    assert {family.experts[t].parent for t in TASKS if t not in THEIRS} == {FOLDER} == {family.base.parent}
    for task in TASKS:
        stored = load_head((SECOND if task in THEIRS else FOLDER) / f"heads/{task}.safetensors")
        assert torch.equal(family.heads[task].weight, stored.weight)


def test_the_bases_lie_five_times_further_apart_than_each_expert_from_its_own(family):
    first, second = flat(FOLDER / "base.safetensors"), flat(SECOND / "base.safetensors")
    apart = (first - second).norm()
    for task in TASKS:
        expert = flat(family.experts[task])
        own, other = (second, first) if task in THEIRS else (first, second)
        assert (expert - own).norm() < 0.2 * min(apart, (expert - other).norm()), task
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) < 0.5


def test_the_second_base_and_its_experts_differ_from_the_first_in_the_seed_alone():
    made, theirs = manifest_of(FOLDER)["made"], manifest_of(SECOND)["made"]
    assert {k: theirs[k] for k in ("base", "expert")} == Settings(base_seed=1).describe()
    assert theirs["base"] | {"seed": 0} == made["base"] and theirs["expert"] == made["expert"]
    assert manifest_of(SECOND)["data"] == {t: vision.info(t).arrays_sha256["train"] for t in THEIRS}


def test_the_folder_is_whole_small_and_in_half_precision():
    files = manifest_of(SECOND)["files"]
    stored = {str(p.relative_to(SECOND)) for p in SECOND.rglob("*.safetensors")}
    assert stored == set(files) and {entry["dtype"] for entry in files.values()} == {"F16"}
    assert all(sha256(SECOND / name) == entry["sha256"] for name, entry in files.items())
    assert sum(p.stat().st_size for p in SECOND.rglob("*") if p.is_file()) < 8e6


def test_the_second_heads_are_built_by_the_second_text_tower():
    towers = {f: join_towers(BACKBONE, load_file(f / "base.safetensors"), load_file(f / "text.safetensors"))
              for f in (FOLDER, SECOND)}  # fmt: skip
    for task in THEIRS:
        info, stored = vision.info(task), load_head(SECOND / f"heads/{task}.safetensors").weight
        built = {f: zero_shot_head(*t, info.classes, info.templates).weight for f, t in towers.items()}
        torch.testing.assert_close(stored, built[SECOND], rtol=2e-3, atol=2e-2)
        assert (stored - built[FOLDER]).abs().max() > 0.2


@pytest.mark.parametrize("task", ["MNIST", "PhotoPatch"])
def test_experts_of_the_second_base_score_as_the_manifest_says(family, task):
    data, known = vision.load_split(task, "test"), manifest_of(SECOND)["scores"]["test"]
    for name, path in (("pretrained", SECOND / "base.safetensors"), ("individual", family.experts[task])):
        encoder = finetune.load_encoder(load_file(path))
        found = finetune.accuracy(encoder, family.heads[task], data.images, data.labels)
        assert found == pytest.approx(known[name][task], abs=0.3)
    assert known["individual"][task] > known["pretrained"][task] + 5


def test_a_run_of_it_is_another_run_than_that_of_the_shared_base():
    shared, disjoint = (suites.load(name) for name in ("vision-mini-8", "vision-mini-8-disjoint"))
    for protocol in ("domain", "scale", "tasks", "backbones", "budget", "overrides", "batch_size"):
        assert getattr(shared, protocol) == getattr(disjoint, protocol), protocol
    benches = [suites.open_bench(suite) for suite in (shared, disjoint)]
    assert benches[0].data_of(Access()) == benches[1].data_of(Access())
    runs = [plan(bench, ["ties"], seeds=[0]) for bench in benches]
    assert not {r.spec.run_id for r in runs[0]} & {r.spec.run_id for r in runs[1]}
    one, two = (bench.checkpoints for bench in benches)
    own = {"base.safetensors", *files(t for t in TASKS if t not in THEIRS)}
    added = {f"{SECOND.name}/{name}" for name in ["base.safetensors", *files(THEIRS)]}
    assert set(two) == own | added and all(two[name] == one[name] for name in own)
    assert not set(one.values()) & {two[name] for name in added}


def files(tasks):
    return [f"{place}{task}.safetensors" for task in tasks for place in ("", "heads/")]


def test_its_scores_are_shown_and_retraining_takes_its_tasks_and_seed(capsys):
    assert retrain.main(["vision-mini-8-disjoint"]) == 0
    assert [x.split()[0] for x in capsys.readouterr().out.splitlines()[1:]] == [*THEIRS, "mean"]
    assert retrain._family("vision-mini-8-disjoint") == (SECOND, THEIRS, 1)
    assert retrain._family("vision-mini-8") == (FOLDER, TASKS, 0)


def test_an_unknown_second_base_is_an_error_that_says_which_folder_is_missing():
    with pytest.raises(FamilyError, match="ViT-mini-other"):
        load_embedded("mini-other", "ViT-mini", TASKS)
    assert not (MINI / "ViT-mini-other").exists()


def test_the_report_shows_what_both_boards_say():
    shared, disjoint = (
        pd.read_csv(RESULTS / f"boards/{name}.csv").set_index("method")
        for name in ("vision-mini-8--ViT-mini--mini", "vision-mini-8-disjoint--ViT-mini--mini-disjoint")
    )
    section = (RESULTS / "ablations.md").read_text().split("## Different initialisations")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    own = [task for task in TASKS if task not in THEIRS]
    shown = {}
    for method, first, n, second, within, seeds, ours, theirs, storage in rows[2:]:
        row = disjoint.loc[method]
        known = [row["mean"], row[own].mean(), row[THEIRS].mean()]
        assert [second, ours, theirs] == [f"{value:.1f}" for value in known], method
        assert within == f"{row['low']:.1f} to {row['high']:.1f}" and storage == f"{row['storage_models']:.2f}"
        assert int(seeds) == row["n"] and (first == "–") == (method not in shared.index), method
        if first != "–":
            assert (first, int(n)) == (f"{shared.loc[method, 'mean']:.1f}", shared.loc[method, "n"]), method
        shown[method] = row["mean"]
    assert set(shown) == set(disjoint.index)
