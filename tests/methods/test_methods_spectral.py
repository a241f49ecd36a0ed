"""Properties of the spectral and interference merges and of their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.odd import hard_experts
from helpers.support import golden_experts, random_experts, random_stream
from torch import Tensor, nn

import methods
from methods import doge, optmerge, wudi
from methods.api import Experts, Merged, MergingError, NotApplicable, Stream
from methods.tools import interference, spectral
from methods.tools.vectors import ceiling

SVD = torch.linalg.svd
DATA_FREE: list[tuple[str, dict[str, Any]]] = [
    ("iso_c", {}),
    ("iso_cts", {}),
    ("iso_cts", {"common_fraction": 0.0}),
    ("tsv_m", {}),
    ("tsv_m", {"keep": 0.5}),
    ("tsv_c", {}),
    ("wudi", {"steps": 20}),
    ("wudi", {"steps": 20, "tensors": "matrices"}),
    ("wudi", {"solver": "closed_form"}),
    ("wudi", {"solver": "auto_rank"}),
    ("optmerge", {"steps": 20}),
    ("optmerge", {"variant": "qwen"}),
    ("doge", {"steps": 20}),
]
IDS = [" ".join([name, *map(str, keywords.values())]) for name, keywords in DATA_FREE]


def merge(name: str, experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    found: Merged = methods.get(name)(experts, stream, **keywords)
    return found


def states(merged: Merged) -> list[dict[str, Tensor]]:
    return [merged.state_dict(task) for task in merged.experts.tasks]


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
@pytest.mark.parametrize(
    ("count", "dtype"), [(1, torch.float32), (2, torch.float16), (3, torch.float32), (9, torch.bfloat16)]
)
def test_odd_tensors_and_any_number_of_tasks_give_finite_models(
    name: str, keywords: dict[str, Any], count: int, dtype: torch.dtype
) -> None:
    experts = hard_experts(count, dtype, width=6)
    for state in states(merge(name, experts, **keywords)):
        assert all(torch.isfinite(t.float()).all() for t in state.values())
        assert state["steps"].item() == 0
        torch.testing.assert_close(state["still"], experts.base["still"].float(), atol=0, rtol=0)


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
def test_experts_equal_to_the_base_give_the_base(name: str, keywords: dict[str, Any]) -> None:
    base = dict(hard_experts(3, width=6).base)
    for state in states(merge(name, Experts.from_state_dicts(base, {f"t{k}": base for k in range(3)}), **keywords)):
        assert all(torch.equal(state[n].float(), t.float()) for n, t in base.items())


@pytest.mark.parametrize(("name", "keywords"), DATA_FREE, ids=IDS)
def test_text_tensors_that_no_expert_changed_leave_the_visual_tower_sound(name: str, keywords: dict[str, Any]) -> None:
    experts = golden_experts("edge_seed0")
    visual = [n for n in experts.names if ".visual." in n]
    alone = Experts.from_state_dicts(
        {n: experts.base[n] for n in visual}, {t: {n: experts.expert(t)[n] for n in visual} for t in experts.tasks}
    )
    for state, same in zip(
        states(merge(name, experts, **keywords)), states(merge(name, alone, **keywords)), strict=True
    ):
        assert not torch.equal(state["model.visual.proj"], experts.base["model.visual.proj"]) or name in (
            "wudi",
            "doge",
        )
        for tensor in experts.names:
            expected = same[tensor] if tensor in visual else experts.base[tensor]
            torch.testing.assert_close(state[tensor], expected, atol=1e-6, rtol=0)


def test_tsv_c_survives_its_file_and_keeps_less_than_the_experts(tmp_path: Path) -> None:
    experts = random_experts(tasks=3)
    merged = merge("tsv_c", experts, scale=0.5)
    merged.save(tmp_path / "merged.safetensors")
    loaded = Merged.load(tmp_path / "merged.safetensors", experts)
    assert loaded.storage == merged.storage and 0 < merged.storage < 3 * experts.nbytes() and merged.needs_task
    for one, other in zip(states(merged), states(loaded), strict=True):
        assert all(torch.equal(one[n], other[n]) for n in one)
    for task in experts.tasks:
        whole = merge("tsv_c", experts, keep=1.0).state_dict(task)
        torch.testing.assert_close(whole, dict(experts.expert(task)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "keywords", "text"),
    [
        ("iso_cts", {"common_fraction": 1.5}, "common_fraction is 1.5"),
        ("tsv_m", {"keep": 0}, "keep is 0"),
        ("tsv_c", {"keep": 2}, "keep is 2"),
        ("wudi", {"solver": "sgd"}, "'adam', 'closed_form', 'auto_rank'"),
        ("wudi", {"rank": 0}, "rank is 0"),
        ("wudi", {"tensors": "all"}, "'blocks', 'weights', 'matrices'"),
        ("optmerge", {"variant": "llava"}, "'internvl', 'qwen'"),
        ("doge", {"keep": 30}, "keep is 30"),
        ("doge", {"subspace": 0.5}, "subspace is 0.5"),
        ("doge", {"coefficients": "learned"}, "'fixed', 'adamerging'"),
        ("doge", {"coefficients": "adamerging"}, "unlabelled test"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(name: str, keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(MergingError, match=text):
        merge(name, golden_experts(), **keywords)


def convolutional() -> Experts:
    """Experts without blocks or linear layers."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    base = encoder.state_dict()
    return Experts.from_state_dicts(
        base, {t: {n: v + 0.1 for n, v in base.items()} for t in ("t0", "t1")}, encoder=encoder
    )


