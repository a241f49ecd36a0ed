"""Properties of the element-wise and masked methods, of what they store, and of their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.support import assert_same, golden_experts, golden_states, merge, random_experts
from torch import Tensor

from methods.api import Experts, Merged, MergingError
from methods.tools.vectors import order_statistic

States = dict[str, dict[str, Tensor]]
DATA_FREE: list[tuple[str, dict[str, Any]]] = [
    ("dare", {}),
    ("dare", {"select": "magnitude", "inner": "ties"}),
    ("breadcrumbs", {}),
    ("emr", {}),
    ("tall_mask", {}),
    ("consensus", {}),
    ("pcb", {}),
    ("lines", {}),
    ("flexmerge", {}),
    ("flexmerge", {"inner": "ta", "size": 1.5}),
    ("flexmerge", {"inner": "ties", "keep": 0.2, "size": 2.0}),
    ("flexmerge", {"inner": "emr"}),
    ("awd", {"steps": 20}),
]
IDS = [" ".join([name, *map(str, keywords.values())]) for name, keywords in DATA_FREE]


def odd_states(count: int, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], States]:
    """Experts with what breaks merges: a scalar, a kernel, a buffer, strides, an unchanged tensor."""
    generator = torch.Generator().manual_seed(count)
    shapes = {
        "scale": (),
        "conv.weight": (4, 3, 3, 3),
        "layers.0.fc.weight": (5, 7),
        "layers.1.fc.weight": (5, 7),
        "layers.1.fc.bias": (5,),
        "unchanged": (3, 4),
    }
    base = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    base["layers.0.fc.weight"] = base["layers.0.fc.weight"].t().contiguous().t()
    tuned = {
        f"t{k}": {
            n: t + (n != "unchanged") * 0.1 * torch.randn(t.shape, generator=generator).to(dtype)
            for n, t in base.items()
        }
        for k in range(count)
    }
    if count > 1:
        tuned["t0"]["layers.1.fc.bias"] = base["layers.1.fc.bias"] + 0.25
        tuned["t1"]["layers.1.fc.bias"] = base["layers.1.fc.bias"] - 0.25
    for k, state in enumerate([base, *tuned.values()]):
        state["steps"] = torch.tensor(k)
    return base, tuned


def states(merged: Merged) -> list[dict[str, Tensor]]:
    return [merged.state_dict(task) for task in merged.experts.tasks]


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
@pytest.mark.parametrize(
    ("count", "dtype"), [(1, torch.float32), (2, torch.float32), (3, torch.float16), (9, torch.bfloat16)]
)
def test_odd_tensors_and_any_number_of_tasks_give_finite_models(
    name: str, keywords: dict[str, Any], count: int, dtype: torch.dtype
) -> None:
    base, tuned = odd_states(count, dtype)
    for state in states(merge(name, Experts.from_state_dicts(base, tuned), **keywords)):
        assert all(torch.isfinite(t.float()).all() for t in state.values())
        assert state["steps"].item() == 0
        assert torch.equal(state["unchanged"], base["unchanged"].float())
        moved = not torch.equal(state["layers.0.fc.weight"], base["layers.0.fc.weight"].float())
        assert moved or (name == "consensus" and count == 1)  # one task alone never agrees with a second


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
def test_experts_equal_to_the_base_give_the_base(name: str, keywords: dict[str, Any]) -> None:
    base, tuned = odd_states(3)
    for state in states(merge(name, Experts.from_state_dicts(base, dict.fromkeys(tuned, base)), **keywords)):
        assert_same(state, base, atol=0)


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
def test_text_tensors_that_no_expert_changed_leave_the_visual_tower_sound(name: str, keywords: dict[str, Any]) -> None:
    experts = golden_experts("edge_seed0")
    for state in states(merge(name, experts, **keywords)):
        assert all(torch.isfinite(t).all() for t in state.values())
        assert torch.equal(state["model.logit_scale"], experts.base["model.logit_scale"])
        assert not torch.equal(state["model.visual.proj"], experts.base["model.visual.proj"])


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
def test_a_merge_survives_its_file_and_runs(name: str, keywords: dict[str, Any], tmp_path: Path) -> None:
    experts = random_experts(tasks=3)
    merged = merge(name, experts, **keywords)
    merged.save(tmp_path / "merged.safetensors")
    loaded = Merged.load(tmp_path / "merged.safetensors", experts)
    images = torch.randn(2, 3, 16, 16)
    assert loaded.storage == merged.storage and loaded.needs_task == merged.needs_task
    for task in experts.tasks:
        assert_same(loaded.state_dict(task), merged.state_dict(task), atol=0)
        torch.testing.assert_close(loaded.model(task)(images), merged.model(task)(images))


@pytest.mark.parametrize(
    ("name", "keywords", "text"),
    [
        ("dare", {"drop": 1.5}, "drop is 1.5"),
        ("dare", {"select": "all"}, "'random', 'magnitude'"),
        ("dare", {"inner": "dare"}, "own inner"),
        ("breadcrumbs", {"keep": 0.0}, "keep is 0.0"),
        ("breadcrumbs", {"order": "both"}, "'keep_first'"),
        ("emr", {"rescale": "none"}, "'code', 'paper'"),
        ("tall_mask", {"mask_scale": [0.4]}, "a list of 4"),
        ("consensus", {"min_agree": -1}, "min_agree is -1"),
        ("pcb", {"keep": 20}, "keep is 20"),
        ("lines", {"inner": "emr"}, "one per task"),
        ("flexmerge", {"size": 0.5}, "size is 0.5"),
        ("flexmerge", {"merges": 1.5}, "merges is 1.5"),
        ("flexmerge", {"inner": "sum"}, "'ties'"),
        ("awd", {"lr": 0}, "lr above 0"),
        ("lines", {"inner": "task_arithmetics"}, "Did you mean task_arithmetic"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(name: str, keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(MergingError, match=text):
        merge(name, golden_experts(), **keywords)


@pytest.mark.parametrize("magnitude", [False, True])
def test_order_statistic_of_signed_numbers_is_exact(magnitude: bool) -> None:
    values = torch.randn(2000) * torch.randn(2000).exp() ** 3
    values[::7], values[3] = 0.0, -0.0
    ordered = (values.abs() if magnitude else values).sort().values
    for k in (1, 2, 500, 1000, 1001, 1500, 2000):
        assert order_statistic(list(values.split(37)), k, magnitude=magnitude) == float(ordered[k - 1])


def test_dare_masks_depend_on_the_seed_and_not_on_the_order_of_reading() -> None:
    base, tuned = golden_states()
    turned = Experts.from_state_dicts(dict(reversed(base.items())), tuned)
    one, other = merge("dare", golden_experts(), seed=1), merge("dare", turned, seed=1)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    name = "model.visual.proj"
    assert not torch.equal(one.state_dict()[name], merge("dare", turned, seed=2).state_dict()[name])


def test_dare_drops_other_entries_of_every_task_and_tensor() -> None:
    base = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    tuned = {t: {n: torch.ones(1000) for n in base} for t in ("t0", "t1")}
    state = merge("dare", Experts.from_state_dicts(base, tuned), drop=0.5, rescale=False, scale=1.0).state_dict()
    assert 400 < int((state["a"] == 1).sum()) < 600
    assert 400 < int((state["a"] != state["b"]).sum()) < 800


def test_dare_drops_the_share_it_was_asked_to_drop_and_rescales_the_rest() -> None:
    base, tuned = golden_states()
    experts = Experts.from_state_dicts(base, {"t0": tuned["t0"]})
    changed = total = 0
    for name, value in merge("dare", experts, drop=0.7, scale=1.0).state_dict().items():
        vector, found = tuned["t0"][name] - base[name], value - base[name]
        kept = found != 0
        torch.testing.assert_close(found[kept], vector[kept] / 0.3, atol=1e-6, rtol=1e-3)
        changed, total = changed + int(kept.sum()), total + kept.numel()
    assert abs(changed / total - 0.3) < 0.01


def test_dare_without_dropping_is_its_inner_method_and_with_all_dropped_the_base() -> None:
    experts, base = golden_experts(), golden_states()[0]
    for inner in ("task_arithmetic", "ties"):
        expected = merge(inner, experts, scale=0.3).state_dict()
        assert_same(merge("dare", experts, drop=0.0, inner=inner).state_dict(), expected)
    assert_same(merge("dare", experts, drop=1.0).state_dict(), base, atol=0)


def test_dare_by_magnitude_keeps_the_largest_of_each_tensor() -> None:
    base, tuned = golden_states()
    alone = Experts.from_state_dicts(base, {"t0": tuned["t0"]})
    merged = merge("dare", alone, select="magnitude", drop=0.75, scale=1.0, rescale=False)
    for name, value in merged.state_dict().items():
        size, kept = (tuned["t0"][name] - base[name]).abs(), value != base[name]
        assert abs(int(kept.sum()) - (size.numel() - int(0.75 * size.numel()))) <= 1
        assert size[kept].min() >= size[~kept].max()


@pytest.mark.parametrize("order", ["remove_first", "keep_first"])
def test_breadcrumbs_keep_the_middle_of_each_row(order: str) -> None:
    row = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1])
    experts = Experts.from_state_dicts(
        {"w": torch.zeros(2, 10), "s": torch.zeros(())},
        {"t0": {"w": torch.stack([row, row.flip(0)]), "s": torch.tensor(7.0)}},
    )
    state = merge("breadcrumbs", experts, keep=0.4, remove=0.2, scale=1.0, order=order).state_dict()
    kept = row * torch.tensor([0, 0, 1, 1] + (2 * [1] if order == "remove_first" else 2 * [0]) + 4 * [0])
    assert torch.equal(state["w"], torch.stack([kept, kept.flip(0)]))
    assert state["s"] == 7.0


def test_masked_methods_store_a_vector_and_a_bit_per_task_and_entry() -> None:
    experts = golden_experts()
    bits = 4 * sum((experts.base[n].numel() + 7) // 8 for n in experts.names)
    assert merge("tall_mask", experts).storage == experts.nbytes() + bits
    assert merge("emr", experts).storage == experts.nbytes() + bits + 4 * 4


@pytest.mark.parametrize(
    ("name", "keywords"),
    [("emr", {}), ("emr", {"rescale": "paper"}), ("tall_mask", {}), ("flexmerge", {"inner": "emr"})],
)
def test_a_tensor_that_a_task_left_alone_stays_the_base_under_its_mask(name: str, keywords: dict[str, Any]) -> None:
    base, tuned = golden_states()
    idle = {**base, "model.visual.proj": tuned["t0"]["model.visual.proj"]}
    state = merge(name, Experts.from_state_dicts(base, {**tuned, "idle": idle}), **keywords).state_dict("idle")
    assert not torch.equal(state.pop("model.visual.proj"), base["model.visual.proj"])
    assert all(torch.equal(value, base[n]) for n, value in state.items())
    merged = merge(name, Experts.from_state_dicts(base, {**tuned, "idle": base}), **keywords)
    assert_same(merged.state_dict("idle"), base, atol=0)


def test_the_papers_rescaler_matches_the_length_of_each_task_vector() -> None:
    experts = golden_experts()
    merged = merge("emr", experts, rescale="paper")
    for task in experts.tasks:
        found, expected = 0.0, 0.0
        for name in experts.names:
            found += float((merged.state_dict(task)[name] - experts.base[name]).abs().sum())
            expected += float(experts.task_vector(name, task).abs().sum())
        assert found == pytest.approx(expected, rel=1e-4)
    assert not torch.allclose(merged.trace["rescalers"], merge("emr", experts).trace["rescalers"], atol=1e-5)


def test_a_mask_scale_per_task_is_that_tasks_mask() -> None:
    experts = golden_experts()
    scales = [0.2, 0.3, 0.5, 0.6]
    mixed = merge("tall_mask", experts, mask_scale=scales)
    for task, scale in zip(experts.tasks, scales, strict=True):
        assert_same(mixed.state_dict(task), merge("tall_mask", experts, mask_scale=scale).state_dict(task), atol=0)


def test_consensus_of_none_is_task_arithmetic_and_of_too_many_the_base() -> None:
    experts = golden_experts()
    assert_same(merge("consensus", experts, min_agree=0).state_dict(), merge("task_arithmetic", experts).state_dict())
    assert_same(merge("consensus", experts, min_agree=5).state_dict(), golden_states()[0], atol=0)


@pytest.mark.parametrize(("count", "keep"), [(2, 0.05), (3, 0.5), (4, 1.0)])
def test_streamed_pcb_equals_its_equations_on_one_long_vector(count: int, keep: float) -> None:
    base, tuned = golden_states()
    for state in (base, *tuned.values()):
        state["model.visual.proj"] = state["model.visual.proj"].t().contiguous().t()
    experts = Experts.from_state_dicts(base, {t: tuned[t] for t in list(tuned)[:count]})
    vectors = torch.cat([experts.task_vectors(n).reshape(count, -1) for n in experts.names], 1)
    size = vectors.abs().sort(1).values
    d = vectors.shape[1]
    clamped = vectors.abs().clamp(size[:, int(d * 0.0001), None], size[:, int(d * 0.9999 - 1), None])

    def unit(x: Tensor) -> Tensor:
        return (x - x.amin(1, keepdim=True)) / (x.amax(1, keepdim=True) - x.amin(1, keepdim=True))

    scores = torch.exp(count * unit(clamped) ** 2) * torch.tanh(vectors * vectors.sum(0))
    shares = unit(torch.maximum(scores, scores.sort(1).values[:, int(d * (1 - keep)), None]))
    expected = 1.2 * (shares * vectors.sign() * clamped).sum(0) / shares.sum(0).clamp(min=1e-12)
    state = merge("pcb", experts, keep=keep).state_dict()
    found = torch.cat([(state[n] - base[n]).flatten() for n in experts.names])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_lines_scale_grows_with_depth_and_is_one_over_k_outside_blocks() -> None:
    experts = golden_experts()
    state = merge("lines", experts, beta=0.6).state_dict()
    for name, size in (
        ("model.visual.proj", 0.25),
        ("model.visual.transformer.resblocks.0.mlp.c_fc.weight", 0.25),
        ("model.visual.transformer.resblocks.1.mlp.c_fc.weight", 0.85),
    ):
        found = state[name] - experts.base[name]
        torch.testing.assert_close(found, size * experts.task_vectors(name).sum(0), atol=1e-6, rtol=1e-4)
    assert merge("lines", experts, inner="weight_average").trace["alpha"] == pytest.approx(1.0, rel=1e-4)


def test_lines_runs_its_inner_method_at_scale_one() -> None:
    experts = golden_experts()
    expected = merge("ties", experts, scale=1.0).state_dict()
    assert_same(merge("lines", experts, alpha=1.0, beta=0.0, inner="ties").state_dict(), expected)
