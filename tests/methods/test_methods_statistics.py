"""Merges that need a few samples: what is collected, the equations they solve, and their edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.support import golden_experts, golden_states, random_experts, random_stream
from torch import Tensor, nn

import methods
from methods import esm, fisher, lot, regmean
from methods.api import Experts, Merged, MergingError, Stream
from methods.tools.activations import layers, observe, samples
from methods.tools.fisher_information import fisher_information, signs

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("esm", {"proxies": 8}),
    ("lot", {"examples": 8}),
    ("regmean", {"examples": 16}),
    ("fisher", {"examples": 4}),
]


def merge(name: str, experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    found: Merged = methods.get(name)(experts, stream, **keywords)
    return found


@pytest.mark.parametrize(("name", "keywords"), METHODS)
def test_an_expert_that_learned_nothing_gives_no_nan(name: str, keywords: dict[str, Any]) -> None:
    experts = random_experts()
    still = Experts.from_state_dicts(
        experts.base,
        {"t0": experts.base, "t1": experts.expert("t1")},
        heads={t: experts.heads[t] for t in ("t0", "t1")},
        encoder=experts.encoder,
    )
    stream = random_stream(still.tasks)
    state = merge(name, still, stream, **keywords).state_dict()
    weight = "model.visual.transformer.resblocks.1.mlp.c_fc.weight"
    assert not torch.equal(state[weight], experts.base[weight])


def test_tensors_that_the_encoder_does_not_run_have_no_fisher_information() -> None:
    experts = random_experts(2)
    more = {"text_projection": torch.ones(3, 2), "logit_scale": torch.tensor(2.0)}
    wide = Experts.from_state_dicts(
        {**experts.base, **more},
        {t: {**experts.expert(t), **{n: v + k for n, v in more.items()}} for k, t in enumerate(experts.tasks)},
        heads=experts.heads,
        encoder=experts.encoder,
    )
    state = merge("fisher", wide, random_stream(wide.tasks), examples=4, normalise=None).state_dict()
    assert all(torch.allclose(state[n], v + 0.5) for n, v in more.items())


def test_bad_statistics_are_named() -> None:
    experts, gram = golden_experts(), torch.eye(32)
    with pytest.raises(MergingError, match="reduce is 2"):
        regmean.from_grams(experts, {t: {} for t in experts.tasks}, reduce=2)
    with pytest.raises(MergingError, match="no tensor or module"):
        regmean.from_grams(experts, {t: {"visual.head": gram} for t in experts.tasks})
    with pytest.raises(MergingError, match=r"\[in, in\]"):
        regmean.from_grams(experts, {t: {"model.visual.proj": torch.eye(3)} for t in experts.tasks})
    with pytest.raises(MergingError, match="expected one entry for each"):
        regmean.from_grams(experts, {"t0": {}})
    with pytest.raises(MergingError, match="no Fisher values"):
        fisher.from_fisher(experts, [{}] * 4)
    with pytest.raises(MergingError, match="encoder=module"):
        merge("regmean", experts, random_stream(experts.tasks))
    with pytest.raises(MergingError, match="numbered blocks"):
        merge("esm", without_blocks(), random_stream(["t0", "t1"]))


def without_blocks() -> Experts:
    """Experts with a matrix, but no numbered blocks."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    base = encoder.state_dict()
    return Experts.from_state_dicts(base, {"t0": base, "t1": base}, encoder=encoder)


def observed(experts: Experts, images: Tensor) -> dict[str, Tensor]:
    """Inputs of every layer that can be observed, of task t0."""
    found: dict[str, Tensor] = {}
    wanted = [n for kind in ("linear", "projection", "norm") for n in layers(experts, kind)]
    stream = Stream.from_batches({"t0": images[None]})
    observe(experts, "t0", samples(stream, "t0", len(images)), wanted, found.__setitem__)
    return found


