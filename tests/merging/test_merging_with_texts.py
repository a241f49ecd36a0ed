"""Methods that adapt are handed a column of texts, for the text encoders of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models
from safetensors.torch import load_file

from benchmark.checkpoints.models import open_model
from benchmark.cli.main import main
from benchmark.merging import data, merge, texts

WORDS = ["a good film", "a bad film", "what a long day it was", "short", "good good bad", "the day was bad and long"]


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in WORDS for word in text.split()})]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32)
    made.save_pretrained(folder)
    return made


@pytest.fixture(params=["Bert", "Roberta", "Electra", "DistilBert", "DebertaV2"])
def owned(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A base without a head, two experts with heads of 2 and 3 classes, and texts."""
    import transformers

    kind = request.param
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**own_models.WORDS, "pad_token_id": 0}
    if kind == "Electra":
        sizes["embedding_size"] = 32
    if kind == "DistilBert":
        sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": sizes["vocab_size"]}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}Model")(config)
    model.save_pretrained(tmp_path / "base")
    tokenizer = _tokenizer(tmp_path / "base")
    experts, paths = {}, {}
    for number, classes in enumerate((2, 3)):
        settings = type(config)(**{**config.to_dict(), **own_models.labels(classes)})
        expert = getattr(transformers, f"{kind}ForSequenceClassification")(settings)
        body = getattr(expert, expert.base_model_prefix)
        body.load_state_dict(own_models.tuned(model, number, 0.05).state_dict(), strict=False)
        expert.save_pretrained(tmp_path / f"t{number}")
        experts[f"t{number}"], paths[f"t{number}"] = expert.eval(), tmp_path / f"t{number}"
    (tmp_path / "texts.csv").write_text("sentence,label\n" + "".join(f"{text},0\n" for text in WORDS))
    return tmp_path, paths, experts, tokenizer


def test_the_encoder_and_the_heads_say_what_each_expert_says(owned: Any) -> None:
    folder, paths, models, tokenizer = owned
    given = data.Given(texts={task: (folder / "texts.csv", "sentence") for task in paths})
    aligned, sight = texts.look(open_model(folder / "base"), paths, given)
    experts = sight.experts(merge.Plan(aligned, "ties"), "cpu")
    batch, labels = sight.sources["t0"][torch.tensor([0, 2, 5])]
    assert labels is None
    expected = tokenizer([WORDS[0], WORDS[2], WORDS[5]], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    for task, model in models.items():
        state = experts.state(task)
        with torch.inference_mode():
            ours = experts.head(task)(experts.forward(state, task, batch))
            theirs = model(**batch).logits
        torch.testing.assert_close(ours[:, 0] if ours.ndim == 3 else ours, theirs, atol=1e-5, rtol=1e-4)


def test_symerge_adapts_on_texts_and_its_heads_go_on_the_merge(owned: Any, tmp_path: Path) -> None:
    folder, paths, models, _ = owned
    words = ["--base", str(folder / "base"), "--experts", *(f"{t}={p}" for t, p in paths.items())]
    given = ["--texts", *(f"{task}={folder / 'texts.csv'}:sentence" for task in paths)]
    assert main(["merge", "symerge:steps=2,batch_size=4", *words, *given, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/merge.json").read_text())["method"] == "symerge"
    for task, model in models.items():
        head = load_file(tmp_path / f"out/heads/{task}.safetensors")
        saved = {
            name
            for name in load_file(paths[task] / "model.safetensors")
            if name.startswith(("classifier.", "pre_class", "pooler"))
        }
        assert saved <= set(head)
        assert not all(torch.equal(head[n], model.state_dict()[n]) for n in saved)
    assert main(["merge", "regmean:examples=4", *words, *given, "--out", str(tmp_path / "two")]) == 0
    assert main(["merge", "--advise", *words, *given]) == 0


def test_texts_are_read_from_files_of_each_kind(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"first": WORDS, "second": WORDS[::-1], "label": range(len(WORDS))})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    table.to_parquet(tmp_path / "a.parquet")
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    (tmp_path / "a.txt").write_text("\n".join(WORDS))
    assert texts.read_texts(tmp_path / "a.txt", "") == WORDS
    for end in ("csv", "tsv", "parquet", "jsonl"):
        assert texts.read_texts(tmp_path / f"a.{end}", "second") == WORDS[::-1]
        assert texts.read_texts(tmp_path / f"a.{end}", "first+second") == list(zip(WORDS, WORDS[::-1], strict=True))


def test_what_is_wrong_with_texts_is_said_in_one_line(
    owned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, paths, _, _ = owned
    words = ["symerge", "--base", str(folder / "base"), "--experts", *(f"{t}={p}" for t, p in paths.items())]

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main(["merge", *words, *more, "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "has no column 'words'" in refused("--texts", f"t0={folder / 'texts.csv'}:words")
    assert "there is no file" in refused("--texts", f"t0={folder / 'none.csv'}:words")
    assert "--texts t1=FILE:COLUMN" in refused("--texts", f"t0={folder / 'texts.csv'}:sentence")
    assert "exclude each other" in refused("--texts", f"t0={folder / 'texts.csv'}", "--images", "t0=x")
    assert "'t9'" in refused("--texts", f"t9={folder / 'texts.csv'}")
