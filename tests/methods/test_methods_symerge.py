"""SyMerge, Model Tinting and AdaMerging: what they draw, learn and count, and every keyword."""

from __future__ import annotations

import pytest
import torch
from helpers.support import (
    assert_same,
    random_experts,
    random_stream,
)
from torch import Tensor, nn

import methods
from methods.api import UNLABELLED, Access, Merged, MergingError, Stream
from methods.symerge import self_label_loss

ADAPTIVE = ["adamerging", "adamerging_fresh", "symerge", "model_tinting", "model_tinting_pp"]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptation_is_reproducible_and_moves(name: str) -> None:
    experts = random_experts()
    first = methods.get(name)(experts, random_stream(experts.tasks), steps=2, batch_size=8)
    again = methods.get(name)(experts, random_stream(experts.tasks), steps=2, batch_size=8)
    assert torch.equal(first.trace["coefficients"], again.trace["coefficients"])
    assert (first.trace["coefficients"] - 0.3).abs().max() > 1e-4
    assert first.trace["trainable"] > 0 and len(first.trace["losses"]) == (2 if "adamerging" in name else 6)


class Images:
    """Twelve random images, read by index."""

    def __init__(self, seed: int) -> None:
        self.images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, None]:
        return self.images[index], None


@pytest.mark.parametrize(
    ("name", "changed"),
    [("model_tinting", {"select": "all", "replace": True}), ("model_tinting_pp", {"replace": True})],
)
def test_a_row_runs_as_its_function_does_with_its_defaults_and_takes_every_keyword(
    name: str, changed: dict[str, object]
) -> None:
    experts = random_experts()

    def merge(method: str, **keywords: object) -> Merged:
        images = {task: Images(k) for k, task in enumerate(experts.tasks)}
        stream = Stream({"test": images}, Access(test=UNLABELLED))
        return methods.get(method)(experts, stream, steps=4, batch_size=8, **keywords)

    for more in ({}, {"select": "top_p", "adapt": "none"}):
        row, same = merge(name, **more), merge("symerge", **{**changed, **more})
        assert_same(row.state_dict(), same.state_dict())
        assert (row.trace["coefficients"] - merge("symerge", **more).trace["coefficients"]).abs().max() > 1e-5
    assert methods.get(name).name == name
    with pytest.raises(MergingError, match=f"{name} needs data"):
        methods.get(name)(experts)


def test_adamerging_takes_every_sample_in_turn_or_the_first_of_a_shuffle_anew_in_every_step() -> None:
    experts, drawn = random_experts(2), []

    class Watched(Images):
        def __getitem__(self, index: Tensor) -> tuple[Tensor, None]:
            drawn.extend(index.tolist())
            return self.images[index], None

    def run(name: str) -> tuple[list[list[int]], Merged]:
        drawn.clear()
        stream = Stream({"test": {"t0": Watched(0), "t1": Images(1)}}, Access(test=UNLABELLED))
        merged = methods.get(name)(experts, stream, steps=6, batch_size=3)
        assert merged.trace["images"] == 6 * 2 * 2 * 3
        return [drawn[i : i + 6] for i in range(0, len(drawn), 6)], merged

    turns, ordered = run("adamerging")
    assert all(sorted(a + b) == list(range(12)) for a, b in zip(turns[::2], turns[1::2], strict=True))
    steps, fresh = run("adamerging_fresh")
    assert len(steps) == 6 and all(len(set(step)) == 6 for step in steps), "two batches of one shuffle"
    assert any(set(a) & set(b) for a, b in zip(steps[::2], steps[1::2], strict=True)), "each step shuffles anew"
    assert (ordered.trace["coefficients"] - fresh.trace["coefficients"]).abs().max() > 1e-5


SYMERGE = [
    {"adapt": "none"},
    {"adapt": "last_block"},
    {"coefficients": False},
    {"labels": "soft"},
    {"labels": "entropy"},
    {"labels": "truth"},
    {"labels": "truth", "select": "all"},
    {"select": "top_p"},
    {"select": "all"},
    {"clamp": False, "replace": True},
]


@pytest.mark.parametrize("keywords", SYMERGE, ids=str)
def test_every_keyword_of_symerge_is_reachable(keywords: dict) -> None:
    experts = random_experts(classes=5)
    labelled = keywords.get("labels") == "truth"
    merged = methods.get("symerge")(
        experts, random_stream(experts.tasks, classes=5 if labelled else None), steps=2, batch_size=8, **keywords
    )
    moved_head = any(
        not torch.equal(p, q)
        for t in experts.tasks
        for p, q in zip(merged.head(t).parameters(), experts.head(t).parameters(), strict=True)
    )
    assert moved_head == (keywords.get("adapt", "head") == "head")
    moved = (merged.trace["coefficients"] - 0.3).abs().max() > 1e-5
    assert moved == keywords.get("coefficients", True)
    if keywords.get("adapt") == "last_block":
        last = "model.visual.transformer.resblocks.1.mlp.c_fc.weight"
        states = [merged.state_dict(t)[last] for t in experts.tasks]
        assert not torch.equal(states[0], states[1]) and merged.needs_task and merged.storage > 0
        assert last not in merged.trace["coefficient_rows"]
        with pytest.raises(MergingError, match="name one: state_dict"):
            merged.state_dict()
    assert torch.isfinite(merged.model("t0")(torch.randn(2, 3, 16, 16))).all()


def test_an_empty_selection_is_a_zero_loss_with_zero_gradients() -> None:
    logits = torch.tensor([[5.0, 0.0], [4.0, 0.0]], requires_grad=True)
    expert = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    loss = self_label_loss(logits, expert, None, kind="classification", labels="hard", select="agreement")
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros(2, 2))


def test_agreement_keeps_agreeing_and_surer_experts_only() -> None:
    logits = torch.tensor([[3.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    expert = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    loss = self_label_loss(logits, expert, None, kind="classification", labels="hard", select="agreement")
    each = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1]), reduction="none")
    torch.testing.assert_close(loss, each[:2].mean())


def test_regression_takes_l1_to_the_expert() -> None:
    outputs, expert = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [0.0]])
    loss = self_label_loss(outputs, expert, None, kind="regression", labels="hard", select="agreement")
    assert loss.item() == pytest.approx(1.5)


def test_wrong_values_name_what_is_allowed() -> None:
    experts = random_experts()
    for name, keywords, words in [
        ("symerge", {"adapt": "tail"}, "adapt is 'tail'; allowed: 'head', 'last_block', 'none'"),
        ("symerge", {"labels": "truth"}, "needs a stream with labels"),
        ("adamerging", {"granularity": "row"}, "granularity is 'row'; allowed"),
        ("ties", {"merge": "most"}, "merge is 'most'; allowed"),
        ("ties", {"kep": 0.1}, "Did you mean keep"),
    ]:
        stream = [] if name == "ties" else [random_stream(experts.tasks)]
        with pytest.raises(MergingError, match=words):
            methods.get(name)(experts, *stream, **keywords)
    with pytest.raises(MergingError, match="was given no stream"):
        methods.get("symerge")(experts)
