"""What callers hand to a method: encoders, heads, state dicts and streams of every legal kind, and those refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.adaptive import QUICK, images
from helpers.support import random_experts, random_stream
from torch import Tensor, nn

import methods
from methods.api import Access, Experts, Merged, MergingError, Stream
from methods.symerge import self_label_loss

ADAPTIVE: dict[str, dict[str, Any]] = {
    **{name: {"steps": 2} for name in ("symerge", "model_tinting", "model_tinting_pp", "adamerging")},
    **{name: QUICK[name] for name in ("adarank", "surgery", "prob_surgery", "supermerge")},
}
LABELLED = {"supermerge"}


class Net(nn.Module):
    """Convolution, normalisation, dropout, an integer buffer that scales, and a weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.register_buffer("times", torch.tensor(1))

    def forward(self, inputs: Any) -> Tensor:
        maps = self.drop(self.bn(self.conv(inputs["images"] if isinstance(inputs, dict) else inputs)))
        features: Tensor = self.second(self.first(maps.mean((2, 3)))) * self.times
        return features


def net_experts(**keywords: Any) -> Experts:
    """Two experts of :class:`Net`, in training mode as torch makes modules; ``keywords``: ``head`` dtype, ``grad``."""
    torch.manual_seed(0)
    net, generator = Net(), torch.Generator().manual_seed(0)
    base = {n: t.detach().clone() for n, t in net.state_dict().items()} | {"times": torch.tensor(3)}

    def tuned() -> dict[str, Tensor]:
        near = {
            n: t + 0.1 * torch.rand(t.shape, generator=generator) if t.is_floating_point() else t.clone()
            for n, t in base.items()
        }
        return {
            n: t.requires_grad_(keywords.get("grad", False) and t.is_floating_point())
            for n, t in (near | {"second.weight": near["first.weight"].clone()}).items()
        }

    heads = {f"t{k}": nn.Linear(8, 4 + k).to(keywords.get("head", torch.float32)) for k in range(2)}
    return Experts(base, {t: tuned() for t in heads}, heads=heads, encoder=net)


def run(name: str, experts: Experts, stream: Stream | None = None) -> Merged:
    stream = stream or random_stream(experts.tasks, draws=3, size=4, classes=4 if name in LABELLED else None)
    found: Merged = methods.get(name)(experts, stream, **ADAPTIVE[name])
    return found


def outputs(merged: Merged) -> list[Tensor]:
    return [merged.model(task)(images()) for task in merged.experts.tasks]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_encoder_in_training_mode_is_run_in_evaluation_mode_and_left_as_it_was(name: str) -> None:
    experts, fresh = net_experts(), net_experts()
    fresh.encoder.eval()
    torch.manual_seed(1)
    found = run(name, experts)
    torch.manual_seed(2)
    expected = run(name, fresh)
    for a, b in zip(outputs(found), outputs(expected), strict=True):
        torch.testing.assert_close(a, b)
    assert all(m.training for m in experts.encoder.modules())
    experts.encoder.eval()
    experts.encoder.drop.train()
    state = experts.state("t0")
    assert torch.equal(*(experts.forward(state, "t0", images()) for _ in range(2))) and experts.encoder.drop.training
    untouched = net_experts()
    for task in experts.tasks:
        assert all(torch.equal(t, untouched.expert(task)[n]) for n, t in experts.expert(task).items())
    assert all(torch.equal(t, untouched.encoder.state_dict()[n]) for n, t in experts.encoder.state_dict().items())


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptation_runs_the_integer_buffers_of_the_base_as_the_merged_model_does(name: str) -> None:
    experts, same = net_experts(), net_experts()
    same.encoder.times.fill_(3)
    assert int(experts.encoder.times) == 1
    torch.testing.assert_close(run(name, experts).trace["losses"], run(name, same).trace["losses"])
    state = {n: t for n, t in experts.state("t0").items() if n != "times"}
    experts.encoder.eval()
    torch.testing.assert_close(
        experts.forward(state, "t0", images()), experts.forward({**state, "times": torch.tensor(1)}, "t0", images()) * 3
    )


@pytest.mark.parametrize("name", ["task_arithmetic", "individual", *ADAPTIVE])
def test_heads_in_half_precision_run_on_float32_features(name: str) -> None:
    experts = net_experts(head=torch.float16)
    merged = run(name, experts) if name in ADAPTIVE else methods.get(name)(experts)
    assert all(found.dtype == torch.float32 and found.isfinite().all() for found in outputs(merged))
    assert experts.head("t0").weight.dtype == torch.float16


@pytest.mark.parametrize("name", ["weight_average", "ties", "tsv_m", *ADAPTIVE])
def test_tensors_that_require_gradients_are_read_without_them(name: str) -> None:
    experts, plain = net_experts(grad=True), net_experts()
    found, expected = (
        (run(name, e) if name in ADAPTIVE else methods.get(name)(e)).state_dict("t0") for e in (experts, plain)
    )
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
        assert not found[key].requires_grad