def spectrum(rows: int, columns: int, condition: float, null: int = 0, seed: int = 0) -> Tensor:
    """A float32 matrix whose singular values fall from 1 to 1 / condition, the last ``null`` being 0."""
    generator = torch.Generator().manual_seed(seed)
    small = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(n, small, dtype=torch.float64, generator=generator))[0] for n in (rows, columns)
    )
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), small, dtype=torch.float64)
    values[small - null :] = 0
    return ((left * values) @ right.T).float()


SHAPES = [(40, 25), (200, 200), (420, 200), (200, 420)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("condition", "null"), [(3, 0), (30, 0), (1e3, 0), (1e4, 0), (50, 9)])
def test_decompositions_are_as_near_to_float64_as_the_header_says(
    shape: tuple[int, int], condition: float, null: int
) -> None:
    matrix = spectrum(*shape, condition, null)
    u, s, vh = SVD(matrix.double(), full_matrices=False)
    kept = len(s) - null
    factor, values = spectral.polar(matrix)
    exact = u[:, :kept] @ vh[:kept]
    assert (factor - exact).norm() < 2e-4 * exact.norm()
    torch.testing.assert_close(values.double(), s, atol=2e-6, rtol=0)
    for rank in (0, 1, 20):
        a, b, c = spectral.leading(matrix, rank)
        assert a.shape == (shape[0], rank) and c.shape == (rank, shape[1])
        exact = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert ((a * b) @ c - exact).norm() <= 2e-5 * exact.norm()
        torch.testing.assert_close(a.T @ a, torch.eye(rank), atol=1e-5, rtol=0)
        torch.testing.assert_close(c @ c.T, torch.eye(rank), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e20, 1e30])
def test_decompositions_do_not_depend_on_the_unit(scale: float) -> None:
    matrix = spectrum(420, 200, 10)
    torch.testing.assert_close(spectral.polar(matrix * scale)[0], spectral.polar(matrix)[0], atol=1e-5, rtol=0)
    (a, b, c), (d, e, f) = spectral.leading(matrix * scale, 20), spectral.leading(matrix, 20)
    torch.testing.assert_close((a * (b / scale)) @ c, (d * e) @ f, atol=1e-5, rtol=0)


def wide_experts(count: int = 3) -> Experts:
    """Experts large enough for the quick paths."""
    generator = torch.Generator().manual_seed(1)
    base = {
        "blocks.0.up.weight": torch.randn(420, 200, generator=generator),
        "blocks.0.down.weight": torch.randn(200, 420, generator=generator),
    }
    tuned = {
        f"t{k}": {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in base.items()}
        for k in range(count)
    }
    return Experts.from_state_dicts(base, tuned)


