"""Methods that adapt are handed a user's images; the data-free ones are scored on them, and the best one is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import own_models
from PIL import Image
from safetensors.torch import load_file

import methods
from benchmark.checkpoints.models import open_model
from benchmark.cli.main import main
from benchmark.merging import advice, data, merge
from methods.api import Access

CLASSES, EACH = (2, 3), 12


class Owned:
    """A user's files: a base with its processor, two experts whose heads fit their images, and the images."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.folder = folder
        torch.manual_seed(0)
        model = own_models.vit()
        model.save_pretrained(folder / "base")
        self.processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
        self.processor.save_pretrained(folder / "base")
        self.paths, self.images, self.experts = {}, {}, {}
        for number, classes in enumerate(CLASSES):
            task = f"t{number}"
            self.images[task] = self._draw(folder / f"images{number}", classes)
            expert = own_models.vit_classifier(classes)
            expert.vit.load_state_dict(own_models.tuned(model, number, 0.03).state_dict())
            self._fit(expert.eval(), task)
            expert.save_pretrained(folder / task)
            self.paths[task], self.experts[task] = folder / task, expert

    def _draw(self, folder: Path, classes: int) -> list[tuple[Path, int]]:
        """Noise of a class's own colour."""
        rng, made = np.random.default_rng(classes), []
        for label in range(classes):
            place = folder / f"class {label}"
            place.mkdir(parents=True)
            for number in range(EACH):
                colour = np.eye(3)[label] * 120 + rng.integers(0, 60, (40, 40, 3))
                Image.fromarray(colour.astype(np.uint8)).save(place / f"{number}.png")
                made.append((place / f"{number}.png", label))
        return sorted(made)

    def pixels(self, task: str) -> torch.Tensor:
        """As transformers' own processor makes them."""
        pictures = [Image.open(path) for path, _ in self.images[task]]
        made: torch.Tensor = self.processor(pictures, return_tensors="pt").pixel_values
        return made

    def labels(self, task: str) -> torch.Tensor:
        return torch.tensor([label for _, label in self.images[task]])

    @torch.no_grad()
    def _fit(self, expert: Any, task: str) -> None:
        """A linear head by least squares on the expert's features."""
        features = expert.vit(self.pixels(task)).last_hidden_state[:, 0]
        ones = torch.cat([features, torch.ones(len(features), 1)], 1)
        wanted = 20 * torch.nn.functional.one_hot(self.labels(task)).float()
        solution = torch.linalg.lstsq(ones, wanted).solution
        expert.classifier.weight.copy_(solution[:-1].T)
        expert.classifier.bias.copy_(solution[-1])

    def words(self, option: str = "--images") -> list[str]:
        base = ["--base", str(self.folder / "base"), "--experts", *(f"{t}={p}" for t, p in self.paths.items())]
        return [*base, option, *(f"t{n}={self.folder / f'images{n}'}" for n in range(len(CLASSES)))]

    def given(self, labelled: bool) -> data.Given:
        folders = {f"t{n}": self.folder / f"images{n}" for n in range(len(CLASSES))}
        return data.Given(labelled=folders) if labelled else data.Given(images=folders)


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Owned:
    return Owned(tmp_path_factory.mktemp("owned"))


def test_what_a_method_sees_is_what_the_librarys_processor_makes_and_has_no_labels(owned: Owned) -> None:
    aligned, sight = data.look(open_model(owned.folder / "base"), owned.paths, owned.given(labelled=False))
    experts = sight.experts(merge.Plan(aligned, "ties"), "cpu")
    stream = sight.stream(Access(test="unlabelled"), list(owned.paths), "cpu")
    for task, expert in owned.experts.items():
        batch = stream.draw(task, 5)
        assert batch.labels is None and not hasattr(sight.sources[task], "labels")
        torch.testing.assert_close(batch.inputs, owned.pixels(task)[batch.index], atol=0.02, rtol=0)
        state = experts.state(task)
        logits = experts.head(task)(experts.forward(state, task, batch.inputs))
        torch.testing.assert_close(logits, expert(batch.inputs).logits.detach(), atol=1e-4, rtol=1e-4)


