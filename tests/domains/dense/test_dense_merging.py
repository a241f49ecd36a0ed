"""Merging of convolutional encoders with batch normalisation under dense heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.dense import CLASSES, KINDS, SHAPE, DenseSource, images, tiny_experts
from torch import nn

import methods
from benchmark.domains.dense.batchnorm import reestimate
from benchmark.domains.dense.model import Decoder, Encoder
from benchmark.suites import Suite
from methods.api import Experts, Merged, NotApplicable, Stream, last_block
from methods.surgery import Correction

SMALL = {"steps": 2, "batch_size": 4, "examples": 6, "proxies": 4}


def merge(name: str, experts: Experts, **keywords: object) -> Merged:
    about = methods.describe(name)
    chosen = {**{k: v for k, v in SMALL.items() if k in about.parameters}, **keywords}
    access = about.access_for(chosen)
    sources = {split: {task: DenseSource(task) for task in experts.tasks} for split, _ in access.items()}
    found: Merged = methods.get(name)(experts, Stream(sources, access) if access else None, **chosen)
    return found


MERGED_STATISTICS = ("task_arithmetic", "ties", "symerge", "surgery", "fisher", "twin", "joint")


@pytest.mark.parametrize(
    ("name", "merged_statistics"), [*((n, False) for n in methods.names()), *((n, True) for n in MERGED_STATISTICS)]
)
def test_every_method_gives_finite_maps_or_says_why_not(name: str, merged_statistics: bool) -> None:
    experts = tiny_experts(merged_statistics)
    try:
        merged = merge(name, experts)
    except NotApplicable as error:
        assert len(str(error)) > 20 and "\n" not in str(error)
        return
    merged = reestimate(merged, DenseSource("depth"), 6)
    for task, channels in zip(KINDS, (CLASSES, 1, 3), strict=True):
        with torch.no_grad():
            out = merged.model(task)(images())
        assert out.shape == (6, channels, *SHAPE.size) and bool(torch.isfinite(out).all()), task


def test_methods_of_matrices_and_entropies_are_left_out_where_there_are_none() -> None:
    experts = tiny_experts()
    with pytest.raises(NotApplicable, match="'depth' is a depth task"):
        merge("adamerging", experts)
    with pytest.raises(NotApplicable, match="linear layers"):
        merge("tsv_m", experts)
    with pytest.raises(NotApplicable, match="adapters"):
        merge("robustmerge", experts)


def test_statistics_are_no_task_vectors_unless_the_protocol_merges_them() -> None:
    assert "bn1.running_var" not in tiny_experts().names
    assert "bn1.weight" in tiny_experts().names
    assert {"bn1.running_mean", "bn1.running_var"} <= set(tiny_experts(True).names)


def test_estimated_statistics_are_those_of_the_merged_layers_inputs() -> None:
    experts = tiny_experts()
    merged = merge("task_arithmetic", experts)
    source = DenseSource("depth", 6)
    found = reestimate(merged, source, 6).statistics["all"]
    state = merged.state_dict()
    maps = nn.functional.conv2d(source.images, state["conv1.weight"], stride=2, padding=3)
    assert torch.allclose(found["bn1.running_mean"], maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(found["bn1.running_var"], maps.var((0, 2, 3)), rtol=1e-4)
    assert not torch.allclose(found["bn1.running_mean"], experts.base["bn1.running_mean"], atol=1e-2)


def test_tasks_with_encoders_of_their_own_get_statistics_of_their_own() -> None:
    found = reestimate(merge("emr", tiny_experts()), DenseSource("depth"), 6)
    assert set(found.statistics) == set(KINDS)
    first, second = (found.statistics[t]["layer4.0.bn3.running_mean"] for t in ("depth", "normals"))
    assert not torch.equal(first, second)
    assert found.model("depth").encoder.layer4[0].bn3.running_mean.equal(first)


def test_a_merge_without_statistics_does_not_use_those_of_the_base() -> None:
    experts = tiny_experts()
    merged = merge("weight_average", experts)
    with torch.no_grad():
        before = merged.model("depth")(images())
        through = experts.forward(merged.shared, "depth", images())
        assert torch.allclose(merged.model("depth").encoder(images()), through, atol=1e-6)
    spoilt = {n: t + 9 if "running" in n else t for n, t in experts.base.items()}
    other = Experts(
        spoilt,
        {t: experts.expert(t) for t in experts.tasks},
        heads=experts.heads,
        encoder=experts.encoder,
        kinds=KINDS,
        statistics=experts.statistics,
    )
    with torch.no_grad():
        assert torch.equal(Merged(other, merged.shared).model("depth")(images()), before)


def test_an_expert_runs_on_its_own_statistics() -> None:
    experts = tiny_experts()
    plain = Encoder(SHAPE).eval()
    plain.load_state_dict(dict(experts.expert("normals")))
    with torch.no_grad():
        assert torch.equal(experts.forward(experts.state("normals"), "normals", images()), plain(images()))


def test_running_statistics_survive_a_forward_pass_without_them() -> None:
    experts = tiny_experts()
    assert isinstance(experts.encoder, Encoder)
    before = experts.encoder.bn1.running_mean.clone()
    experts.forward({}, "depth", images())
    assert torch.equal(experts.encoder.bn1.running_mean, before)


def test_merged_variances_below_zero_give_no_nan() -> None:
    experts = tiny_experts(merge_statistics=True)
    shrunk = {n: t * 0.1 if n.endswith("running_var") else t for n, t in experts.expert("depth").items()}
    experts = Experts(
        experts.base,
        {"depth": shrunk, "normals": shrunk, "segmentation": shrunk},
        heads=experts.heads,
        encoder=experts.encoder,
        kinds=KINDS,
    )
    merged = merge("task_arithmetic", experts, scale=1.0)
    assert bool((merged.shared["bn1.running_var"] < 0).all()), "the case would be vacuous"
    with torch.no_grad():
        assert bool(torch.isfinite(merged.model("depth")(images())).all())
        assert bool(torch.isfinite(experts.forward(merged.shared, "depth", images())).all())


def test_statistics_are_saved_and_read_back(tmp_path: Path) -> None:
    experts = tiny_experts()
    merged = reestimate(merge("emr", experts), DenseSource("depth"), 6)
    merged.save(tmp_path / "merged.safetensors")
    again = Merged.load(tmp_path / "merged.safetensors", experts)
    for task in KINDS:
        with torch.no_grad():
            assert torch.equal(again.model(task)(images()), merged.model(task)(images()))


def test_the_last_block_of_a_resnet_is_found() -> None:
    names = tiny_experts().names
    assert last_block(names) == tuple(n for n in names if n.startswith("layer4.0."))
    assert last_block(["layer4.2.conv1.weight", "layer4.10.conv1.weight", "layer3.22.conv1.weight"]) == (
        "layer4.10.conv1.weight",
    )


def test_symerge_adapts_the_decoders_last_layer_only() -> None:
    experts = tiny_experts()
    merged = merge("symerge", experts, steps=3)
    for task in KINDS:
        for name, value in experts.head(task).state_dict().items():
            assert torch.equal(merged.heads[task][name], value) != name.startswith(Decoder.LAST), name
    classifier = [5 * CLASSES, 5 * 1, 5 * 3]
    assert merged.trace["trainable"] == sum(classifier) + 3 * len(experts.names)


def test_symerge_adapts_the_last_block_of_a_resnet() -> None:
    merged = merge("symerge", tiny_experts(), adapt="last_block")
    assert all(n.startswith("layer4.0.") for n in merged.layers["depth"])
    assert not merged.heads and merged.needs_task


def test_a_correction_of_maps_works_at_every_position() -> None:
    module = Correction(5, 3, torch.Generator().manual_seed(0))
    nn.init.normal_(module.up)
    maps = torch.randn(2, 5, 3, 4)
    out = module(maps)
    assert out.shape == maps.shape
    assert torch.allclose(out[1, :, 2, 3], module(maps[1, :, 2, 3]), atol=1e-6)
    assert not torch.allclose(out, maps)


def test_the_protocol_of_statistics_is_part_of_the_identity() -> None:
    def suite(**keywords: object) -> Suite:
        return Suite(
            name="s", version=2, title="", domain="dense", scale="mini", tasks=[], backbones=[], families=[],
            methods=[], **keywords,
        )  # fmt: skip

    found = [suite(), suite(batchnorm="merge"), suite(batchnorm="reestimate"), suite(batchnorm="reestimate",
                                                                                      batchnorm_images=9)]  # fmt: skip
    assert suite().identity == "2", "suites without such statistics keep the identity they had"
    assert len({s.identity for s in found}) == 4
