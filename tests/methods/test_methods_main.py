"""Properties of the main job's methods, of streams, and of what a merge stores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.support import Encoder, Head, golden_experts, golden_states, random_experts, random_stream, wide_experts
from torch import Tensor, nn

import methods
from methods.api import UNLABELLED, Access, Experts, Merged, MergingError, Stream, TimeLimit
from methods.symerge import self_label_loss
from methods.tools.coefficients import LayerwiseMerge, Leaves, combine
from methods.tools.vectors import order_statistic, thresholds, trim

DATA_FREE = ["weight_average", "task_arithmetic", "ties"]
ADAPTIVE = ["adamerging", "adamerging_fresh", "symerge", "model_tinting", "model_tinting_pp"]


def close(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), atol=atol, rtol=1e-5, msg=name)


def test_order_of_tasks_does_not_change_ties() -> None:
    base, tuned = golden_states(dtype=torch.float16)
    for merge in ("sum", "mean", "max"):
        ordered = methods.get("ties")(Experts.from_state_dicts(base, tuned), merge=merge).state_dict()
        turned = dict(reversed(list(tuned.items())))
        close(ordered, methods.get("ties")(Experts.from_state_dicts(base, turned), merge=merge).state_dict())


@pytest.mark.parametrize("name", ["task_arithmetic", "ties"])
def test_scale_zero_returns_the_base(name: str) -> None:
    base, tuned = golden_states()
    close(methods.get(name)(Experts.from_state_dicts(base, tuned), scale=0.0).state_dict(), base, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_averaging_equal_experts_returns_the_expert(count: int) -> None:
    base, tuned = golden_states()
    same = {f"t{k}": tuned["t0"] for k in range(count)}
    close(methods.get("weight_average")(Experts.from_state_dicts(base, same)).state_dict(), tuned["t0"])


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_inputs_agree_to_their_precision(name: str, dtype: torch.dtype, atol: float) -> None:
    exact = methods.get(name)(golden_experts()).state_dict()
    half = methods.get(name)(golden_experts(dtype=dtype)).state_dict()
    gaps = torch.cat([(half[n] - exact[n]).abs().flatten() for n in exact])
    assert (gaps > atol).float().mean() < 0.02  # an entry next to a threshold may fall on its other side
    assert all(t.dtype == torch.float32 for t in half.values())


@pytest.mark.parametrize("name", DATA_FREE)
def test_integer_buffers_pass_through(name: str) -> None:
    base, tuned = golden_states()
    base["steps"], base["flags"] = torch.tensor(7), torch.tensor([True, False])
    for k, state in enumerate(tuned.values()):
        state["steps"], state["flags"] = torch.tensor(100 + k), torch.tensor([False, False])
    state = methods.get(name)(Experts.from_state_dicts(base, tuned)).state_dict()
    assert state["steps"].item() == 7 and state["steps"].dtype == torch.int64
    assert state["flags"].tolist() == [True, False]


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize("count", [1, 2])
def test_few_tasks_zero_vectors_and_scalars_give_finite_weights(name: str, count: int) -> None:
    base, tuned = golden_states("edge_seed0")
    state = methods.get(name)(Experts.from_state_dicts(base, dict(list(tuned.items())[:count]))).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    zero = methods.get(name)(Experts.from_state_dicts(base, {f"t{k}": dict(base) for k in range(count)}))
    close(zero.state_dict(), base)


def test_keeping_everything_is_allowed() -> None:
    state = methods.get("ties")(golden_experts(), keep=1.0).state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    for bad in (0, -0.1, 1.5, True):
        with pytest.raises(MergingError, match=r"keep is .* expected a fraction in \(0, 1\]"):
            methods.get("ties")(golden_experts(), keep=bad)


def test_majority_sign_decides_where_vectors_cancel() -> None:
    base = {"w": torch.zeros(6)}
    up = {"a": {"w": torch.tensor([2.0, 1, 1, 1, 0, 0])}, "b": {"w": torch.tensor([-2.0, 1, 1, 1, 0, 0])}}
    down = {t: {"w": -s["w"]} for t, s in up.items()}
    for tuned, sign in ((up, 1), (down, -1)):
        merged = methods.get("ties")(Experts.from_state_dicts(base, tuned), keep=1.0, scale=1.0)
        assert merged.state_dict()["w"].tolist() == [2 * sign] * 4 + [0, 0]


def test_the_largest_of_a_tie_that_nothing_decides_is_zero() -> None:
    base, a, b = torch.zeros(3), torch.tensor([1.0, 2.0, -3.0]), torch.tensor([-1.0, 1.0, -1.0])
    experts = Experts.from_state_dicts({"w": base}, {"a": {"w": a}, "b": {"w": b}})
    for merge, expected in (("max", [0.0, 2.0, -3.0]), ("sum", [-1.0, 3.0, -4.0]), ("mean", [-1.0, 1.5, -2.0])):
        assert methods.get("ties")(experts, keep=1.0, scale=1.0, merge=merge).state_dict()["w"].tolist() == expected


def test_trimming_float64_checkpoints_keeps_the_entry_at_the_threshold() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        base = torch.randn(50, 40, generator=generator, dtype=torch.float64)
        tuned = {t: {"w": base + 0.01 * torch.randn(50, 40, generator=generator, dtype=torch.float64)} for t in "ab"}
        experts = Experts.from_state_dicts({"w": base}, tuned)
        kept = trim(experts.task_vectors("w"), thresholds(experts, 0.2)) != 0
        assert kept.sum((1, 2)).tolist() == [401, 401]  # of 2000: those from the 1600th in size on


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.5, 1.0])
def test_thresholds_are_the_exact_order_statistic_over_all_tensors(keep: float) -> None:
    experts = golden_experts()
    for k, limit in enumerate(thresholds(experts, keep).tolist()):
        flat = torch.cat([experts.task_vectors(n)[k].flatten() for n in experts.names]).abs()
        rank = len(flat) - int(len(flat) * keep)
        assert limit == (flat.kthvalue(rank).values.item() if rank else 0.0)


def test_order_statistic_survives_ties_and_zeros() -> None:
    values = torch.tensor([0.0, 0, 0, 1e-30, 1e-30, 3, 3, 3, 7])
    for k in range(1, 10):
        assert order_statistic([values[:4], values[4:]], k) == values.sort().values[k - 1].item()


def test_gradient_of_the_fused_merge_is_the_inner_product() -> None:
    base, vectors = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    lam = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: combine(c, base, vectors), (lam,))
    plain = base + (lam[:, None] * vectors).sum(0).view(3, 4)
    torch.testing.assert_close(combine(lam, base, vectors), plain)


@pytest.mark.parametrize("together", [1, 1 << 20], ids=["apart", "together"])
def test_every_tensor_is_merged_and_differentiated_as_in_the_plain_form(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.tools.coefficients._SMALL", 100)
    monkeypatch.setattr("methods.tools.coefficients._TOGETHER", together)
    experts = random_experts()
    merge = LayerwiseMerge(experts)
    assert len(merge._parts) == (2 if together > 1 else 1 + sum(experts.base[n].numel() > 100 for n in merge.names))
    with torch.no_grad():
        merge.raw.uniform_()
    plain = merge.raw.detach().clone().requires_grad_()
    merged = {
        n: experts.base[n] + torch.tensordot(plain[i], experts.task_vectors(n), 1) for i, n in enumerate(merge.names)
    }
    weights = {n: torch.randn_like(t) for n, t in merged.items()}
    for found in (made := merge()), merged:
        sum((t * weights[n]).sum() for n, t in list(found.items())[:-1]).backward()
    for n in merged:
        torch.testing.assert_close(made[n], merged[n])
    torch.testing.assert_close(merge.raw.grad, plain.grad)
    assert (merge.raw.grad[:-1] != 0).all() and (merge.raw.grad[-1] == 0).all()


def test_leaves_add_up_to_the_same_gradient_as_one_graph() -> None:
    experts = random_experts()
    inputs = torch.randn(4, 3, 16, 16)
    whole, parts = LayerwiseMerge(experts), LayerwiseMerge(experts)
    state = whole()
    (experts.forward(state, "t0", inputs).sum() + experts.forward(state, "t1", inputs[:2]).square().sum()).backward()
    leaves = Leaves(parts())
    assert len({t.grad.untyped_storage().data_ptr() for t in leaves.state.values() if t.grad is not None}) == 1
    experts.forward(leaves.state, "t0", inputs).sum().backward()
    experts.forward(leaves.state, "t1", inputs[:2]).square().sum().backward()
    leaves.backward()
    torch.testing.assert_close(whole.raw.grad, parts.raw.grad, rtol=1e-4, atol=1e-5)
    assert whole.raw.grad.abs().max() > 0


def test_a_merge_is_written_over_by_the_next_and_a_kept_one_is_not() -> None:
    merge = LayerwiseMerge(wide_experts())
    first, kept = merge(), merge.merged()
    before = {n: t.clone() for n, t in kept.items()}
    with torch.no_grad():
        merge.raw += 0.1
    loss = first["w"].square().sum()
    second = merge()
    assert second["w"].data_ptr() == first["w"].data_ptr() and not torch.equal(second["w"], before["w"])
    assert all(torch.equal(kept[n], before[n]) for n in kept)
    with pytest.raises(RuntimeError, match="modified (by an )?inplace"):
        loss.backward()
    second["w"].square().sum().backward()
    assert merge.raw.grad is not None and (merge.raw.grad[0] != 0).all()


def test_coefficients_that_leave_the_box_get_no_gradient() -> None:
    merge = LayerwiseMerge(random_experts(), prior=0.5)
    with torch.no_grad():
        merge.raw[0] = torch.tensor([1.2, 1.0, -0.1])
    sum(t.sum() for t in merge().values()).backward()
    assert merge.raw.grad[0, 0] == 0 and merge.raw.grad[0, 2] == 0 and merge.raw.grad[0, 1] != 0


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
        close(row.state_dict(), same.state_dict())
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


@pytest.mark.parametrize("name", [*DATA_FREE, "symerge", "pretrained", "individual", "symerge:last_block"])
def test_a_saved_merge_reads_back_as_it_was(name: str, tmp_path: Path) -> None:
    experts = random_experts()
    name, _, layer = name.partition(":")
    about = methods.get(name)
    keywords = {"steps": 1, "batch_size": 8, **({"adapt": layer} if layer else {})} if about.access else {}
    merged = about(experts, *([random_stream(experts.tasks)] if about.access else []), **keywords)
    merged.save(tmp_path / "m.safetensors")
    back = Merged.load(tmp_path / "m.safetensors", experts)
    images = torch.randn(4, 3, 16, 16)
    for task in experts.tasks:
        assert torch.equal(merged.model(task)(images), back.model(task)(images))
    assert (back.storage, back.needs_task) == (merged.storage, merged.needs_task)


def test_storage_counts_what_must_be_kept_beyond_one_model() -> None:
    experts = random_experts(3)
    one = experts.nbytes()
    assert methods.get("task_arithmetic")(experts).storage == 0
    assert methods.get("pretrained")(experts).storage == 0
    assert methods.get("individual")(experts).storage == 2 * one


def test_adapted_heads_move_to_another_merge() -> None:
    experts = random_experts()
    symerge = methods.get("symerge")(experts, random_stream(experts.tasks), steps=2, batch_size=8)
    plain = methods.get("task_arithmetic")(experts)
    moved = plain.with_adapted({t: symerge.adapted(t) for t in experts.tasks})
    assert torch.equal(moved.head("t1").weight, symerge.head("t1").weight)
    assert torch.equal(moved.state_dict()[experts.names[0]], plain.state_dict()[experts.names[0]])
    assert not torch.equal(plain.head("t1").weight, moved.head("t1").weight)


class Numbers:
    """A source whose inputs are the indices."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return index.float(), index


