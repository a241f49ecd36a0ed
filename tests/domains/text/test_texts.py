"""Texts and tokens: padding, order, the cache, GLUE's files, and the committed rows of glue-mini."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.glue_files import SENTENCES, made, small, tokenizer_file, write_rte

from benchmark.assets.text import build
from benchmark.assets.text import vader as glue_vader
from benchmark.assets.text import wordnet as glue_wordnet
from benchmark.common.errors import UserError
from benchmark.domains.text import embedded as glue_mini
from benchmark.domains.text import glue
from benchmark.domains.text.encoder import load_tokenizer
from benchmark.domains.text.tokens import TextSource, Tokens, cached


@pytest.fixture
def tokenizer(tmp_path: Path):
    tokenizer_file(tmp_path / "tokenizer")
    return load_tokenizer(tmp_path / "tokenizer")


def test_rows_are_kept_shortest_first_with_their_labels_and_numbers(tokenizer) -> None:
    tokens = made(tokenizer)
    lengths = tokens.offsets.diff().tolist()
    assert lengths == sorted(lengths) and sorted(tokens.rows.tolist()) == [0, 1, 2, 3]
    assert tokens.labels.tolist() == [[0, 1, 1, 0][i] for i in tokens.rows]


def test_a_batch_is_padded_to_its_own_longest_row_as_the_tokenizer_pads_it(tokenizer) -> None:
    tokens = made(tokenizer)
    inputs, labels = TextSource(tokens, torch.device("cpu"))[torch.tensor([0, 3])]
    expected = tokenizer([SENTENCES[i] for i in tokens.rows[[0, 3]]], padding=True, return_tensors="pt")
    torch.testing.assert_close(inputs["input_ids"], expected["input_ids"])
    torch.testing.assert_close(inputs["attention_mask"], expected["attention_mask"])
    assert inputs["input_ids"].shape[1] == int(tokens.offsets.diff()[3]) and len(labels) == 2
    alone, _ = TextSource(tokens, torch.device("cpu"))[torch.tensor([0])]
    assert alone["attention_mask"].all()


def test_the_second_text_of_a_pair_is_its_own_segment() -> None:
    tokens = Tokens(
        torch.arange(10, dtype=torch.int32),
        torch.tensor([0, 4, 10]),
        torch.tensor([4, 2]),
        torch.tensor([0, 1]),
        torch.tensor([0, 1]),
        padding=99,
        segments=True,
    )
    batch = tokens.batch(torch.tensor([0, 1]))
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]
    assert batch["input_ids"][0].tolist() == [0, 1, 2, 3, 99, 99]


def test_the_cache_of_tokens_survives_a_kill(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    calls: list[int] = []

    def make() -> Tokens:
        calls.append(1)
        return made(tokenizer)

    first = cached("t", {"k": 1}, make)
    again = cached("t", {"k": 1}, make)
    assert len(calls) == 1 and torch.equal(first.ids, again.ids) and again.padding == first.padding
    (path,) = (tmp_path / "cache/glue").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    path.with_name(f".writing-{path.name}.left").write_bytes(b"half")
    third = cached("t", {"k": 1}, make)
    assert len(calls) == 2 and torch.equal(third.labels, first.labels)
    assert len(cached("t", {"k": 2}, make)) == 4 and len(calls) == 3


def test_glue_is_read_from_the_hubs_files_and_validation_is_the_test_split(tmp_path, monkeypatch) -> None:
    small(monkeypatch)
    write_rte(tmp_path / "glue")
    root = glue.folder(tmp_path)
    assert root == tmp_path / "glue" and len(glue.load(root, "RTE", "test")) == 6
    found = glue.load(root, "RTE", "test")
    assert found.first[0] == SENTENCES[0] and found.second is not None and found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(glue.load(root, "RTE", "val")) == 3
    before = glue.fingerprint(root, "RTE", "test")
    assert before == glue.fingerprint(root, "RTE", "test") and len(before) == 64


@pytest.mark.parametrize(
    "columns,rows,words",
    [
        ({}, 4, "4 rows, GLUE has 6"),
        ({"label": [-1] * 6}, 6, "6 damaged rows"),
        ({"label": [0, 5] * 3}, 6, "row 5: the label 5, expected whole numbers 0 to 1"),
    ],
)
def test_a_split_that_is_not_glues_is_an_error(tmp_path, monkeypatch, columns, rows, words) -> None:
    small(monkeypatch)
    write_rte(tmp_path, rows, **columns)
    with pytest.raises(UserError, match=words):
        glue.load(glue.folder(tmp_path), "RTE", "test")


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_every_row_without_a_text_or_with_half_a_class_is_named(tmp_path, monkeypatch, split) -> None:
    small(monkeypatch)
    texts = [SENTENCES[0], None, *SENTENCES]
    write_rte(tmp_path, 6, label=[0.0, 1.0, 0.5, None, float("nan"), 1.5], sentence2=texts)
    with pytest.raises(UserError) as error:
        glue.load(glue.folder(tmp_path), "RTE", split)
    assert re.findall(r"row (\d):", str(error.value)) == ["1", "2", "3", "4", "5"]
    assert "row 1: no text in sentence2" in str(error.value) and "row 5: the label 1.5" in str(error.value)
    write_rte(tmp_path, 6, label=[0.0, 1.0] * 3)
    assert set(glue.load(glue.folder(tmp_path), "RTE", split).labels) <= {0.0, 1.0}


def test_a_folder_without_glue_says_what_is_expected(tmp_path) -> None:
    with pytest.raises(UserError, match="nyu-mll/glue"):
        glue.folder(tmp_path)


def rows_of(task: str) -> dict[str, list]:
    return pq.read_table(glue_mini.FOLDER / f"{task}.parquet").to_pydict()


@pytest.mark.parametrize("task", list(glue_wordnet.TASKS))
def test_no_headword_stands_in_two_splits_and_both_labels_are_as_frequent(task: str) -> None:
    rows, places = rows_of(task), {}
    for split, key in zip(rows["split"], rows["key"], strict=True):
        for word in key.split("|"):
            assert places.setdefault(word, split) == split, word
    for split, wanted in build.SIZES.items():
        labels = [x for x, s in zip(rows["label"], rows["split"], strict=True) if s == split]
        assert len(labels) == wanted and sum(labels) * 2 == wanted
        assert len(glue_mini.load(task, split)) == wanted


@pytest.mark.parametrize("task", list(glue_vader.TASKS))
def test_texts_that_may_not_be_redistributed_are_not_committed(task: str) -> None:
    rows = rows_of(task)
    assert set(rows) == {"split", "file", "line", "b", "label"} and set(rows["b"]) <= {"", *glue_vader.HYPOTHESES}
    assert len(set(zip(rows["file"], rows["line"], strict=True))) == len(rows["line"])


def test_where_the_texts_are_not_fetched_the_error_names_the_command(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="assets data build glue-mini"):
        glue_mini.load("MovieSentiment", "test")


def test_texts_that_are_not_the_known_ones_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    rows = rows_of("TweetValence")
    keys = [f"{f}/{i}" for f, i in zip(rows["file"], rows["line"], strict=True)]
    path = glue_mini.vader_cache()
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"key": keys, "text": ["another text"] * len(keys)}), path)
    with pytest.raises(UserError, match="not those of the manifest"):
        glue_mini.load("TweetValence", "test")


def test_a_source_that_cannot_be_fetched_or_is_another_file_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr(glue_vader, "VERSION", "0.0.0.dev1")
    with pytest.raises(UserError, match="pip could not fetch"):
        glue_vader.fetch(tmp_path)
    (tmp_path / "vaderSentiment-0.0.0.dev1.tar.gz").write_bytes(b"another")
    with pytest.raises(UserError, match="sha256"):
        glue_vader.fetch(tmp_path)


def test_rows_are_made_from_wordnets_files_as_they_are_laid_out(tmp_path) -> None:
    nothing = "  1 licence line\n"
    noun = (
        "00001740 03 n 02 dog 0 hound 0 001 @ 00002000 n 0000 | (zoology) a tame animal that barks; "
        '"the dog ran away"\n'
        "00002000 03 n 01 animal 0 000 | a living thing  \n"
    )
    for name in ("verb", "adj", "adv"):
        (tmp_path / f"data.{name}").write_text(nothing)
    (tmp_path / "data.noun").write_text(nothing + noun)
    (tmp_path / "index.sense").write_text("dog%1:03:00:: 00001740 1 42\nhound%1:03:00:: 00001740 1 0\n")
    found = glue_wordnet.read_wordnet(tmp_path)
    dog = found["n00001740"]
    assert dog.words == ["dog", "hound"] and dog.gloss == "a tame animal that barks"
    assert dog.examples == ["the dog ran away"] and dog.counts == {"dog": 42}
    net = glue_wordnet.WordNet(found)
    assert net.above(dog.key) == ["n00002000"] and net.related("hound", "animal") and not net.related("dog", "cat")


def test_the_manifest_names_a_form_labels_and_metric_for_every_task() -> None:
    entries = json.loads((glue_mini.FOLDER / "manifest.json").read_text())["tasks"]
    assert list(entries) == list(glue_mini.ORDER)
    assert {e["form"] for e in entries.values()} == set(glue.TASKS)
    for about in entries.values():
        assert glue.TASKS[about["form"]].metric == about["metric"]
        assert max(1, len(about["classes"])) == glue.TASKS[about["form"]].outputs