def test_layers_are_given_what_the_forward_pass_gives_them() -> None:
    experts = random_experts()
    assert experts.encoder is not None
    images, state = torch.randn(6, 3, 16, 16), dict(experts.expert("t0"))
    encoder = experts.encoder
    encoder.load_state_dict(state)
    seen: dict[str, Any] = {}
    handles = [
        m.register_forward_hook(lambda m, args, out, path=path: seen.__setitem__(path, (args, out)))
        for path, m in encoder.named_modules()
    ]
    with torch.no_grad():
        encoder(images)
    for handle in handles:
        handle.remove()
    found = observed(experts, images)
    block = "model.visual.transformer.resblocks.1"
    assert {
        f"{block}.{n}"
        for n in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight", "ln_1.weight")
    } <= found.keys() and len(found) == 14
    attention = found[f"{block}.attn.out_proj.weight"] @ state[f"{block}.attn.out_proj.weight"].T
    attention += state[f"{block}.attn.out_proj.bias"]
    torch.testing.assert_close(attention, seen[f"{block}.attn"][1][0].reshape(-1, 32), atol=1e-5, rtol=1e-4)
    for layer, weight in (
        ("attn", "attn.in_proj_weight"),
        ("mlp.c_fc", "mlp.c_fc.weight"),
        ("mlp.c_proj", "mlp.c_proj.weight"),
    ):
        inputs = seen[f"{block}.{layer}"][0]
        expected = (inputs[0] if inputs else seen[f"{block}.ln_1"][1]).reshape(-1, found[f"{block}.{weight}"].shape[1])
        torch.testing.assert_close(found[f"{block}.{weight}"], expected, atol=1e-5, rtol=1e-4)
    scaled = found[f"{block}.ln_1.weight"] * state[f"{block}.ln_1.weight"] + state[f"{block}.ln_1.bias"]
    torch.testing.assert_close(scaled, seen[f"{block}.ln_1"][1].reshape(-1, 32), atol=1e-5, rtol=1e-4)


def test_observing_leaves_the_encoder_as_it_was() -> None:
    experts = random_experts()
    assert experts.encoder is not None
    experts.encoder.train()
    before = {n: t.clone() for n, t in experts.encoder.state_dict().items()}
    kept = {n: t.clone() for n, t in experts.expert("t0").items()}
    observed(experts, torch.randn(2, 3, 16, 16))
    next(fisher_information(experts, random_stream(["t0"]), 2))
    assert all(m.training and not m._forward_pre_hooks for m in experts.encoder.modules())
    assert all(torch.equal(t, before[n]) for n, t in experts.encoder.state_dict().items())
    assert all(torch.equal(t, kept[n]) and not t.requires_grad for n, t in experts.expert("t0").items())


def given_grams(experts: Experts, rows: int, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Gram matrices of random inputs for the MLP weights, and energies for a norm."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        n: torch.randn(len(experts), rows, experts.base[n].shape[1], generator=generator, dtype=torch.float64)
        for n in experts.names
        if "mlp" in n and n.endswith("weight")
    }
    norm = "model.visual.ln_post.weight"
    return {
        t: {**{n: x[k].T @ x[k] for n, x in inputs.items()}, norm: (k + 1.0) * torch.arange(32.0)}
        for k, t in enumerate(experts.tasks)
    }