def numbers(level: str = "unlabelled", **keywords: object) -> Stream:
    sources = {"test": {"a": Numbers(10), "b": Numbers(7)}, "train": {"a": Numbers(3), "b": Numbers(3)}}
    return Stream(sources, Access(test=level), **keywords)


def test_a_stream_deals_every_sample_once_before_it_starts_over() -> None:
    stream = numbers()
    first = torch.cat([stream.draw("a", 4).index for _ in range(5)])
    assert sorted(first[:10].tolist()) == list(range(10)) == sorted(first[10:].tolist())
    assert first[:10].tolist() != first[10:].tolist()


def test_draws_depend_on_seed_and_task_and_nothing_else() -> None:
    one, two, other = numbers(seed=3), numbers(seed=3), numbers(seed=4)
    two.draw("b", 5)
    assert torch.equal(one.draw("a", 6).index, two.draw("a", 6).index)
    assert not torch.equal(numbers(seed=3).draw("a", 6).index, other.draw("a", 6).index)


def test_upcoming_foretells_the_draws_without_drawing() -> None:
    for replace in (False, True):
        stream = numbers()
        told = stream.upcoming("a", 3, 2, replace)
        drawn = torch.cat([stream.draw("a", 2, replace).index for _ in range(3)])
        assert told.tolist() == sorted(set(drawn.tolist()))


