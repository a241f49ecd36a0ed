"""Routing by singular directions: the authors' choices, and what a routed model answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.adaptive import images
from helpers.support import about, golden, proved, random_experts
from torch import Tensor

import methods
from methods import mass
from methods.api import Merged, NotApplicable
from methods.tools import spectral

STEMS = ("mass_router__l2_topk_thr0.2__seed0", "mass_router__mahalanobis_top1__seed0")


@pytest.mark.parametrize("stem", STEMS)
def test_inputs_are_routed_as_the_authors_code_routes_them(stem: str) -> None:
    stored, note = golden(stem), about(stem)
    with_ = note["hyperparameters"]
    distances = mass.residuals(stored["features"], stored["right_vectors"], with_["norm"])
    torch.testing.assert_close(distances, stored["residual"], atol=note["tolerance"], rtol=0)
    weights, members = mass.chosen(
        stored["residual"], with_["routing_mode"], with_["threshold"], with_["temperature"], with_["max_num_tasks"]
    )
    torch.testing.assert_close(weights, stored["coefficients"], atol=note["tolerance"], rtol=0)
    assert torch.equal(members.float(), stored["selected"]) and not members.all()
    proved("mass", float((distances - stored["residual"]).abs().max()), note["tolerance"])


def test_no_more_tasks_than_asked_are_chosen_and_always_one() -> None:
    distances = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 9.0, 9.0, 9.0]])
    weights, members = mass.chosen(distances, threshold=0.2, most=3)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert members.sum(1).tolist() == [3, 1] and members[1].tolist() == [True, False, False, False]
    assert mass.chosen(distances, threshold=0.9)[1].sum(1).tolist() == [1, 1]
    assert mass.chosen(distances, temperature=1e6, threshold=0.2)[1].sum(1).tolist() == [3, 3]


def test_the_merge_of_all_tasks_is_tsv_m() -> None:
    experts = random_experts()
    merged = methods.get("mass")(experts)
    state = mass.subspace_merge(merged, experts.tasks)
    expected = methods.get("tsv_m")(experts).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-5)


def plain_answer(merged: Merged, task: str, image: Tensor) -> Tensor:
    """The answer to one image, written out."""
    experts = merged.experts
    model = mass.Routed(merged, task)
    right = torch.stack([merged.extra[f"{t}/right/{merged.options['layer']}"] for t in experts.tasks])
    distances = mass.residuals(model.features(image[None]), right)
    members = [t for t, yes in zip(experts.tasks, mass.chosen(distances)[1][0].tolist(), strict=True) if yes]
    features = experts.forward(mass.subspace_merge(merged, tuple(members)), task, image[None])
    answers = {t: merged.head(t)(features)[0] for t in members}
    winner = max(answers, key=lambda t: float(answers[t].max()))
    own = merged.head(task)(features)[0]
    return own if winner == task else -own


def test_a_batch_is_answered_as_its_samples_one_by_one(tmp_path: Path) -> None:
    experts = random_experts(4)
    merged = methods.get("mass")(experts)
    batch = images(12)
    with torch.no_grad():
        for task in experts.tasks:
            found = merged.model(task)(batch)
            expected = torch.stack([plain_answer(merged, task, image) for image in batch])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        merged.save(tmp_path / "merged.safetensors")
        again = Merged.load(tmp_path / "merged.safetensors", experts)
        torch.testing.assert_close(again.model("t1")(batch), merged.model("t1")(batch))
    assert not merged.needs_task and merged.storage > 0


def test_a_task_alone_is_itself_and_what_cannot_be_routed_is_refused() -> None:
    experts = random_experts(1)
    merged = methods.get("mass")(experts)
    with torch.no_grad():
        expected = experts.copy_head("t0")(experts.forward(experts.state("t0"), "t0", images()))
        torch.testing.assert_close(merged.model("t0")(images()), expected, atol=1e-4, rtol=1e-4)
    regression = random_experts(2, kinds={"t0": "classification", "t1": "regression"})
    with pytest.raises(NotApplicable, match="'t1' is a regression task, which has none"):
        methods.get("mass")(regression)


def test_an_answer_by_another_tasks_head_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = random_experts(2)
    merged = methods.get("mass")(experts)
    monkeypatch.setattr(mass, "chosen", lambda distances, **_: (distances, torch.ones_like(distances).bool()))
    batch = images(40)
    state = mass.subspace_merge(merged, experts.tasks)
    with torch.no_grad():
        features = experts.forward(state, "t0", batch)
        heads = {t: merged.head(t)(features) for t in experts.tasks}
        for task, other in (("t0", "t1"), ("t1", "t0")):
            lost = heads[task].amax(1) < heads[other].amax(1)
            assert 0 < int(lost.sum()) < 40
            answered = merged.model(task)(batch).argmax(1)
            assert torch.equal(answered[~lost], heads[task].argmax(1)[~lost])
            assert torch.equal(answered[lost], heads[task].argmin(1)[lost])


def test_the_small_matrices_of_a_set_are_made_once_for_all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = random_experts(4)
    merged = methods.get("mass")(experts)
    made: list[int] = []
    core = mass.core
    monkeypatch.setattr(mass, "core", lambda *parts: made.append(1) or core(*parts))
    monkeypatch.setattr(mass, "KEPT", 1)
    pair = experts.tasks[:2]
    first = mass.Routed(merged, "t0").state(pair, 1)
    count = len(made)
    assert count > 0
    for task in experts.tasks:
        again = mass.Routed(merged, task).state(pair, 1)
        for name, value in first.items():
            torch.testing.assert_close(again[name], value)
    assert len(made) == count
    mass.Routed(methods.get("mass")(experts), "t0").state(pair, 1)
    assert len(made) == 2 * count, "another merge has its own"


def test_the_merges_that_most_samples_need_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass, "KEPT", 2)
    experts = random_experts(4)
    model = mass.Routed(methods.get("mass")(experts), "t0")
    often, sometimes, rare, later = (("t0",), ("t1",), ("t2",), ("t0", "t1"))
    for tasks, samples in ((often, 9), (sometimes, 2), (rare, 1)):
        model.state(tasks, samples)
    assert set(model._states) == {often, sometimes}
    model.state(later, 5)
    assert set(model._states) == {often, later}


def test_no_more_small_matrices_are_kept_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass, "KNOWN", 2)
    merged = methods.get("mass")(random_experts(4))
    for tasks in (("t0",), ("t1",), ("t0",), ("t2",)):
        mass.subspace_merge(merged, tasks)
    assert list(mass._CORES[merged]) == [("t0",), ("t2",)], "the one that was not used for longest goes"


@pytest.mark.parametrize("angle", [0.3, 1e-3, 1e-5, 0.0])
def test_an_inverse_root_gives_the_orthogonal_factor_of_dependent_vectors_too(angle: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(200, 12, generator=generator, dtype=torch.float64))[0]
    turned = q[:, :6] * (1 - angle**2) ** 0.5 + q[:, 6:] * angle
    vectors = torch.cat([q[:, :6], turned], 1)
    expected = spectral.orthogonal(vectors)
    torch.testing.assert_close(vectors @ spectral.inverse_root(vectors), expected, atol=1e-7, rtol=0)
