"""The order of an expert's outputs is read, brought into the data's, and where it was assumed the board says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.glue_files import config, tokenizer_file, write
from helpers.lacking import lacks_package
from helpers.tiny import run

from benchmark import suites
from benchmark.cli.board import write as write_boards
from benchmark.common.errors import UserError
from benchmark.domains.text import glue
from benchmark.domains.text.bench import GlueBench
from benchmark.domains.text.family import load_family
from benchmark.importers.labels import order_of
from benchmark.importers.text import SUBFOLDER, import_family
from benchmark.records.store import Store

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))

MNLI = ("entailment", "neutral", "contradiction")
WORDS = ["cat", "dog", "runs", "sits", "the", "a", "."]
TURNED = {"id2label": {0: "CONTRADICTION", 1: "Neutral", 2: "entailment"},
          "label2id": {"CONTRADICTION": 0, "Neutral": 1, "entailment": 2}}  # fmt: skip


def of_mnli(folder: Path, **named: Any) -> Any:
    """An expert of MNLI as transformers saves it, its outputs named or not, beside its base; the model."""
    write(folder, ["MNLI"])
    place = folder / "mnli" / SUBFOLDER
    torch.manual_seed(1)
    model = transformers.RobertaForSequenceClassification(config(num_labels=3, initializer_range=0.5, **named)).eval()
    model.save_pretrained(place)
    tokenizer_file(place)
    return model


def bench_of(folder: Path, family: Path) -> GlueBench:
    suite = suites.load("glue").model_copy(update={"tasks": ["MNLI"]})
    return GlueBench(
        suite, "RoBERTa-base", "local", torch.device("cpu"), torch.float32, data_root=folder, checkpoints=family
    )


def data_of(folder: Path, model: Any, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, rows: int = 12) -> None:
    """MNLI whose label, by the data's numbers, is what ``model`` predicts; its output i means class ``order[i]``."""
    about = glue.TASKS["MNLI"]
    monkeypatch.setitem(glue.TASKS, "MNLI", glue.GlueTask(*list(vars(about).values())[:4], (rows, rows), about.classes))
    texts = [f"{WORDS[i % 4]} {WORDS[(i // 2) % 7]} {WORDS[i % 3]}" for i in range(rows)]
    pairs = [f"{WORDS[(i * 3) % 7]} {WORDS[(i * 5) % 7]}" for i in range(rows)]
    tokenizer = glue_tokenizer(folder)
    with torch.no_grad():
        said = model(**tokenizer(texts, pairs, padding=True, return_tensors="pt")).logits.argmax(1).tolist()
    assert len(set(said)) > 1
    table = pa.table({"premise": texts, "hypothesis": pairs, "label": [order[i] for i in said], "idx": range(rows)})
    (folder / "glue/mnli").mkdir(parents=True)
    for split in ("train", "validation_matched"):
        pq.write_table(table, folder / f"glue/mnli/{split}-00000-of-00001.parquet")


def glue_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(folder / "in/roberta-base"), local_files_only=True)


def test_an_expert_that_orders_its_outputs_otherwise_scores_what_it_scored_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    model = of_mnli(tmp_path / "in", **TURNED)
    data_of(tmp_path, model, (2, 1, 0), monkeypatch)
    said: list[str] = []
    family = tmp_path / "families/local/RoBERTa-base"
    import_family("local", tmp_path / "in", family, ["MNLI"], say=said.append)
    bench = bench_of(tmp_path, tmp_path / "families")
    store = Store(tmp_path / "r")
    records = {r.spec.method: r for r in run(bench, store, "weight_average")}
    assert records["individual"].tasks["MNLI"].value == pytest.approx(100)
    assert any("from the order CONTRADICTION, Neutral, entailment into the data's" in line for line in said)
    kept = json.loads((family / "manifest.json").read_text())["labels"]["MNLI"]
    assert kept == {"classes": list(MNLI), "named": ["CONTRADICTION", "Neutral", "entailment"], "rows": [2, 1, 0],
                    "assumed": False}  # fmt: skip
    (board,) = write_boards(store, tmp_path / "boards")
    assert not any("assumed" in note for note in board.notes)


