"""Experts of glue-mini: LoRA training, files, resuming; and both text suites from end to end on tiny models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.glue_files import WORDS, small, tokenizer_file, write, write_rte
from helpers.lacking import lacks_package
from helpers.support import assert_same_files
from helpers.tiny import run
from helpers.tiny_text import encoder, tokens
from safetensors.torch import load_file, save_file

from benchmark import suites
from benchmark.assets.text import family as text_make
from benchmark.assets.text.training import Recipe, add_lora, predict, train
from benchmark.common.errors import UserError
from benchmark.domains.text import encoder as text_encoder
from benchmark.domains.text import family as text_families
from benchmark.domains.text.bench import GlueBench, GlueMiniBench
from benchmark.importers.text import import_family
from benchmark.records.store import Store
from methods.core.states import LowRankState

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


def separable(seed: int):
    """Rows whose label says whether they begin with a low id."""
    made = tokens(seed, size=64)
    first = made.ids[made.offsets[:-1]]
    return type(made)(**{**vars(made), "labels": (first < 20).long()})


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * float((outputs.argmax(1) == labels).float().mean())


def test_training_learns_and_its_adapters_added_to_the_base_are_the_expert() -> None:
    base, data = encoder(), {"train": separable(0), "val": separable(0)}
    before = {n: t.clone() for n, t in base.state_dict().items()}
    recipe = Recipe(rank=4, steps=60, batch_size=16, lr=1e-2, head_lr=2e-2, checks=3)
    adapters, head, log = train(base, data, 2, accuracy, recipe=recipe, seed=0, say=lambda text: None)
    assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items()), "the base was changed"
    best = max(check["val"] for check in log["checks"])
    base.load_state_dict(dict(LowRankState(before, adapters)))
    assert accuracy(*predict(base, head, data["val"])) == pytest.approx(best, abs=0.01) and best > 85
    assert {n.split(".")[-2] for n in adapters} == {"query", "key", "value", "dense"}
    assert all(a.shape[0] == b.shape[1] == 4 and scale == 4.0 for a, b, scale in adapters.values())


def test_fresh_adapters_change_nothing() -> None:
    plain, adapted = encoder(), encoder()
    layers = add_lora(adapted, rank=2, alpha=2.0)
    batch = tokens(1).batch(torch.arange(6))
    torch.testing.assert_close(adapted(batch), plain(batch), rtol=0, atol=0)
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(layers) == 24


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny BERT and its tokenizer in the place of MiniLM."""
    folder = tmp_path / "base"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer_file(folder)
    for module in (text_make, text_encoder, __import__("benchmark.domains.text.bench", fromlist=["glue"])):
        monkeypatch.setattr(module, "minilm_folder", lambda: folder)
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    return folder


FEW = Recipe(rank=2, steps=2, batch_size=8, checks=1)
TASKS = ["Acceptability", "QuestionGloss"]


def family(out: Path) -> Path:
    text_make.make_family(TASKS, out, recipe=FEW, scores=False)
    text_make.write_manifest(out, {}, text_make.base_hashes(), 1)
    return out


def test_a_second_call_makes_only_what_is_missing(base: Path, tmp_path: Path) -> None:
    out = family(tmp_path / "out")
    times = {p: os.stat(p).st_mtime_ns for p in out.glob("*.safetensors")}
    shutil.copytree(out, tmp_path / "before")
    (out / "heads/QuestionGloss.safetensors").unlink()
    text_make.make_family(TASKS, out, recipe=FEW, scores=False)
    changed = {p.stem for p, t in times.items() if os.stat(p).st_mtime_ns != t}
    assert changed == {"QuestionGloss"}
    assert_same_files(out, tmp_path / "before", [path.name for path in times])


def mini(folder: Path) -> GlueMiniBench:
    suite = suites.load("glue-mini").model_copy(update={"tasks": TASKS})
    return GlueMiniBench(suite, "MiniLM-L6", "mini", torch.device("cpu"), torch.float32, folder)


def test_glue_mini_runs_from_files_to_records(base: Path, tmp_path: Path) -> None:
    bench = mini(family(tmp_path / "out"))
    records = run(bench, Store(tmp_path / "r"), "ties", "robustmerge", "symerge:steps=1,batch_size=4")
    assert [r.status for r in records] == ["done"] * 5
    for record in records:
        assert record.tasks["Acceptability"].metric == "mcc" and record.tasks["QuestionGloss"].metric == "accuracy"
        assert record.tasks["QuestionGloss"].n == 500
    names = bench.experts().names
    assert names and not any("embeddings" in name for name in names), "frozen embeddings are merged"


def test_a_family_of_another_base_or_with_damaged_files_is_refused(base: Path, tmp_path: Path) -> None:
    out = family(tmp_path / "out")
    mini(out)
    state = load_file(out / "Acceptability.safetensors")
    save_file({n: t * 2 for n, t in state.items()}, out / "Acceptability.safetensors")
    with pytest.raises(UserError, match="Acceptability"):
        mini(out)
    family(tmp_path / "out")
    weights = load_file(base / "model.safetensors")
    save_file({n: t + 1 for n, t in weights.items()}, base / "model.safetensors")
    with pytest.raises(UserError, match="trained from"):
        mini(out)


def test_without_minilm_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "MINILM", "no_such_package_anywhere")
    with pytest.raises(UserError, match="--suite glue-mini"):
        text_encoder.minilm_folder()


def test_glue_runs_on_imported_experts_and_the_hubs_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    small(monkeypatch)
    write(tmp_path / "in", ["RTE"])
    write_rte(tmp_path / "glue")
    import_family("ovo", tmp_path / "in", tmp_path / "families/ovo/RoBERTa-base", ["RTE"])
    suite = suites.load("glue").model_copy(update={"tasks": ["RTE"]})
    bench = GlueBench(
        suite,
        "RoBERTa-base",
        "ovo",
        torch.device("cpu"),
        torch.float32,
        data_root=tmp_path,
        checkpoints=tmp_path / "families",
    )
    records = run(bench, Store(tmp_path / "r"), "ties", "symerge:steps=1,batch_size=4")
    assert [r.status for r in records] == ["done"] * 4 and records[0].tasks["RTE"].n == 6
    assert any("embeddings" in name for name in bench.experts().names), "embeddings were fine-tuned and must be merged"
    assert text_families.load_family(tmp_path / "families/ovo/RoBERTa-base", "ovo", ["RTE"], {"RTE": 2}).hashes


@pytest.mark.parametrize("task", suites.load("glue-mini").tasks)
def test_the_committed_experts_are_small_and_from_the_pinned_base(task: str) -> None:
    manifest = text_make.read(text_families.FOLDER)
    for name in (f"{task}.safetensors", f"heads/{task}.safetensors"):
        assert text_families.sha256(text_families.FOLDER / name) == manifest["files"][name]["sha256"]
    rows = manifest["validation"]
    assert rows["individual"][task] > max(rows["majority"][task], rows["probe"][task]) + 5
    assert sum(f["bytes"] for f in manifest["files"].values()) < 10e6
