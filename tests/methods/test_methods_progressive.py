"""Properties of merges fitted block by block: what they reach, what does not count, where they do not apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import tiny_text
from helpers.adaptive import small_net_experts
from helpers.support import Encoder, golden_experts, golden_states, random_experts, random_stream
from torch import Tensor

import methods
from benchmark.domains.text.tokens import TextSource
from methods.api import UNLABELLED, Access, Batch, Experts, Merged, NotApplicable, Stream
from methods.tools.progression import Blocks

PROGRESSIVE: list[tuple[str, dict[str, Any]]] = [
    ("regmean_pp", {"examples": 16}),
    ("featcal", {"examples": 16}),
    ("prodistill", {"examples": 16, "epochs": 3, "batch_size": 24}),
    ("prodistill", {"examples": 16, "epochs": 3, "batch_size": 24, "granularity": "layer"}),
]


def features_gap(merged: Merged, batch: Batch) -> float:
    """How far what the merge's last block gives is from what each expert's gives on the same images."""
    experts, blocks = merged.experts, Blocks(merged.experts)

    def features(state: dict[str, Tensor], task: str) -> Tensor:
        call = blocks.enter(state, task, batch)
        for number in range(len(blocks)):
            call = blocks.run(number, state, call)
        return call.hidden

    state = merged.state_dict()
    with torch.no_grad():
        gaps = [features(state, t) - features(experts.state(t), t) for t in experts.tasks]
    return float(torch.stack(gaps).square().mean())


@pytest.mark.parametrize(("name", "keywords"), PROGRESSIVE, ids=str)
def test_the_merge_of_one_comes_nearer_to_its_experts_features(name: str, keywords: dict[str, Any]) -> None:
    experts = golden_experts(encoder=True).subset(["t0"])
    stream = random_stream(experts.tasks, draws=8, size=32)
    unseen = stream.draw("t0", 32)
    more = {"epochs": 20} if name == "prodistill" else {}
    merged = methods.get(name)(experts, stream, **{**keywords, "examples": 224, **more})
    assert features_gap(merged, unseen) < 0.8 * features_gap(methods.get("task_arithmetic")(experts), unseen)


@pytest.mark.parametrize(("name", "keywords"), PROGRESSIVE, ids=str)
def test_a_fit_is_the_same_again_and_leaves_the_experts(name: str, keywords: dict[str, Any]) -> None:
    states = []
    for _ in range(2):
        experts = random_experts()
        states.append(methods.get(name)(experts, random_stream(experts.tasks, size=16), **keywords).state_dict())
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert all(torch.equal(experts.state()[n], random_experts().state()[n]) for n in experts.names)


def test_regmean_pp_of_equal_experts_has_their_blocks_and_the_bases_end() -> None:
    base, tuned = golden_states()
    experts = Experts.from_state_dicts(base, {t: tuned["t0"] for t in ("a", "b")}, encoder=Encoder())
    state = methods.get("regmean_pp")(experts, random_stream("ab", draws=8, size=32)).state_dict()
    for name, value in state.items():
        last = any(part in name for part in ("ln_post", "visual.proj"))
        torch.testing.assert_close(value, base[name] if last else tuned["t0"][name], atol=1e-5, rtol=1e-4)


def test_the_stem_is_what_comes_before_the_first_block() -> None:
    experts = golden_experts(encoder=True)
    blocks = Blocks(experts)
    stem = blocks.stem("t0", random_stream(["t0"]).draw("t0", 2))
    assert len(blocks) == 2 and {n.removeprefix("model.visual.").split(".")[0] for n in stem} == {
        "class_embedding",
        "conv1",
        "ln_pre",
        "positional_embedding",
    }


@pytest.mark.parametrize(("name", "keywords"), PROGRESSIVE, ids=str)
def test_encoders_without_blocks_are_refused(name: str, keywords: dict[str, Any]) -> None:
    experts = small_net_experts()
    with pytest.raises(NotApplicable, match="no such list"):
        methods.get(name)(experts, random_stream(experts.tasks), **keywords)


@pytest.mark.parametrize(("name", "keywords"), PROGRESSIVE, ids=str)
def test_padding_of_texts_does_not_count(name: str, keywords: dict[str, Any]) -> None:
    class Padded:
        """The same texts with ``more`` columns of padding, of any content."""

        def __init__(self, source: Any, more: int) -> None:
            self.source, self.more = source, more

        def __len__(self) -> int:
            return len(self.source)

        def __getitem__(self, index: Tensor) -> tuple[dict[str, Tensor], None]:
            inputs = dict(self.source[index][0])
            for key, value in inputs.items():
                inputs[key] = torch.nn.functional.pad(value, (0, self.more), value=0)
            return inputs, None

    def merge(more: int) -> dict[str, Tensor]:
        experts = tiny_text.experts()
        sources = {
            t: Padded(TextSource(tiny_text.tokens(k), torch.device("cpu")), more) for k, t in enumerate(experts.tasks)
        }
        stream = Stream({"train": sources}, Access(train=UNLABELLED))
        state: dict[str, Tensor] = methods.get(name)(experts, stream, **keywords).state_dict()
        return state

    plain, padded = merge(0), merge(4)
    moved = max(float((plain[n] - v).abs().max()) for n, v in tiny_text.experts().base.items())
    assert moved > 1e-3
    for key, value in plain.items():
        torch.testing.assert_close(padded[key], value, atol=1e-3 if name == "prodistill" else 1e-4, rtol=1e-3)