@pytest.mark.parametrize("name", ADAPTIVE)
def test_batches_may_be_dictionaries(name: str) -> None:
    experts = net_experts()
    pictures = {
        t: torch.randn(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k, t in enumerate(experts.tasks)
    }
    labels = {t: torch.randint(4, (3, 4)) for t in experts.tasks} if name in LABELLED else None
    wrapped = {t: [{"images": batch} for batch in given] for t, given in pictures.items()}
    found, expected = (
        run(name, net_experts(), Stream.from_batches(given, labels=labels)) for given in (wrapped, pictures)
    )
    for a, b in zip(outputs(found), outputs(expected), strict=True):
        torch.testing.assert_close(a, b)


def test_samples_of_several_given_batches_keep_their_structure() -> None:
    given = {"a": [{"x": torch.arange(4) + 4 * k, "pair": [torch.arange(4.0) - k, torch.ones(4)]} for k in range(3)]}
    found = Stream.from_batches(given).fetch("a", torch.tensor([1, 6, 11])).inputs
    assert found["x"].tolist() == [1, 6, 11] and found["pair"][0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_stream_has_the_tasks_of_the_experts(name: str) -> None:
    experts = random_experts(tasks=2)
    for tasks in (["t0"], ["t0", "t1", "t2"]):
        with pytest.raises(MergingError, match=r"stream has the tasks t0.* experts are of t0, t1; .*Experts\.subset"):
            run(name, experts, random_stream(tasks, classes=5 if name in LABELLED else None))
    labels = 5 if name in LABELLED else None
    run(name, experts, random_stream(["t1", "t0"], classes=labels))


def test_empty_splits_and_batches_are_refused() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

        def __getitem__(self, index: Tensor) -> tuple[Any, Tensor | None]:
            raise AssertionError

    with pytest.raises(MergingError, match="test split of 'a' has no sample"):
        Stream({"test": {"a": Empty()}}, Access(test="unlabelled"))
    experts = random_experts(tasks=2)
    for name in ("symerge", "adamerging", "surgery"):
        with pytest.raises(MergingError, match="batches of 0 samples"):
            methods.get(name)(
                experts,
                Stream(
                    {"test": {t: [0] * 9 for t in experts.tasks}},  # type: ignore[dict-item]
                    Access(test="unlabelled"),
                ),
                steps=1,
                batch_size=0,
            )
    for name in ("adamerging", "surgery"):
        with pytest.raises(MergingError, match="batches_per_task is 0"):
            methods.get(name)(experts, random_stream(experts.tasks), steps=1, batches_per_task=0)


def test_replayed_batches_follow_each_other_also_where_fresh_shuffles_are_asked_for() -> None:
    stream = Stream.from_batches({"a": torch.arange(12.0).view(3, 4)})
    assert stream.upcoming("a", 2, 4, replace=True).tolist() == list(range(8))
    assert [stream.draw("a", 4, replace=True).index[0].item() for _ in range(4)] == [0, 4, 8, 0]


def test_experts_without_any_weight_merge_to_the_base() -> None:
    state = {"count": torch.tensor(1)}
    for name in ("weight_average", "ties", "pcb", "awd", "dare", "emr", "flexmerge", "iso_c", "wudi"):
        merged = methods.get(name)(Experts.from_state_dicts(state, {"a": dict(state), "b": dict(state)}))
        assert {n: int(t) for n, t in merged.state_dict("a").items()} == {"count": 1}


def test_what_is_adapted_must_be_a_tensor_of_the_base() -> None:
    experts = random_experts(tasks=2)
    last = experts.names[-2:]
    assert experts.with_adaptable({"last_block": last}).adaptable("t0")["last_block"] == last
    with pytest.raises(MergingError, match="tensor of adaptable 'last_block' .* Did you mean model.visual.proj"):
        experts.with_adaptable({"last_block": ["model.visual.prok"]})
    with pytest.raises(MergingError, match="unknown tensor of adaptable"):
        random_experts(adaptable={"last_block": ["nothing"]})


def test_a_rate_of_zero_moves_nothing() -> None:
    experts = random_experts(tasks=2)
    merged = methods.get("symerge")(experts, random_stream(experts.tasks), steps=2, lr=0.0)
    assert (merged.trace["raw_coefficients"] == 0.3).all()
    assert torch.equal(merged.head("t0").weight, experts.head("t0").weight)


@pytest.mark.parametrize("select", ["all", "agreement", "top_p"])
def test_pixels_without_a_label_do_not_count_as_truth(select: str) -> None:
    torch.manual_seed(0)
    logits, expert = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.randint(3, (2, 4, 4))

    def loss(labels: Tensor) -> Tensor:
        return self_label_loss(logits, expert, labels, kind="segmentation", labels="truth", select=select, top_p=1.0)

    half = labels.clone()
    half[0] = torch.tensor([-1, 255, 3, 300])
    alone = self_label_loss(
        logits[1:], expert[1:], labels[1:], kind="segmentation", labels="truth", select=select, top_p=1.0
    )
    torch.testing.assert_close(loss(half), alone)
    assert float(loss(torch.full_like(labels, -1))) == 0


@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_dense_truth_counts_where_there_is_some(kind: str) -> None:
    torch.manual_seed(0)
    shape = (2, 1, 4, 4) if kind == "depth" else (2, 3, 4, 4)
    found, truth = torch.rand(shape), torch.rand(shape) + 0.1
    truth[0] = 0
    loss = self_label_loss(found, None, truth, kind=kind, labels="truth", select="all")
    torch.testing.assert_close(loss, (found[1] - truth[1]).abs().mean())