@pytest.mark.parametrize("name", ["iso_c", "iso_cts", "tsv_m", "tsv_c", "optmerge", "wudi"])
def test_a_single_huge_weight_is_merged(name: str) -> None:
    experts = wide_experts()
    huge = {n: t.clone() for n, t in experts.expert("t1").items()}
    huge["blocks.0.up.weight"][3, 5] = 1e20
    merged = merge(name, experts.with_experts({"t1": huge}), **({"steps": 2} if name in ("optmerge", "wudi") else {}))
    assert all(torch.isfinite(t).all() for state in states(merged) for t in state.values())


def test_iso_c_flattens_the_spectrum_of_the_sum_and_nothing_else() -> None:
    experts = wide_experts()
    state = merge("iso_c", experts, scale=0.7).state_dict()
    for name in experts.names:
        change, total = (state[name] - experts.base[name]).double(), experts.task_vectors(name).sum(0).double()
        u, s, vh = SVD(total, full_matrices=False)
        torch.testing.assert_close(SVD(change)[1], torch.full_like(s, 0.7 * s.mean()), atol=1e-4, rtol=0)
        torch.testing.assert_close(change, 0.7 * s.mean() * u @ vh, atol=1e-5, rtol=0)


def test_iso_c_of_a_low_rank_sum_stays_in_its_row_and_column_space() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.zeros(300, 200)
    total = torch.randn(300, 8, generator=generator) @ torch.randn(8, 200, generator=generator)
    state = merge("iso_c", Experts.from_state_dicts({"w": base}, {"t0": {"w": total}})).state_dict()["w"]
    values = SVD(state.double())[1]
    torch.testing.assert_close(
        values[:8], torch.full((8,), float(SVD(total)[1].sum() / 200), dtype=torch.float64), atol=1e-5, rtol=1e-4
    )
    assert float(values[8]) < 1e-4


def plain_tsv(vectors: Tensor) -> Tensor:
    """TSV-M of ``[K, m, n]`` as the paper writes it, in float64."""
    rank = min(vectors.shape[1:]) // len(vectors)
    parts = [SVD(v.double(), full_matrices=False) for v in vectors]
    (a, _, b), (c, _, d) = (
        SVD(x, full_matrices=False)
        for x in (torch.cat([u[:, :rank] for u, _, _ in parts], 1), torch.cat([v[:rank] for _, _, v in parts], 0))
    )
    return (a @ b) @ torch.diag(torch.cat([s[:rank] for _, s, _ in parts])) @ (c @ d)


def plain_iso_cts(vectors: Tensor, common_fraction: float = 0.8) -> Tensor:
    """Iso-CTS of ``[K, m, n]`` as the paper writes it, in float64."""
    vectors, rank = vectors.double(), min(vectors.shape[1:])
    u, s, vh = SVD(vectors.sum(0), full_matrices=False)
    each = round((rank - int(rank * common_fraction)) / len(vectors))
    common = rank - each * len(vectors)
    parts = [SVD(v - u[:, :common] @ u[:, :common].T @ v, full_matrices=False) for v in vectors]
    left = torch.cat([p[0][:, :each] for p in parts] + [u[:, :common]], 1)
    right = torch.cat([p[2][:each] for p in parts] + [vh[:common]], 0)
    values = torch.cat([p[1][:each] for p in parts] + [s[:common]])
    (a, _, b), (c, _, d) = SVD(left, full_matrices=False), SVD(right, full_matrices=False)
    return values.mean() * (a @ b) @ (c @ d)