def test_labels_of_an_unlabelled_split_and_other_splits_are_out_of_reach() -> None:
    assert numbers().draw("a", 2).labels is None
    assert numbers("labelled").draw("a", 2).labels is not None
    with pytest.raises(MergingError, match="its access is unlabelled test"):
        numbers().draw("a", 2, split="train")
    with pytest.raises(MergingError, match="unknown task 'c'"):
        numbers().draw("c", 2)


def test_a_stream_stops_at_the_deadline() -> None:
    with pytest.raises(TimeLimit, match="--time-limit"):
        next(numbers(deadline=0.0).rounds(3))


def test_replayed_batches_come_in_their_order_whatever_is_asked() -> None:
    batches = {"a": torch.arange(12.0).view(3, 4), "b": torch.arange(6.0).view(3, 2)}
    stream = Stream.from_batches(batches, labels={t: b.long() for t, b in batches.items()})
    for k in [0, 1, 2, 0]:
        batch = stream.draw("a", 99)
        assert torch.equal(batch.inputs, batches["a"][k]) and torch.equal(batch.labels, batches["a"][k].long())
        assert batch.index.tolist() == list(range(4 * k, 4 * k + 4))
    assert [r for r in stream.rounds(2)] == [["a", "b"]] * 2


def test_experts_that_do_not_match_are_refused_with_what_differs() -> None:
    base, tuned = golden_states()
    some = next(iter(base))
    short = {k: v for k, v in tuned["t0"].items() if k != some}
    with pytest.raises(MergingError, match=f"missing {some}; extra none"):
        Experts.from_state_dicts(base, {"t0": short})
    with pytest.raises(MergingError, match="extra more"):
        Experts.from_state_dicts(base, {"t0": {**tuned["t0"], "more": torch.zeros(1)}})
    with pytest.raises(MergingError, match=r"has shape \(3,\), the base has \(32,\)"):
        Experts.from_state_dicts(base, {"t0": {**tuned["t0"], some: torch.zeros(3)}})
    spoiled = {**tuned["t0"], some: torch.full((32,), float("nan"))}
    with pytest.raises(MergingError, match=f"expert t0: {some} holds 32 NaN or Inf"):
        methods.get("weight_average")(Experts.from_state_dicts(base, {"t0": spoiled}))
    for part in (float("inf"), float("-inf")):
        spoiled = {**tuned["t0"], some: torch.tensor([part] * 3 + [0.0] * 29)}
        with pytest.raises(MergingError, match=f"expert t0: {some} holds 3 NaN or Inf"):
            methods.get("weight_average")(Experts.from_state_dicts(base, {"t0": spoiled}))
    # Large values whose sum is beyond float32 are finite all the same.
    large = {**base, some: torch.full((32,), 3e38)}
    merged = methods.get("weight_average")(Experts.from_state_dicts(large, {"t0": large}))
    assert torch.equal(merged.state_dict()[some], large[some])
    with pytest.raises(MergingError, match="no experts given"):
        Experts.from_state_dicts(base, {})


