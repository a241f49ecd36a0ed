"""The family of `llm-small` that is made on the user's machine: whole fine-tunings in few bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.lacking import lacks_package
from helpers.tiny import run
from helpers.tiny_chat import FEW, TASKS, WHOLE, Chat, bench, chat, family  # noqa: F401 - a fixture

from benchmark.assets.text.small import make
from benchmark.assets.text.training import train_whole
from benchmark.common.errors import UserError
from benchmark.domains.text.chat_family import folder_of
from benchmark.domains.text.encoder import in_blocks
from benchmark.harness.child import portable
from benchmark.records.store import Store
from methods.api import Experts
from methods.core.packed import PackedState

pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))


@pytest.fixture
def full(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Whole fine-tunings, where the suite looks for them."""
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return family(chat, folder_of("full"), WHOLE, "full")


def length(vectors: dict[str, torch.Tensor]) -> float:
    return sum(float(v.square().sum()) for v in vectors.values()) ** 0.5


def test_a_whole_fine_tuning_trains_every_tensor_of_the_blocks_and_nothing_else(chat: Chat) -> None:  # noqa: F811
    base = make.Base(chat.data)
    before = {name: value.clone() for name, value in base.encoder.state_dict().items()}
    data = {split: base.tokens("NounVerb", split) for split in ("train", "val")}
    head = torch.nn.Linear(16, 2)
    given = head.weight.detach().clone()
    losses: list[float] = []
    state, log = train_whole(
        base.encoder,
        data,
        2,
        lambda outputs, labels: -float(torch.nn.functional.cross_entropy(outputs, labels)),
        recipe=replace(WHOLE.recipe, steps=12, lr=1e-2, checks=12),
        seed=0,
        say=lambda text: losses.append(float(text.split("loss ")[1].split(",")[0])),
        given=head,
    )
    assert set(state) == {name for name in before if in_blocks(name)}
    assert all(not torch.equal(value, before[name]) for name, value in state.items())
    assert torch.equal(head.weight, given) and not head.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in base.encoder.state_dict().items()), (
        "a copy is trained"
    )
    assert losses[-1] < losses[0], "the loss falls"
    assert len(log["checks"]) == 12


def test_its_expert_is_the_base_and_a_task_vector_in_few_bits(chat: Chat, full: Path) -> None:  # noqa: F811
    opened = bench(chat, None, "full")
    experts, base = opened.experts(), make.Base(chat.data)
    assert set(opened.checkpoints) == {"base/model.safetensors", "NounVerb.safetensors", "CityContinent.safetensors"}
    assert set(experts.names) == set(base.weights) and all(in_blocks(name) for name in experts.names)
    data = {split: base.tokens("NounVerb", split) for split in ("train", "val")}
    ids = torch.tensor(base.options("NounVerb"))
    data["train"] = replace(data["train"], labels=ids[data["train"].labels])
    head = torch.nn.Linear(16, len(base.table()), bias=False)
    head.weight = torch.nn.Parameter(base.table())
    trained, _ = train_whole(
        base.encoder, data, len(ids), lambda o, y: 0.0, recipe=WHOLE.recipe, seed=0, say=lambda text: None, given=head
    )
    wanted = {name: value - base.weights[name] for name, value in trained.items()}
    apart = {name: experts.task_vector(name, "NounVerb") - wanted[name] for name in wanted}
    assert 0 < length(apart) < 0.15 * length(wanted), "four bits lose a tenth of a Gaussian's norm"


def test_every_kind_of_method_runs_on_it_in_a_process_of_its_own(chat: Chat, full: Path, tmp_path: Path) -> None:  # noqa: F811
    records = run(bench(chat, None, "full"), Store(tmp_path / "r"), "ties", "iso_c", "symerge:steps=1,batch_size=4")
    assert [r.status for r in records] == ["done"] * 5
    assert {r.spec.family for r in records} == {"full"}


def test_a_process_is_handed_a_task_vector_over_a_base_in_memory_with_the_bases_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = {"a.weight": torch.randn(6, 4), "b.bias": torch.randn(5)}
    tuned = {name: value + 0.1 * torch.randn_like(value) for name, value in start.items()}
    path = make.save_state(
        tmp_path / "t.safetensors", make.packed.pack(start, tuned, 3), metadata=make.packed.metadata(3, "of the base")
    )
    experts = Experts.from_state_dicts(start, {"t": path})
    light = portable.pack(experts, tmp_path)
    state = light.expert("t")
    assert isinstance(state, PackedState) and state.base is light.base
    assert state.base.path.parent == tmp_path, "the base is a file"
    for name in start:
        assert torch.equal(state[name], experts.expert("t")[name])


def test_a_family_that_was_not_made_is_one_line_that_says_what_to_type(
    chat: Chat,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    with pytest.raises(UserError, match="no family.*\n.*assets experts llm-small --family full --retrain"):
        bench(chat, None, "full")
    family(chat, folder_of("full"), FEW, "other")
    with pytest.raises(UserError, match="holds the family 'other'; asked for 'full'"):
        bench(chat, None, "full")


def test_a_changed_file_of_it_is_refused(chat: Chat, full: Path) -> None:  # noqa: F811
    path = full / "NounVerb.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="NounVerb.safetensors has sha256.*--family full"):
        bench(chat, None, "full")


def test_experts_that_lie_there_stay_in_the_family_where_they_were_made_alike(chat: Chat, tmp_path: Path) -> None:  # noqa: F811
    out, base = tmp_path / "out", make.Base(chat.data)
    one = make.make_family(["NounVerb"], out, settings=WHOLE, base=base, name="full")
    assert list(one["validation"]["individual"]) == ["NounVerb"]
    both = make.make_family(["CityContinent"], out, settings=WHOLE, base=base, name="full")
    assert set(both["validation"]["individual"]) == set(TASKS)
    other = replace(WHOLE, seed=1)
    alone = make.make_family(["CityContinent"], out, settings=other, base=base, name="full")
    assert list(alone["validation"]["individual"]) == ["CityContinent"], "the other was made with another seed"


def test_settings_go_through_the_manifest() -> None:
    for settings in make.FAMILIES.values():
        assert make.Settings.of(json.loads(json.dumps(settings.describe()))) == settings