@pytest.mark.parametrize(("name", "plain"), [("tsv_m", plain_tsv), ("iso_cts", plain_iso_cts)])
def test_quick_paths_give_what_the_plain_form_gives(name: str, plain: Any) -> None:
    experts = wide_experts(5)
    state = merge(name, experts).state_dict()
    for tensor in experts.names:
        change = (state[tensor] - experts.base[tensor]).double()
        expected = plain(experts.task_vectors(tensor))
        assert (change - expected).norm() < 2e-3 * expected.norm()
        torch.testing.assert_close(change, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("width", [32, 192])
def test_tsv_m_keeps_a_direction_that_the_tasks_vectors_all_but_miss(width: int) -> None:
    # Four tasks whose quarters of right vectors all but miss one direction: a singular value of 1e-6.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(width, width, generator=generator, dtype=torch.float64)
    rows[-1] = rows[:-1].mean(0) + 1e-5 * rows[-1]
    tasks, each = {}, width // 4
    for k in range(4):
        right, _ = torch.linalg.qr(rows[k * each : (k + 1) * each].T)
        left, _ = torch.linalg.qr(torch.randn(2 * width, each, generator=generator, dtype=torch.float64))
        tasks[f"t{k}"] = {"w": ((left * torch.linspace(2, 1, each)) @ right.T).float()}
    found = merge("tsv_m", Experts.from_state_dicts({"w": torch.zeros(2 * width, width)}, tasks)).state_dict()["w"]
    parts = [SVD(task["w"].double()) for task in tasks.values()]
    u, v = torch.cat([p[0][:, :each] for p in parts], 1), torch.cat([p[2][:each] for p in parts], 0)
    assert 4e-7 < torch.linalg.svdvals(v)[-1] / torch.linalg.svdvals(v)[0] < spectral.RANK_TOLERANCE
    factors = [left @ right for left, _, right in (SVD(u, full_matrices=False), SVD(v, full_matrices=False))]
    exact = (factors[0] * torch.cat([p[1][:each] for p in parts])) @ factors[1]
    assert (found - exact).norm() / exact.norm() < 0.02


def test_one_task_merged_by_its_own_singular_vectors_is_itself() -> None:
    experts = wide_experts(1)
    torch.testing.assert_close(merge("tsv_m", experts).state_dict(), dict(experts.expert("t0")), atol=2e-5, rtol=0)


def loss(merged: Tensor, vectors: Tensor) -> float:
    """WUDI's interference of a merged vector ``[m, n]`` with ``[K, m, n]``."""
    return float(sum(((merged - v) @ v.T).square().sum() / v.square().sum() for v in vectors))


def test_wudi_lowers_interference_and_its_closed_form_reaches_the_minimum() -> None:
    experts, name = golden_experts(), "model.visual.transformer.resblocks.0.attn.out_proj.weight"
    vectors = experts.task_vectors(name)
    losses = [
        loss(merge("wudi", experts, **k).state_dict()[name] - experts.base[name], vectors)
        for k in ({"steps": 0}, {}, {"solver": "closed_form", "time": 1e9, "rank": 1.0})
    ]
    assert losses[0] > 1.01 * losses[1] > 1.1 * losses[2]
    start = vectors.sum(0).double()
    c, r = wudi.task_moments(experts, name, start)
    merged = interference.filtered(start, (c, r), lambda values: wudi.flow(values, 1e9, 1.0))
    torch.testing.assert_close((merged - start) @ c, -r, atol=1e-6, rtol=0)
    torch.testing.assert_close(2 * r.float(), gradient(vectors), atol=1e-5, rtol=1e-4)


def test_the_closed_forms_solve_directions_that_the_tasks_have_little_of() -> None:
    # C = diag(2, 2e-6): an eigenvalue is a squared singular value, and 1e-3 is none that float32 could not tell.
    vectors = {"t0": torch.tensor([[1.0, 1e-3]]), "t1": torch.tensor([[2.0, -2e-3]])}
    experts = Experts.from_state_dicts({"w": torch.zeros(1, 2)}, {t: {"w": v} for t, v in vectors.items()})
    for solver, expected in (("closed_form", [1.5, -0.3009]), ("auto_rank", [1.5, -500.0])):
        found = merge("wudi", experts, solver=solver).state_dict()["w"][0]
        torch.testing.assert_close(found, torch.tensor(expected), atol=0, rtol=1e-4)


def test_a_share_of_the_directions_is_not_rounded_past_itself() -> None:
    values = torch.ones(100, dtype=torch.float64)
    assert int((wudi.flow(values, 300.0, 0.55) > 0).sum()) == 55, "0.55 * 100 is 55.00000000000001"
    assert int((wudi.truncated(values[:49]) > 0).sum()) == 49
    assert [ceiling(v) for v in (0.0, 1e-9, 6.0, 6.001, 0.07 * 100)] == [0, 1, 6, 7, 7]


@pytest.mark.parametrize("solver", wudi.SOLVERS)
def test_one_expert_does_not_interfere_with_itself(solver: str) -> None:
    experts = random_experts(1)
    merged = merge("wudi", experts, solver=solver).state_dict()
    weight = "model.visual.transformer.resblocks.1.mlp.c_proj.weight"
    torch.testing.assert_close(merged[weight], experts.expert("t0")[weight], atol=1e-7, rtol=0)


def gradient(vectors: Tensor) -> Tensor:
    """The gradient of the interference at the sum, by autograd."""
    merged = vectors.sum(0).requires_grad_(True)
    total = sum(((merged - v) @ v.T).square().sum() / v.square().sum() for v in vectors)
    (found,) = torch.autograd.grad(total, merged)  # type: ignore[arg-type]
    return found


def test_only_what_a_rule_names_is_merged() -> None:
    experts = hard_experts(3, width=6)
    base = experts.base
    wrote = {
        name: {
            n for n, t in merge(name, experts, **keywords).state_dict().items() if not torch.equal(t, base[n].float())
        }
        for name, keywords in (("wudi", {"steps": 2}), ("doge", {"steps": 2}))
    }
    blocks = {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight"}
    assert wrote == {"wudi": blocks, "doge": blocks}
    state = merge("optmerge", experts, steps=2, scale=1.0).state_dict()
    assert torch.equal(state["blocks.1.norm.weight"], base["blocks.1.norm.weight"])
    mean = merge("weight_average", experts).state_dict()
    torch.testing.assert_close(state["conv.weight"], mean["conv.weight"])
    plain = convolutional()
    bare = Experts.from_state_dicts(plain.base, {t: plain.expert(t) for t in plain.tasks})
    for name in ("wudi", "doge"):
        found = merge(name, bare).state_dict()["0.weight"]
        torch.testing.assert_close(found, mean_or_base(name, plain)["0.weight"])
    with pytest.raises(NotApplicable, match="linear layers"):
        merge("wudi", plain)


def mean_or_base(name: str, experts: Experts) -> dict[str, Tensor]:
    found: dict[str, Tensor] = methods.get("weight_average" if name == "wudi" else "pretrained")(experts).state_dict()
    return found


def test_descent_done_at_once_is_the_descent_step_by_step() -> None:
    experts, name = golden_experts(), "model.visual.proj"
    start = experts.task_vectors(name).mean(0)
    c, r = interference.moments(start, optmerge.terms(experts, name, centred=False))
    merged = nn.Parameter(start.clone())
    optimiser = torch.optim.SGD([merged], lr=1e-4, momentum=0.9)
    for _ in range(300):
        merged.grad = 2 * ((merged.detach() - start) @ c + r)
        optimiser.step()
    found = interference.filtered(start, (c, r), lambda values: optmerge.momentum(values, 300))
    torch.testing.assert_close(found, merged.detach(), atol=1e-7, rtol=0)
    assert (found - start).abs().max() > 1e-3


def test_doge_descends_the_papers_loss_off_the_shared_subspace() -> None:
    experts, name = golden_experts(), "model.visual.transformer.resblocks.1.mlp.c_fc.weight"
    vectors = experts.task_vectors(name)
    weights = 0.07 / vectors.flatten(1).norm(dim=1)
    shared = doge.shared_subspace(experts, name, vectors, subspace=6)
    torch.testing.assert_close(shared.T @ shared, torch.eye(5), atol=1e-5, rtol=0)

    def papers(change: Tensor) -> Tensor:
        merged = torch.tensordot(weights, vectors + change, 1)
        return ((vectors * (vectors - merged)).sum(2) ** 2).sum()

    change = torch.zeros_like(vectors[0]).requires_grad_(True)
    (slope,) = torch.autograd.grad(papers(change), change)
    free = slope - shared @ (shared.T @ slope)
    one = doge.modification(vectors, weights, shared, steps=1, lr=1e-4)
    clear = free.abs() > 1e-3 * free.abs().max()
    torch.testing.assert_close(one[clear], -1e-4 * free.sign()[clear], atol=1e-6, rtol=0)
    many = doge.modification(vectors, weights, shared, steps=100, lr=1e-4)
    assert papers(many) < 0.99 * papers(torch.zeros_like(many))


def test_doge_learns_coefficients_on_unlabelled_samples_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doge.ADAMERGING, "steps", 5)
    experts = random_experts(tasks=2)
    stream = random_stream(experts.tasks, draws=2, size=4)
    about = methods.describe("doge")
    assert not about.access and about.access_for({"coefficients": "adamerging"}).describe() == "unlabelled test"
    merged = merge("doge", experts, stream, coefficients="adamerging", steps=2)
    found = merged.trace["coefficients"]
    assert found.shape == (8, 2) and len(merged.trace["losses"]) == 5 and float(found.std()) > 0
    fixed = merge("doge", experts, steps=2).state_dict()
    assert any(not torch.equal(t, fixed[n]) for n, t in merged.state_dict().items())


def test_doge_modifies_entries_that_no_fine_tuning_changed() -> None:
    """The mask is of all that reach the threshold; where most entries are 0 that is 0, and the change applies there."""
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(12, 12, generator=generator)}
    vectors = torch.randn(3, 12, 12, generator=generator) * (torch.rand(3, 12, 12, generator=generator) < 0.2)
    experts = Experts.from_state_dicts(base, {f"t{k}": {"w": base["w"] + v} for k, v in enumerate(vectors)})
    merged = methods.get("doge")(experts, steps=20, keep=0.3).state_dict()["w"] - base["w"]
    exact = experts.task_vectors("w")
    weights = 0.07 / exact.flatten(1).norm(dim=1)
    change = doge.modification(exact, weights, doge.shared_subspace(experts, "w", exact, 6), 20, 1e-4)
    torch.testing.assert_close(merged, torch.tensordot(weights, exact + change, 1), atol=1e-5, rtol=1e-4)
    assert float(merged[(exact == 0).all(0)].abs().max()) > 1e-6


