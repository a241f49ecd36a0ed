"""What a newcomer met: the card's code runs as written, and a likely mistake is named for what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import own_models

import symerge_bench
from benchmark.cli.main import main
from benchmark.common.errors import UserError
from benchmark.merging.advice import Row, board


def _blocks(card: Path, folder: Path) -> list[str]:
    return [
        block.replace("FOLDER", str(folder)) for block in re.findall(r"```python\n(.*?)```", card.read_text(), re.S)
    ]


def _bert(classes: int) -> Any:
    from transformers import BertForSequenceClassification

    config = own_models.bert().config
    config.update(own_models.labels(classes))
    return BertForSequenceClassification(config).eval()


def _plain_bert() -> Any:
    from transformers import BertModel

    return BertModel(own_models.bert().config).eval()


@pytest.mark.parametrize("kind", ["bert", "vit with a head"])
def test_the_code_on_the_card_puts_a_head_on_the_merge(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = _plain_bert() if kind == "bert" else own_models.vit_classifier(10)
    base.save_pretrained(tmp_path / "base")
    experts: dict[str, Any] = {}
    for number, (task, count) in enumerate({"cats": 3, "dogs": 4}.items()):
        expert = _bert(count) if kind == "bert" else own_models.vit_classifier(count)
        body = base if kind == "bert" else base.vit
        expert.base_model.load_state_dict(own_models.tuned(body, number).state_dict())
        expert.save_pretrained(tmp_path / task)
        experts[task] = expert
    out = tmp_path / "out"
    assert (
        own_models.merge("task_arithmetic:scale=0.5", tmp_path / "base", {t: tmp_path / t for t in experts}, out) == 0
    )
    first, second = _blocks(out / "README.md", out)
    loaded: dict[str, Any] = {}
    exec(first, loaded)
    assert type(loaded["model"]) is type(base)
    made: dict[str, Any] = {}
    exec(second, made)
    model, own = made["model"].eval(), experts["cats"]
    assert type(model) is type(own) and model.config.num_labels == 3
    torch.testing.assert_close(model.classifier.weight, own.classifier.weight)
    body = loaded["model"] if kind == "bert" else loaded["model"].vit
    merged, expected = model.base_model.state_dict(), body.state_dict()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)


def _said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["merge", *words]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_likely_mistakes_are_named_for_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import BertModel

    own_models.bert().save_pretrained(tmp_path / "bert-base")
    own_models.vit().save_pretrained(tmp_path / "vit")
    own_models.llama().save_pretrained(tmp_path / "llama")
    wide = own_models.bert().config
    wide.hidden_size = 2 * wide.hidden_size
    BertModel(wide).save_pretrained(tmp_path / "wide")
    own_models.tuned(own_models.bert(), 1).save_pretrained(tmp_path / "sent")
    ties = ["ties", "--base", str(tmp_path / "bert-base"), "--out", str(tmp_path / "out"), "--experts"]
    for name, kind in (("vit", "vit"), ("llama", "llama")):
        assert f"is of type {kind}, the base of type bert" in _said(capsys, *ties, f"a={tmp_path / name}")
    assert "another size (hidden_size 2" in _said(capsys, *ties, f"a={tmp_path / 'wide'}").replace("64", "2")
    said = _said(capsys, *ties, f"a={tmp_path / 'sentt'}")
    assert "expert 'a': " in said and "did you mean sent?" in said
    assert "nothing is downloaded" in _said(capsys, *ties, "a=bert-base-uncased")
    said = _said(capsys, *ties, f"a={tmp_path / 'sent'},b={tmp_path / 'sent'}")
    assert "holds a comma" in said and f"Type --experts a={tmp_path / 'sent'} b={tmp_path / 'sent'}" in said
    assert "Write e.g. ties:keep=0.2" in _said(capsys, "ties:keep=5", *ties[1:], f"a={tmp_path / 'sent'}")
    symerge = ["symerge", *ties[1:], f"a={tmp_path / 'sent'}"]
    assert "--texts a=FILE:COLUMN" in _said(capsys, *symerge)
    said = _said(capsys, *symerge, "--images", f"a={tmp_path}")
    assert "reads texts (bert)" in said and "Give --texts a=FILE" in said


def test_a_base_that_has_what_an_expert_lacks_is_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    plain = _plain_bert()
    plain.save_pretrained(tmp_path / "plain")
    for number, classes in enumerate((2, 3)):
        expert = _bert(classes)
        expert.base_model.load_state_dict(own_models.tuned(plain, number).state_dict())
        expert.save_pretrained(tmp_path / f"tuned{classes}")
    paths = {"base": tmp_path / "plain", "news": tmp_path / "tuned3"}
    assert own_models.merge("ties", tmp_path / "tuned2", paths, tmp_path / "out") == 0
    assert "is it the base, and tuned2 a fine-tuned one?" in capsys.readouterr().out


def test_an_interrupted_merge_promises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, paths, _ = own_models.family(own_models.vit(), tmp_path, 2)

    def stop(*words: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.merging.merge.write", stop)
    words = ["ties", "--base", str(base), "--out", str(tmp_path / "out")]
    assert main(["merge", *words, "--experts", *(f"{t}={p}" for t, p in paths.items())]) == 130
    said = capsys.readouterr().err
    assert "nothing was written" in said and "goes on from here" not in said and not (tmp_path / "out").exists()


def test_python_says_what_it_was_given_and_what_it_wants() -> None:
    base = {"w": torch.zeros(3, 3)}
    experts = {"a": {"w": torch.ones(3, 3)}}
    for words, given in (
        ("experts is a list", (base, ["a"])),
        (r"base is a Linear(.|\n)*base.state_dict\(\)", (torch.nn.Linear(2, 2), experts)),
        ("some are paths and some are state dicts", (base, {"a": "here"})),
    ):
        with pytest.raises(UserError, match=words):
            symerge_bench.merge("ties", *given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"unlabelled test(.|\n)*stream=Stream.from_batches"):
        symerge_bench.merge("symerge", base, experts)


def test_intervals_of_advice_are_percents() -> None:
    import numpy as np

    row = Row("ties", {"a": np.array([1.0] * 7 + [0.0])})
    other = Row("dare", {"a": np.array([0.0] * 7 + [1.0])})

    class Aligned:
        experts = {"a": None}

    said = "\n".join(board([row, other], Aligned(), labelled=True))  # type: ignore[arg-type]
    found = re.findall(r"\((-?[\d.]+) to (-?[\d.]+)\)", said)
    assert len(found) == 2 and all(0 <= float(low) <= float(high) <= 100 for low, high in found)