@pytest.mark.parametrize("named", [
    {}, {"id2label": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}}, {"id2label": {0: "0", 1: "1", 2: "2"}},
])  # fmt: skip
def test_an_order_that_was_assumed_stands_in_the_manifest_and_on_the_board(
    named: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    data_of(tmp_path, of_mnli(tmp_path / "in", **named), (0, 1, 2), monkeypatch)
    said: list[str] = []
    family = tmp_path / "families/local/RoBERTa-base"
    import_family("local", tmp_path / "in", family, ["MNLI"], say=said.append)
    assert any("assumed to be the data's order: entailment, neutral, contradiction" in line for line in said)
    assert json.loads((family / "manifest.json").read_text())["labels"]["MNLI"]["assumed"] is True
    store = Store(tmp_path / "r")
    run(bench_of(tmp_path, tmp_path / "families"), store, "weight_average")
    (board,) = write_boards(store, tmp_path / "boards")
    words = "order of classes was assumed: MNLI: entailment, neutral, contradiction."
    assert any(words in note for note in board.notes)
    assert words in next((tmp_path / "boards/boards").glob("*.md")).read_text()
    assert words in (tmp_path / "boards/leaderboard.html").read_text()


def test_families_imported_before_the_order_was_read_are_refused(tmp_path: Path) -> None:
    of_mnli(tmp_path / "in", **TURNED)
    import_family("local", tmp_path / "in", tmp_path / "out", ["MNLI"])
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    del manifest["labels"]
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not say which outputs of the heads of MNLI.*\n.*import local"):
        load_family(tmp_path / "out", "local", ["MNLI"], {"MNLI": 3})


def test_tasks_imported_later_keep_what_was_said_of_the_others(tmp_path: Path) -> None:
    of_mnli(tmp_path / "in", **TURNED)
    import_family("local", tmp_path / "in", tmp_path / "out", ["MNLI"])
    place = tmp_path / "in/rte" / SUBFOLDER
    transformers.RobertaForSequenceClassification(config(num_labels=2)).save_pretrained(place)
    kept = import_family("local", tmp_path / "in", tmp_path / "out", ["RTE"])["labels"]
    assert kept["MNLI"]["rows"] == [2, 1, 0] and kept["RTE"]["assumed"]


@pytest.mark.parametrize("said, rows, assumed", [
    ({"label2id": {"neutral": 1, "contradiction": 2, "entailment": 0}}, (0, 1, 2), False),
    ({"label2id": {"neutral": "0", "contradiction": "1", "entailment": "2"}}, (2, 0, 1), False),
    ({"id2label": {"1": "ENTAILMENT", "0": "contradiction", "2": " Neutral"}}, (1, 2, 0), False),
    ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
      "label2id": {"contradiction": 0, "neutral": 1, "entailment": 2}}, (2, 1, 0), False),
    ({"id2label": None}, (0, 1, 2), True),
])  # fmt: skip
def test_names_are_found_in_either_table(said: dict[str, Any], rows: tuple[int, ...], assumed: bool) -> None:
    found = order_of(said, MNLI, Path("config.json"))
    assert (found.rows, found.assumed) == (rows, assumed)


@pytest.mark.parametrize("said, words", [
    ({"id2label": {"0": "no", "1": "maybe", "2": "yes"}}, "names the outputs no, maybe, yes; the data's classes are"),
    ({"id2label": {"0": "LABEL_2", "1": "LABEL_1", "2": "LABEL_0"}}, "names the outputs LABEL_2"),
    ({"id2label": {"0": "entailment", "1": "neutral"}}, "names 2 classes .*, the task has 3"),
    ({"id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"},
      "label2id": {"entailment": 2, "neutral": 1, "contradiction": 0}}, "id2label says .*, label2id"),
    ({"id2label": {"0": "entailment", "2": "neutral", "3": "contradiction"}}, "does not number its names"),
    ({"id2label": ["entailment"]}, "does not number its names"), ({"label2id": {"a": "x"}}, "does not number"),
])  # fmt: skip
def test_names_that_cannot_be_matched_are_an_error(said: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        order_of(said, MNLI, Path("config.json"))


def test_data_with_classes_in_another_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    about = glue.TASKS["MNLI"]
    monkeypatch.setitem(glue.TASKS, "MNLI", glue.GlueTask(*list(vars(about).values())[:4], (3, 3), about.classes))

    def write_order(names: tuple[str, ...]) -> None:
        features = datasets.Features({"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"),
                                      "label": datasets.ClassLabel(names=list(names))})  # fmt: skip
        rows = {"premise": ["a"] * 3, "hypothesis": ["b"] * 3, "label": [0, 1, 2]}
        path = tmp_path / "mnli/validation_matched-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_order(MNLI)
    assert len(glue.load(tmp_path, "MNLI", "test")) == 3
    write_order(MNLI[::-1])
    with pytest.raises(UserError, match="its classes are contradiction, neutral, entailment, GLUE's entailment"):
        glue.load(tmp_path, "MNLI", "test")
