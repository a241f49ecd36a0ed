"""`llm-small`: questions, their options' likelihoods, experts in PEFT's format, from files to records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from helpers.lacking import lacks_package
from helpers.tiny import run
from helpers.tiny_chat import SUITE, TASKS, Chat, base, bench, chat, family  # noqa: F401 - a fixture
from safetensors.torch import load_file, save_file

from benchmark.assets.text import questions as made
from benchmark.checkpoints.files import ADAPTER_CONFIG, ADAPTERS
from benchmark.common.errors import UserError
from benchmark.domains.text import chat_family, embedded, language_model, questions
from benchmark.domains.text.encoder import load_encoder, load_tokenizer
from benchmark.domains.text.extent import extent
from benchmark.records.store import Store
from methods.core.states import LowRankState

transformers = pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


@pytest.mark.parametrize("task", SUITE.tasks)
def test_committed_questions_are_balanced_and_no_headword_or_question_crosses_splits(task: str) -> None:
    rows, places = pq.read_table(questions.FOLDER / f"{task}.parquet").to_pydict(), {}
    assert len(set(map(str.lower, rows["a"]))) == len(rows["a"])
    for split, key in zip(rows["split"], rows["key"], strict=True):
        assert places.setdefault(key.lower(), split) == split, key
    for split, size in made.SIZES.items():
        texts = embedded.load(task, split, questions.FOLDER)
        counts = Counter(texts.labels.tolist())
        assert len(texts) == size and set(counts.values()) == {size // len(questions.info(task)["classes"])}
    assert questions.info(task)["classes"] == made.ABOUT[task]["classes"]


def test_the_head_gives_the_models_own_likelihoods_of_the_options_whatever_the_padding(chat: Chat) -> None:  # noqa: F811
    model = transformers.AutoModelForCausalLM.from_pretrained(chat.base).eval()
    encoder, tokenizer = load_encoder(chat.base, "last"), load_tokenizer(chat.base)
    table = encoder.state_dict()[questions.TABLE]
    for task in TASKS:
        ids = questions.options(tokenizer, task, chat.data)
        head = questions.head_of(table, ids)
        tokens = questions.tokens_of(task, "test", tokenizer, chat.data)
        outputs = head(encoder(tokens.batch(torch.arange(len(tokens)))))
        for i in range(len(tokens)):
            row = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].long()
            said = model(input_ids=row[None]).logits[0, -1, ids]
            torch.testing.assert_close(outputs[i], said, rtol=1e-4, atol=1e-5)


def test_an_option_of_two_tokens_and_other_tokens_than_the_manifests_are_refused(chat: Chat) -> None:  # noqa: F811
    tokenizer = load_tokenizer(chat.base)
    with pytest.raises(UserError, match="not every option is one token"):
        questions.options(tokenizer, "Two", _with(chat, "Two", {"classes": ["noun verb", "cat"]}))
    about = embedded.info("NounVerb", chat.data)
    about["splits"]["test"]["tokens"] = "0" * 64
    with pytest.raises(UserError, match="not those of the manifest"):
        questions.tokens_of("NounVerb", "test", tokenizer, chat.data)


def _with(chat: Chat, task: str, entry: dict) -> Path:  # noqa: F811
    embedded.manifest(chat.data)["tasks"][task] = entry
    return chat.data


def test_llm_small_runs_from_files_to_records(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    opened = bench(chat, family(chat, tmp_path / "out"))
    records = run(opened, Store(tmp_path / "r"), "robustmerge", "symerge:steps=1,batch_size=4")
    assert [r.status for r in records] == ["done"] * 4
    assert all(r.tasks[task].metric == "accuracy" and r.tasks[task].n == 12 for r in records for task in TASKS)
    names = opened.experts().names
    assert names and all(".layers." in name for name in names), "what no expert changes is merged"


def test_a_second_call_makes_only_what_is_missing(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    out = family(chat, tmp_path / "out")
    times = {task: (out / task / ADAPTERS[0]).stat().st_mtime_ns for task in TASKS}
    before = load_file(out / "NounVerb" / ADAPTERS[0])
    (out / "NounVerb" / ADAPTERS[0]).unlink()
    family(chat, out)
    again = {task: (out / task / ADAPTERS[0]).stat().st_mtime_ns for task in TASKS}
    assert {task for task in TASKS if again[task] != times[task]} == {"NounVerb"}
    for name, value in load_file(out / "NounVerb" / ADAPTERS[0]).items():
        torch.testing.assert_close(value, before[name])


def test_an_expert_in_the_suite_is_what_peft_makes_of_its_folder(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    peft = pytest.importorskip("peft", reason=lacks_package("peft", "dev"))
    out = family(chat, tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(chat.base)
    theirs = peft.PeftModel.from_pretrained(plain, str(out / "NounVerb")).eval()
    encoder = load_encoder(chat.base, "last")
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    tokens = questions.tokens_of("NounVerb", "val", load_tokenizer(chat.base), chat.data)
    batch = tokens.batch(torch.arange(1))
    before = encoder(batch) @ start[questions.TABLE].T
    encoder.load_state_dict(dict(LowRankState(start, chat_family.load_expert(out, "NounVerb"))))
    ours = encoder(batch) @ start[questions.TABLE].T
    torch.testing.assert_close(ours, theirs(**batch).logits[:, -1], rtol=1e-3, atol=1e-4)
    assert (ours - before).abs().max() > 1e-3, "the expert is the base"


def test_a_family_of_another_base_or_with_damaged_files_is_refused(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    out = family(chat, tmp_path / "out")
    bench(chat, out)
    about = out / "NounVerb" / ADAPTER_CONFIG
    text = about.read_text()
    about.write_text(text.replace('"lora_alpha": 16.0', '"lora_alpha": 32.0'))
    with pytest.raises(UserError, match="NounVerb/adapter_config.json"):
        bench(chat, out)
    about.write_text(text)
    path = out / "NounVerb" / ADAPTERS[0]
    state = load_file(path)
    save_file({n: 2 * t for n, t in state.items()}, path)
    with pytest.raises(UserError, match="NounVerb"):
        bench(chat, out)
    save_file(state, path)
    base(chat.base, seed=1)
    with pytest.raises(UserError, match="trained from"):
        bench(chat, out)


def test_a_base_that_cannot_be_made_is_one_line_that_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(language_model, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(UserError, match="not installed.*\n.*--suite llm-small"):
        language_model.base_folder()
    package = tmp_path / "packages" / "another_smollm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be run')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(language_model, "PACKAGE", package.name)
    with pytest.raises(UserError, match="is missing"):
        language_model.base_folder()
    (package / language_model.FILE).write_bytes(b"another model")
    with pytest.raises(UserError, match="has sha256 .*, expected b179c9"):
        language_model.base_folder()
    monkeypatch.setattr(language_model, "FILE_SHA256", language_model.sha256(package / language_model.FILE))
    real = language_model.importlib.util.find_spec
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda n: None if n == "gguf" else real(n))
    with pytest.raises(UserError, match=r"gguf, which is not installed.*\n.*\.\[llm\]"):
        language_model.base_folder()
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_the_size_of_the_suite_is_known_without_its_base() -> None:
    size = extent(SUITE, "SmolLM2-135M", "small")
    merged = sum(w.numel() for n, w in size.model.named_parameters() if size.merged(n))
    assert merged == 106_202_880
    assert size.samples == {"train": 720 * 6, "val": 720, "test": 720}
    features = size.model(size.inputs(2))
    assert features.shape == (2, 576) and features.device.type == "meta"