@pytest.mark.parametrize("rows", [4, 200])
def test_lot_satisfies_its_normal_equations(rows: int) -> None:
    experts = golden_experts()
    grams = given_grams(experts, rows)
    state = lot.from_grams(experts, grams).state_dict()
    for name in (n for n in grams["t0"] if "mlp" in n):
        change, vectors = (state[name] - experts.base[name]).double(), experts.task_vectors(name).double()
        matrices = torch.stack([grams[t][name] for t in experts.tasks])
        torch.testing.assert_close(change @ matrices.sum(0), (vectors @ matrices).sum(0), atol=2e-4, rtol=1e-4)
        unseen = torch.linalg.eigh(matrices.sum(0))
        free = unseen.eigenvectors[:, unseen.eigenvalues < 1e-6]
        assert free.shape[1] == max(0, change.shape[1] - 4 * rows)
        torch.testing.assert_close(change @ free, torch.zeros_like(change @ free), atol=1e-6, rtol=0)
    norm = "model.visual.ln_post.weight"
    vectors, weight = experts.task_vectors(norm), torch.tensor([1.0, 2.0, 3.0, 4.0]) / 10
    expected = (vectors * weight[:, None]).sum(0)
    expected[0] = vectors[:, 0].mean()
    torch.testing.assert_close(state[norm] - experts.base[norm], expected, atol=1e-6, rtol=0)
    bias = "model.visual.ln_post.bias"
    torch.testing.assert_close(state[bias], merge("weight_average", experts).state_dict()[bias])


def test_lot_is_the_best_of_its_neighbours_on_its_own_samples() -> None:
    experts, name = random_experts(), "model.visual.transformer.resblocks.0.attn.in_proj_weight"
    stream = random_stream(experts.tasks)
    inputs = {}
    for k, task in enumerate(experts.tasks):
        observe(
            experts,
            task,
            samples(stream, task, 8),
            [name],
            lambda n, rows, k=k: inputs.__setitem__(k, rows),
        )
    merged = merge("lot", experts, random_stream(experts.tasks), examples=8).state_dict()[name] - experts.base[name]
    vectors = experts.task_vectors(name)

    def drift(change: Tensor) -> float:
        return float(sum((inputs[k] @ (change - vectors[k]).T).square().sum() for k in range(len(experts))))

    torch.manual_seed(0)
    best = drift(merged)
    assert all(best < drift(merged + 0.01 * torch.randn_like(merged)) for _ in range(5))
    assert best < 0.999 * drift(vectors.mean(0))


def test_regmean_recovers_a_common_expert_and_leaves_unseen_directions_at_the_base() -> None:
    experts = golden_experts()
    same = Experts.from_state_dicts(experts.base, {t: experts.expert("t0") for t in experts.tasks})
    found = regmean.from_grams(
        same, {t: {n: g for n, g in m.items() if g.ndim == 2} for t, m in given_grams(same, 200).items()}
    )
    torch.testing.assert_close(found.state_dict(), dict(experts.expert("t0")), atol=1e-5, rtol=0)
    name = "model.visual.transformer.resblocks.0.mlp.c_fc.weight"
    gram = torch.zeros(32, 32)
    gram[0, 0] = 1.0
    state = regmean.from_grams(experts, [{name: gram}] * 4, reduce=1.0).state_dict()[name]
    torch.testing.assert_close(state[:, 1:], experts.base[name][:, 1:], atol=1e-7, rtol=0)
    torch.testing.assert_close(
        state[:, 0], merge("weight_average", experts).state_dict()[name][:, 0], atol=1e-6, rtol=0
    )