def test_lora_experts_are_their_full_rank_task_vectors() -> None:
    base = {"layer.weight": torch.randn(4, 6), "bias": torch.randn(4)}
    a, b = torch.randn(2, 6), torch.randn(4, 2)
    experts = Experts.from_lora(base, {"x": {"layer": (a, b, 0.5)}, "y": {}})
    torch.testing.assert_close(experts.task_vectors("layer.weight")[0], 0.5 * b @ a)
    assert experts.task_vectors("layer.weight")[1].abs().max() == 0
    with pytest.raises(MergingError, match="do not multiply"):
        Experts.from_lora(base, {"x": {"layer": (torch.randn(2, 5), b, 1.0)}})
    with pytest.raises(MergingError, match="merges LoRA adapters"):
        golden_experts().lora("t0")


def test_a_weight_that_the_encoder_uses_twice_is_replaced_in_both_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.second(self.first(inputs))

    encoder = Twice()
    states = [{n: torch.randn(4, 4) for n in encoder.state_dict()} for _ in range(2)]
    experts = Experts.from_state_dicts(states[0], {"t0": states[1]}, encoder=encoder)
    new, inputs = torch.randn(4, 4), torch.randn(3, 4)
    torch.testing.assert_close(experts.forward({"first.weight": new}, "t0", inputs), inputs @ new.T @ new.T)


def test_coefficient_rows_follow_the_encoders_parameters() -> None:
    encoder = Encoder()
    order = list(encoder.state_dict())
    base = {n: t.clone() for n, t in sorted(encoder.state_dict().items())}
    experts = Experts.from_state_dicts(base, {"t": dict(base)}, heads={"t": Head(torch.randn(3, 16))}, encoder=encoder)
    assert list(experts.names) == order


def test_registry_reads_methods_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, methods; methods.names(); methods.describe('symerge'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_what_the_source_says_is_what_the_import_gives() -> None:
    for name in methods.names():
        read, made = methods.describe(name), methods.get(name)
        for field in ("name", "title", "paper", "access", "parameters", "access_if", "grids"):
            assert getattr(read, field) == getattr(made, field), (name, field)