def test_a_method_that_adapts_writes_a_model_and_heads_that_the_library_loads(owned: Owned, tmp_path: Path) -> None:
    import transformers

    assert main(["merge", "symerge:steps=4", *owned.words(), "--out", str(tmp_path / "out")]) == 0
    aligned, sight = data.look(open_model(owned.folder / "base"), owned.paths, owned.given(labelled=False))
    plan = merge.Plan(aligned, "symerge", {"steps": 4})
    experts = sight.experts(plan, "cpu")
    by_hand = methods.get("symerge")(experts, sight.stream(plan.access, plan.tasks, "cpu"), steps=4)
    for number, classes in enumerate(CLASSES):
        task = f"t{number}"
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out", num_labels=classes)
        head = load_file(tmp_path / f"out/heads/{task}.safetensors")
        assert not model.load_state_dict(head, strict=False).unexpected_keys
        assert not torch.equal(head["classifier.weight"], owned.experts[task].classifier.weight.detach())
        inputs = owned.pixels(task)
        with torch.inference_mode():
            torch.testing.assert_close(model.eval()(inputs).logits, by_hand.model(task)(inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["adamerging:steps=2", "regmean:examples=8", "surgery:steps=2", "fisher:examples=8"])
def test_other_methods_that_take_unlabelled_images_run(method: str, owned: Owned, tmp_path: Path) -> None:
    assert main(["merge", method, *owned.words(), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/merge.json").read_text())["method"] == method.partition(":")[0]


def test_advice_scores_as_by_hand_writes_the_best_and_says_how_sure_it_is(
    owned: Owned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    assert main(["merge", "--advise", *owned.words("--labelled"), "--out", str(tmp_path / "best")]) == 0
    said = capsys.readouterr().out
    aligned, sight = data.look(open_model(owned.folder / "base"), owned.paths, owned.given(labelled=True))
    rows = advice.advise(aligned, sight, say=lambda text: None)
    assert f"{rows[0].name} is " in said and "(95 %)" in said
    assert rows[0].score == max(row.score for row in rows if row.bits) > rows[-1].score or rows[-1].why
    assert json.loads((tmp_path / "best/merge.json").read_text())["method"] == rows[0].name
    assert (tmp_path / "best/board.md").read_text().startswith("| method")
    for task, classes in zip(owned.paths, CLASSES, strict=True):
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "best", num_labels=classes)
        model.load_state_dict(load_file(tmp_path / f"best/heads/{task}.safetensors"), strict=False)
        with torch.inference_mode():
            right = (model.eval()(owned.pixels(task)).logits.argmax(-1) == owned.labels(task)).float()
        assert rows[0].bits[task].mean() == pytest.approx(float(right.mean()), abs=0.05)


def test_without_labels_a_score_is_agreement_with_the_experts(owned: Owned) -> None:
    aligned, sight = data.look(open_model(owned.folder / "base"), owned.paths, owned.given(labelled=False))
    one = {"t0": aligned.experts["t0"]}
    alone = type(aligned)(aligned.base, one, aligned.names, [], [])
    rows = {row.name: row for row in advice.advise(alone, sight, say=lambda text: None)}
    # One expert alone, averaged, is itself.
    assert rows["weight_average"].score == 100
    assert "agreement with the experts" in advice.board(list(rows.values()), alone, labelled=False)[0]


def test_which_says_what_is_missing_for_each_method(owned: Owned, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--which", *owned.words()]) == 0
    table = capsys.readouterr().out
    assert "| symerge " in table and "needs labelled val data: --labelled t0=FOLDER t1=FOLDER" in table
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in table.splitlines() if line.count("|") > 3
    }
    assert rows["symerge"] == rows["ties"] == "yes" and rows["robustmerge"] == rows["twin"] == "no"
    assert set(methods.names()) <= set(rows)


def test_what_is_wrong_with_images_is_said_in_one_line(
    owned: Owned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        capsys.readouterr()
        assert main(["merge", *words]) == 2
        return capsys.readouterr().err

    out = ["--out", str(tmp_path / "out")]
    plain = owned.words()[: owned.words().index("--images")]
    assert "--images t0=FOLDER" in refused("symerge", *plain, *out)
    assert "nothing to score methods on" in refused("--advise", *plain)
    assert "there is no folder" in refused("symerge", *plain, "--images", "t0=nowhere", "t1=nowhere", *out)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused("symerge", *plain, "--images", f"t0={tmp_path / 'empty'}", *out)
    (tmp_path / "empty/a.png").write_bytes(b"no picture")
    assert "a.png" in refused("symerge", *plain, "--images", f"t0={tmp_path / 'empty'}", *out)
    assert "'t7'" in refused("symerge", *plain, "--images", f"t7={tmp_path / 'empty'}", *out)
    assert "no class" in refused("--advise", *plain, "--labelled", f"t0={owned.folder / 'images1'}")
    assert not (tmp_path / "out").exists()
    for task in owned.paths:  # the encoders alone
        own_models.tuned(own_models.vit(), 5).save_pretrained(tmp_path / task)
    bare = ["--base", str(owned.folder / "base"), "--experts", *(f"{task}={tmp_path / task}" for task in owned.paths)]
    said = refused("--advise", *bare, *owned.words("--labelled")[-3:])
    assert "its expert has no head" in said and "docs/own-suite.md" in said