def test_regmean_leaves_in_projections_at_the_mean_as_its_authors_do() -> None:
    experts = random_experts()
    state = merge("regmean", experts, random_stream(experts.tasks), examples=64).state_dict()
    mean = merge("weight_average", experts).state_dict()
    fitted = {n for n in state if not torch.allclose(state[n], mean[n], atol=1e-6)}
    block = {"attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
    assert fitted == {f"model.visual.transformer.resblocks.{i}.{n}" for i in (0, 1) for n in block}


def classes_or_values(experts: Experts, task: str, image: Tensor, name: str) -> Tensor:
    """The exact Fisher information of one tensor on one image: a backward pass for every class, or output."""
    leaf = experts.expert(task)[name].clone().requires_grad_(True)
    output = experts.head(task)(experts.forward({**experts.expert(task), name: leaf}, task, image))[0]
    if experts.kind(task) == "classification":
        weights, output = output.softmax(0).detach(), output.log_softmax(0)
    else:
        weights = torch.ones(len(output))
    slopes = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in output]
    return sum((w * g.square() for w, g in zip(weights, slopes, strict=True)), torch.zeros_like(leaf))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_fisher_values_are_the_expectation_over_the_experts_own_predictions(kind: str) -> None:
    experts = random_experts(tasks=2, kinds={"t1": kind})
    images, name = torch.randn(3, 3, 16, 16), "model.visual.conv1.weight"
    exact = torch.stack([classes_or_values(experts, "t1", image[None], name) for image in images])
    repeated = images.repeat_interleave(8, 0)[None]
    found = dict(fisher_information(experts, Stream.from_batches({"t0": repeated, "t1": repeated}), 24))
    torch.testing.assert_close(found["t1"][name], exact.mean(0), atol=1e-5 * float(exact.max()), rtol=1e-3)
    assert not torch.allclose(found["t0"][name], found["t1"][name], rtol=0.1)
    stream = random_stream(experts.tasks)
    values = dict(fisher_information(experts, stream, 3))
    merged = merge("fisher", experts, random_stream(experts.tasks), examples=3).state_dict()
    torch.testing.assert_close(merged, fisher.from_fisher(experts, values).state_dict())


def test_signs_cancel_between_any_two_entries() -> None:
    rows = torch.stack([signs(torch.tensor(n), 20) for n in range(5, 37)]).float()
    torch.testing.assert_close(rows.T @ rows, 32 * torch.eye(20))


