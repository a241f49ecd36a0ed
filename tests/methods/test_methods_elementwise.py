"""Properties of the element-wise, masked and block-wise methods, of what they store, and of their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.support import golden_experts, golden_states, random_experts, random_stream
from torch import Tensor

import methods
from methods.api import Experts, Merged, MergingError, NotApplicable, Stream
from methods.awd import inner_products, interference
from methods.core.blocks import depths, parts
from methods.robustmerge import fuse
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


def merge(name: str, experts: Experts, **keywords: Any) -> Merged:
    found: Merged = methods.get(name)(experts, **keywords)
    return found


def states(merged: Merged) -> list[dict[str, Tensor]]:
    return [merged.state_dict(task) for task in merged.experts.tasks]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), atol=atol, rtol=1e-5, msg=name)


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


def test_blocks_are_found_in_the_names_of_common_encoders() -> None:
    resnet = [
        "conv1.weight",
        "bn1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.1.conv1.weight",
        "layer2.0.conv1.weight",
        "layer2.0.downsample.0.weight",
    ]
    bert = [
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.output.dense.bias",
        "encoder.layer.10.attention.self.query.weight",
    ]
    t5 = [
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.block.0.layer.1.DenseReluDense.wi.weight",
        "decoder.block.0.layer.0.SelfAttention.q.weight",
        "decoder.block.1.layer.0.SelfAttention.q.weight",
    ]
    assert depths(resnet) == {
        "layer1.0.conv1.weight": 0,
        "layer1.1.conv1.weight": 0.5,
        "layer2.0.conv1.weight": 1,
        "layer2.0.downsample.0.weight": 1,
    }
    assert list(depths(bert).values()) == [0, 0, 1] and list(depths(t5).values()) == [0, 0, 0, 1]
    assert parts(resnet)["bn1"] == ["bn1.weight", "bn1.running_mean"]
    assert list(parts(bert)) == [
        "encoder.layer.10.attention",
        "encoder.layer.0.output",
        "encoder.layer.0.attention",
        "embeddings.word_embeddings",
    ]
    assert "encoder.block.0.layer.1" in parts(t5)


@pytest.mark.parametrize("similarity", ["merged", "constituents"])
def test_flexmerge_stops_at_the_size_it_was_given_and_stores_that_much(similarity: str) -> None:
    experts = golden_experts("edge_seed0")
    visual = 4 * sum(experts.base[n].numel() for n in experts.names if bool(experts.task_vectors(n).any()))
    sizes = []
    for size in (4.0, 2.5, 1.5, 1.0):
        merged = merge("flexmerge", experts, size=size, similarity=similarity)
        sizes.append(merged.trace["size"])
        assert merged.trace["size"] <= size + 1e-9
        assert merged.storage == pytest.approx((merged.trace["size"] - 1) * visual, abs=1)
    assert sizes[0] == 4.0 and sizes[-1] == 1.0 and sizes == sorted(sizes, reverse=True)


def test_flexmerge_at_its_ends_is_the_experts_and_the_inner_method() -> None:
    experts = golden_experts()
    for task in experts.tasks:
        assert_same(merge("flexmerge", experts, size=4.0).state_dict(task), dict(experts.expert(task)), atol=0)
    assert_same(merge("flexmerge", experts).state_dict(), merge("weight_average", experts).state_dict())
    expected = merge("task_arithmetic", experts, scale=1.5 / 4).state_dict()
    assert_same(merge("flexmerge", experts, inner="ta", scale=1.5).state_dict(), expected)
    expected = merge("ties", experts, keep=0.2, merge="mean", scale=1.0).state_dict()
    assert_same(merge("flexmerge", experts, inner="ties", keep=0.2, scale=1.0).state_dict(), expected)


def test_flexmerge_links_constituents_as_its_code_names_it() -> None:
    angles = torch.tensor([0.0, 0.2, 0.9, 1.75])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    experts = Experts.from_state_dicts({"w": torch.zeros(2)}, {f"t{k}": {"w": p} for k, p in enumerate(points)})
    second = {}
    for link in ("single", "complete", "average"):
        merged = merge("flexmerge", experts, merges=2, similarity="constituents", linkage=link)
        second[link] = merged.trace["merge_log"][1][1]
    assert second["single"] == pytest.approx(float(torch.tensor(0.85).cos()), abs=1e-5)
    assert second["complete"] == pytest.approx(float(torch.tensor(0.7).cos()), abs=1e-5)
    assert second["single"] <= second["average"] <= second["complete"]


def test_flexmerge_keeps_pairs_apart_under_emr() -> None:
    experts = golden_experts()
    merged = merge("flexmerge", experts, inner="emr", merges=1)
    assert merged.trace["size"] == 4.0
    for task in experts.tasks:
        assert_same(merged.state_dict(task), dict(experts.expert(task)), atol=0)


def adapters(count: int = 3, rank: int = 4, seed: int = 0) -> dict[str, dict[str, tuple[Tensor, Tensor, float]]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"t{k}": {"fc": (torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator), 2.0)}
        for k in range(count)
    }


def lora_experts(given: dict[str, dict[str, tuple[Tensor, Tensor, float]]]) -> Experts:
    base = {"fc.weight": torch.ones(5, 6), "other.weight": torch.ones(5, 6), "free": torch.ones(3)}
    return Experts.from_lora(base, given)


def test_robustmerge_says_that_it_needs_adapters() -> None:
    with pytest.raises(NotApplicable, match="LoRA"):
        merge("robustmerge", golden_experts())


def test_robustmerge_gives_one_model_and_applies_the_adapters_scale(tmp_path: Path) -> None:
    experts = lora_experts(adapters())
    merged = merge("robustmerge", experts)
    assert merged.storage == 0 and not merged.needs_task
    change = 2.0 * merged.extra["fc.lora_B.weight"] @ merged.extra["fc.lora_A.weight"]
    torch.testing.assert_close(merged.state_dict()["fc.weight"], 1 + change)
    assert torch.equal(merged.state_dict()["free"], torch.ones(3))
    merged.save(tmp_path / "merged.safetensors")
    assert_same(Merged.load(tmp_path / "merged.safetensors", experts).state_dict(), merged.state_dict(), atol=0)


def test_robustmerge_does_not_depend_on_how_a_scale_is_split_from_its_factor() -> None:
    given = adapters()
    folded = {
        t: {m: (a, b * (s / (k + 1)), float(k + 1)) for m, (a, b, s) in modules.items()}
        for k, (t, modules) in enumerate(given.items())
    }
    expected = merge("robustmerge", lora_experts(given)).state_dict()
    assert_same(merge("robustmerge", lora_experts(folded)).state_dict(), expected, atol=1e-5)


def test_robustmerge_stands_empty_directions_and_missing_modules() -> None:
    given = adapters()
    a, b, scale = given["t0"]["fc"]
    given["t0"]["fc"] = (torch.cat([a[:1], torch.zeros(3, 6)]), torch.zeros_like(b), scale)
    given["t1"]["other"] = given["t1"].pop("fc")
    state = merge("robustmerge", lora_experts(given)).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    assert not torch.equal(state["other.weight"], torch.ones(5, 6))
    assert not torch.equal(state["fc.weight"], torch.ones(5, 6))
    with pytest.raises(MergingError, match="rank"):
        merge("robustmerge", lora_experts({"t0": adapters(1, 4)["t0"], "t1": adapters(1, 3)["t0"]}))


def test_robustmerge_lifts_the_scales_of_strong_directions_to_the_clamp() -> None:
    factors = torch.tensor([[[8.0, 8.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0], [7.9, 4.0, 4.0, 4.0]]])
    a, b = fuse(factors, torch.ones(1, 2, 3), keep=0.5, clamp=0.2, weight=1.0)
    assert torch.equal(a[1], factors[0, 1]) and a[2].count_nonzero() == 1
    torch.testing.assert_close(b, torch.ones(2, 3))


def test_awd_brings_task_vectors_nearer_to_orthogonal() -> None:
    experts = golden_experts()
    merged = merge("awd", experts, scale=0.5)
    weights = merged.trace["redundant_weights"]
    before, after = [], []
    for name, weight in zip(experts.names, weights, strict=True):
        vectors = experts.task_vectors(name)
        redundant = torch.tensordot(weight, vectors, 1)
        expected = experts.base[name] + 0.5 * (vectors - redundant).sum(0)
        torch.testing.assert_close(merged.state_dict()[name], expected, atol=1e-5, rtol=0)
        before.append(float(interference(inner_products(vectors)[None])))
        after.append(float(interference(inner_products(vectors - redundant)[None])))
    assert all(new <= old + 1e-6 for old, new in zip(before, after, strict=True))
    assert sum(after) < 0.5 * sum(before)
    assert merged.trace["mean_cosine_after"] == pytest.approx(sum(after) / len(after), abs=1e-5)


def test_awd_holds_the_redundant_vector_shorter_the_more_its_length_counts() -> None:
    experts = golden_experts()
    lengths = [float(merge("awd", experts, alpha=a).trace["redundant_weights"].norm()) for a in (0.0, 0.5, 100.0)]
    assert lengths[0] > lengths[1] > lengths[2] and lengths[2] < 0.05


def test_awd_leaves_one_task_as_it_is() -> None:
    base, tuned = golden_states()
    experts = Experts.from_state_dicts(base, {"t0": tuned["t0"]})
    assert_same(merge("awd", experts, scale=1.0).state_dict(), tuned["t0"])


def test_awd_asks_for_the_access_of_its_inner_method_and_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(inner: str, experts: Experts, stream: Stream, **keywords: Any) -> Any:
        return methods.get(inner)(experts, stream, steps=2)

    made = methods.describe("awd")
    assert made.access_for({}).describe() == "none"
    assert made.access_for({"inner": "adamerging"}).describe() == "unlabelled test"
    monkeypatch.setattr("methods.tools.inner.run", quick)
    experts = random_experts(tasks=2)
    merged = methods.get("awd")(experts, random_stream(experts.tasks, draws=4), inner="adamerging", steps=10)
    assert "coefficients" in merged.trace and merged.experts is experts


def test_editing_methods_refuse_to_pass_the_experts_through() -> None:
    experts = random_experts(tasks=2)
    for name in ("dare", "awd"):
        with pytest.raises(MergingError, match=f"inner='individual' reads the experts as they are, and {name}"):
            methods.get(name)(experts, inner="individual")


def test_flexmerge_keeps_the_experts_of_a_block_whose_entries_are_all_trimmed() -> None:
    torch.manual_seed(0)
    base = {"proj": torch.zeros(20, 20), "ln_post.weight": torch.ones(20)}
    tuned = {
        f"t{k}": {"proj": torch.randn(20, 20), "ln_post.weight": 1 + 0.001 * (k + 1) * torch.ones(20)} for k in range(3)
    }
    experts = Experts.from_state_dicts(base, tuned)
    apart = methods.get("flexmerge")(experts, inner="ties", keep=0.2, size=3.0)
    for task, state in tuned.items():
        assert all(torch.equal(t, state[n]) for n, t in apart.state_dict(task).items())
    together = methods.get("flexmerge")(experts, inner="ties", keep=0.2)
    assert torch.equal(together.state_dict("t0")["ln_post.weight"], base["ln_post.weight"])