@pytest.mark.parametrize("name", ["vision_model.pre_layrnorm.weight", "block.rmsnorm.weight", "h.0.prenorm.weight"])
def test_norms_are_left_alone_whatever_their_name(name: str) -> None:
    base = {name: torch.ones(4), "layers.0.fc.weight": torch.zeros(4, 4)}
    tuned = {t: {name: torch.full((4,), 1.2), "layers.0.fc.weight": torch.randn(4, 4)} for t in ("a", "b")}
    experts = Experts.from_state_dicts(base, tuned)
    for method, keywords in (("optmerge", {"steps": 1}), ("wudi", {"solver": "closed_form"})):
        assert torch.equal(methods.get(method)(experts, **keywords).state_dict()[name], base[name])


@pytest.mark.parametrize("time", [300.0, 1e6, 1e12])
def test_the_closed_form_leaves_directions_that_no_task_has(time: float) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(40, 2, generator=generator) @ torch.randn(2, 30, generator=generator) for _ in range(3)]
    base = torch.zeros(40, 30)
    experts = Experts.from_state_dicts({"w": base}, {f"t{k}": {"w": v} for k, v in enumerate(vectors)})
    found = methods.get("wudi")(experts, solver="closed_form", time=time, rank=1.0).state_dict()["w"].double()
    exact = [v.double() for v in vectors]
    grams = [v.T @ v / v.square().sum() for v in exact]
    values, axes = torch.linalg.eigh(sum(grams))
    kept = values > 1e-9
    pull = sum(v @ g for v, g in zip(exact, grams, strict=True)) - sum(exact) @ sum(grams)
    answer = torch.where(kept, -torch.expm1(-time * values) / values.where(kept, 1.0), 0.0)
    torch.testing.assert_close(found, sum(exact) + (pull @ axes) * answer @ axes.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(12, 10), (10, 10), (10, 12)])
def test_iso_cts_of_a_rank_deficient_sum_turns_with_its_inputs(shape: tuple[int, int]) -> None:
    """Directions that the sum lacks are arbitrary and must not decide what the tasks add."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(0)
    first, total = (
        torch.randn(rows, r, generator=generator) @ torch.randn(r, columns, generator=generator) for r in (2, 3)
    )
    turns = [torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in shape]

    def merged(one: Tensor, two: Tensor) -> Tensor:
        experts = Experts.from_state_dicts({"w": torch.zeros(shape)}, {"a": {"w": one}, "b": {"w": two}})
        state: Tensor = methods.get("iso_cts")(experts).state_dict()["w"]
        return state

    plain = merged(first, total - first)
    turned = merged(turns[0] @ first @ turns[1], turns[0] @ (total - first) @ turns[1])
    torch.testing.assert_close(turned, turns[0] @ plain @ turns[1], atol=1e-4 * float(plain.norm()), rtol=0)
