"""A suite of any domain may measure every merge beside its tasks; it is measured on each model of the merge once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import CLASSES, TASKS, TinyBench, TinySource, run
from torch import Tensor, nn

from benchmark.domains.vision.bench import Accuracy
from benchmark.harness import judging, provenance
from benchmark.records.store import Store
from benchmark.suites.bench import Bystander


class FirstFeatures(nn.Module):
    """The encoder's first features, taken for classes."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        return features[:, :CLASSES]


def without_head(model: nn.Module) -> nn.Module:
    """The view."""
    encoder: Any = model.encoder
    return FirstFeatures(encoder)


class WatchedBench(TinyBench):
    """The tiny bench with a bystander: 24 more images."""

    def __init__(self) -> None:
        super().__init__()
        self.suite = self.suite.model_copy(update={"bystanders": {"others": "other images"}})

    def bystander(self, name: str) -> Bystander:
        assert name == "others"
        return Bystander(TinySource(77), lambda: Accuracy(name, CLASSES), without_head, "7" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_every_model_that_a_merge_has_is_measured_once(store: Store) -> None:
    """Shared weights once, layers of a task's own and weights by a method's code for each task, routers not at all."""
    last_block = "symerge:adapt=last_block,steps=1"
    records = {r.spec.method: r for r in run(WatchedBench(), store, "ties", last_block, "emr", "surgery:steps=1")}
    assert all(record.status == "done" for record in records.values())
    models = {name: r.bystanders["others"].models if r.bystanders else 0 for name, r in records.items()}
    assert models == {"pretrained": 1, "individual": TASKS, "ties": 1, "symerge": TASKS, "emr": TASKS, "surgery": 0}
    for record in records.values():
        assert store.load(record.spec) == record, "what is read back is what was measured"
        for result in record.bystanders.values():
            assert result.data == "7" * 64 and result.n == 24 * result.models and result.kind == "bystander"
    experts, images = WatchedBench().experts(), TinySource(77)
    right = []
    for task in experts.tasks:
        experts.encoder.load_state_dict(dict(experts.expert(task)), strict=False)
        with torch.inference_mode():
            right.append((experts.encoder(images.images)[:, :CLASSES].argmax(-1) == images.labels).float().mean())
    assert records["individual"].bystanders["others"].value == pytest.approx(100 * float(sum(right)) / TASKS, abs=1e-3)


def test_what_another_commit_measured_is_measured_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = ["a" * 40]
    monkeypatch.setattr(provenance, "git_state", lambda: (commit[0], False))
    bench, real, stop = WatchedBench(), judging.Judged.bystander, [True]

    def interrupted(self: Any, name: str) -> Any:
        result = real(self, name)
        if stop[0] and self.merged is not None:
            result.data = "old"
        return result

    monkeypatch.setattr(judging.Judged, "bystander", interrupted)
    first = run(bench, store, "ties")[-1]
    assert first.bystanders["others"].data == "old"
    first.status = "incomplete"
    store.save(first)
    stop[0], commit[0] = False, "b" * 40
    again = run(bench, store, "ties")[-1]
    assert again.status == "done" and again.bystanders["others"].data == "7" * 64