def test_an_encoder_that_cannot_be_batched_has_the_same_fisher_values(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = random_experts(tasks=1)
    stream = [random_stream(experts.tasks, draws=2, size=3) for _ in range(2)]
    quick = dict(fisher_information(experts, stream[0], 5))["t0"]

    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(torch.func, "vmap", refused)
    slow = dict(fisher_information(experts, stream[1], 5))["t0"]
    for name, value in quick.items():
        torch.testing.assert_close(value, slow[name], atol=1e-6 * float(value.max()), rtol=1e-3)


def test_fisher_weights_decide_and_their_absence_means_the_mean() -> None:
    experts = golden_experts()
    one = [{n: torch.full_like(experts.base[n], float(k == 2)) for n in experts.names} for k in range(4)]
    state = fisher.from_fisher(experts, one, floor=0.0, normalise="param").state_dict()
    torch.testing.assert_close(state, dict(experts.expert("t2")), atol=1e-6, rtol=0)
    none = [{n: torch.zeros_like(experts.base[n]) for n in experts.names}] * 4
    for normalise in ("model", "param", None):
        for floor in (0.0, 1e-6):
            state = fisher.from_fisher(experts, none, floor=floor, normalise=normalise).state_dict()
            torch.testing.assert_close(state, merge("weight_average", experts).state_dict(), atol=1e-6, rtol=0)


def test_esm_scales_only_the_weights_that_have_an_essential_subspace() -> None:
    experts = random_experts()
    one, half = (
        merge("esm", experts, random_stream(experts.tasks), proxies=8, scale=s).state_dict() for s in (1.0, 0.5)
    )
    essential = set(esm.essential_weights(experts))
    assert len(essential) == 6 and all(
        n.endswith(("in_proj_weight", "c_fc.weight", "c_proj.weight")) for n in essential
    )
    for name in experts.names:
        factor = 0.5 if name in essential else 1.0
        torch.testing.assert_close(
            half[name] - experts.base[name], factor * (one[name] - experts.base[name]), atol=1e-6, rtol=0
        )
    assert methods.describe("esm").access_for({"scale": "val"}).describe() == "labelled val"


def test_esm_needs_no_more_of_its_samples_than_their_gram_matrix() -> None:
    torch.manual_seed(0)
    rows = torch.randn(500, 32) @ torch.randn(32, 32)
    vector = golden_states()[1]["t0"]["model.visual.transformer.resblocks.0.mlp.c_fc.weight"]
    small = esm.compressed(rows, most=1000)
    assert small.shape == (32, 32) and esm.compressed(rows) is rows
    for rank in (8, len(vector)):
        (a, b, c), (d, e, f) = esm.essential(vector, rows, rank), esm.essential(vector, small, rank, len(rows))
        torch.testing.assert_close(a @ b, d @ e, atol=1e-4, rtol=1e-3)
        assert torch.equal(c, f) and a.shape == d.shape == (len(vector), rank)


@pytest.mark.parametrize("rows", [3, 20, 40])
def test_esm_of_few_samples_pads_as_the_authors_do(rows: int) -> None:
    torch.manual_seed(rows)
    outputs, inputs, rank = 24, 10, 6
    vector, given = torch.randn(outputs, inputs), torch.randn(rows, inputs)
    _, s, vh = torch.linalg.svd(given.double() @ vector.T.double(), full_matrices=False)
    directions = torch.eye(outputs, dtype=torch.float64)
    directions[:, : len(s)] = vh.T
    sizes = torch.zeros(outputs, dtype=torch.float64)
    sizes[: len(s)] = s.square()
    sizes[inputs:] = 0
    weight = (sizes[:rank] / sizes[:rank].mean()) ** 0.15
    weight = weight / weight.mean()
    left = directions[:, :rank] * weight
    found = esm.essential(vector, given, rank)
    if rows > inputs:
        again = esm.essential(vector, esm.compressed(given, most=0), rank, rows)
        torch.testing.assert_close(again[2], found[2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again[0] @ again[1], found[0] @ found[1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found[0] @ found[1], (left @ (left.T @ vector.double())).float(), atol=1e-4, rtol=1e-3)
    norm = (
        vector.double().norm()
        if rows >= outputs
        else (directions.T[[*range(min(rows, inputs)), *range(min(rows, outputs), outputs)]] @ vector.double()).norm()
    )
    torch.testing.assert_close(found[2], norm.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("inputs", "rows"), [(8, 2), (64, 8), (256, 64)])
def test_gram_matrices_of_few_samples_in_float32_are_inverted_where_there_is_something(inputs: int, rows: int) -> None:
    torch.manual_seed(inputs)
    base = {"fc.weight": torch.zeros(5, inputs)}
    experts = Experts.from_state_dicts(base, {t: {"fc.weight": 0.1 * torch.randn(5, inputs)} for t in ("a", "b")})
    samples = [torch.randn(rows, inputs) for _ in range(2)]
    grams = [x.T @ x for x in samples]
    vectors = experts.task_vectors("fc.weight").double()
    exact = [x.T.double() @ x.double() for x in samples]
    expected = sum(v @ g for v, g in zip(vectors, exact, strict=True)) @ torch.linalg.pinv(sum(exact))
    for name in ("lot", "regmean"):
        keywords = {"reduce": 1.0} if name == "regmean" else {}
        found = methods.get(name).from_grams(experts, [{"fc.weight": g} for g in grams], **keywords)
        torch.testing.assert_close(found.state_dict()["fc.weight"], expected.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalise", ["model", "param"])
def test_small_fisher_values_are_normalised_beside_the_floor(normalise: str) -> None:
    torch.manual_seed(0)
    base = {"w": torch.zeros(4), "v": torch.zeros(3)}
    tuned = {t: {n: torch.randn(s.shape) for n, s in base.items()} for t in ("a", "b")}
    values = {t: {n: size * torch.rand(s.shape) for n, s in base.items()} for t, size in (("a", 1e-6), ("b", 3e-5))}
    state = fisher.from_fisher(Experts.from_state_dicts(base, tuned), values, normalise=normalise).state_dict()
    for name in base:
        weights = {}
        for task, given in values.items():
            parts = [given[name]] if normalise == "param" else list(given.values())
            weights[task] = (given[name] + 1e-6) / (torch.cat(parts).norm() + 1e-6)
        expected = sum(weights[t] * tuned[t][name] for t in tuned) / sum(weights.values())
        torch.testing.assert_close(state[name], expected, atol=1e-6, rtol=1e-5)
