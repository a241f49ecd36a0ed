"""Data-free merges of 2022 to 2026 give what the authors' code (or the port that is known) gave, and not the base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.support import about, assert_state, golden, golden_experts, golden_states
from torch import Tensor

import methods
from methods.api import Experts, Stream

#: Of entries next to a threshold, which another processor's rounding puts on its other side.
FLIPS = {"arcee_fusion": 3e-4, "sce": 1e-4, "dc_merge": 1e-4, "knots": 1e-4, "core_space": 1e-4}

FULL: list[tuple[str, dict[str, Any], str]] = [
    ("cart", {}, "cart__prior2.0_r0.12__seed0"),
    ("svc", {"alpha": 0.25}, "svc__TA_alpha0.25__seed0"),
    ("svc", {}, "svc__TA_alpha0.25__seed0"),
    ("ace", {}, "ace__eps0.01__seed0"),
    ("dc_merge", {}, "dc_merge_fft__keep0.001_lam1__seed0"),
    ("dc_merge", {"keep": 0.1, "scale": 1.3}, "dc_merge_fft__keep0.1_lam1.3__seed0"),
    ("subspace_boosting", {"share": 0.3}, "subspace_boosting_fbport__ta0.3_beta0.3__seed0"),
    ("subspace_boosting", {"share": 0.02}, "subspace_boosting_fbport__ta0.3_beta0.02__seed0"),
    ("star", {}, "star__eta40__seed0"),
    ("star", {}, "star_svcport__eta40__seed0"),
    ("model_stock", {}, "mergekit_model_stock__default__seed0"),
    ("model_stock", {"filterwise": True}, "mergekit_model_stock__filterwise__seed0"),
    ("karcher", {}, "mergekit_karcher__iter10_tol1e-5__seed0"),
    ("multislerp", {}, "mergekit_multislerp__base_equal__seed0"),
    ("sce", {"keep": 0.3}, "mergekit_sce__topk0.3__seed0"),
    ("ram", {}, "mergekit_ram__eps0.01__seed0"),
    (
        "ram",
        {"floor": 0.02, "plus": True, "strength": 0.5, "limit": 0.3},
        "mergekit_ramplus_tl__eps0.02_r0.5_a0.3__seed0",
    ),
    ("fr_merging", {}, "fr_merging__ratio0.7_align_lam0.7__seed0"),
    ("fr_merging", {"align": False, "scale": 0.15}, "fr_merging__ratio0.7_noalign_lam0.15__seed0"),
    ("localize_stitch", {}, "localize_stitch__dataless_top0.05__seed0"),
]


def plain(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The merged parameters of a golden file."""
    return {n: t for n, t in stored.items() if "/" not in n and n != "lambdas"}


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix/`` by their own names."""
    return {n.removeprefix(f"{prefix}/"): t for n, t in stored.items() if n.startswith(f"{prefix}/")}


def holds(merged: Any, name: str, stem: str) -> None:
    """A merge is the golden one to its sidecar's tolerance, and moved from the base."""
    assert_state(merged, plain(golden(stem)), golden_states()[0], about(stem)["tolerance"], FLIPS.get(name, 0.0))


@pytest.mark.parametrize(("name", "keywords", "stem"), FULL)
def test_full_fine_tunings_merge_as_in_the_authors_code(name: str, keywords: dict[str, Any], stem: str) -> None:
    merged = methods.get(name)(golden_experts(), **keywords)
    holds(merged, name, stem)
    assert merged.storage == 0 and not merged.needs_task


def test_svc_calibrates_another_merge_as_the_authors_code_does() -> None:
    stem = "svc__TSV-M_alpha1.0__seed0"
    given = part(golden(stem), "uncalibrated_tv")
    holds(methods.get("svc").from_vectors(golden_experts(), given, alpha=1.0), "svc", stem)
    ours = methods.get("svc")(golden_experts(), inner="tsv_m", alpha=1.0).state_dict()
    expected = plain(golden(stem))
    # The code's own TSV-M leaves embeddings out.
    assert_state(ours, {n: t for n, t in expected.items() if "embedding" not in n}, golden_states()[0], 1e-4)


def test_ace_takes_both_branches_where_the_authors_code_does() -> None:
    from methods.ace import HETEROGENEITY, heterogeneity

    stem = "ace__scaledtau_eps0.01_k0.3__seed0"
    base, tuned = golden_states()
    scales = about(stem)["hyperparameters"]["tau_scales"]
    experts = Experts.from_state_dicts(
        base,
        {t: {n: base[n] + s * (v - base[n]) for n, v in state.items()}
         for s, (t, state) in zip(scales, tuned.items(), strict=True)},
    )  # fmt: skip
    holds(methods.get("ace")(experts), "ace", stem)
    for name, (gamma, branch) in about(stem)["branch"].items():
        found = heterogeneity(experts.task_vectors(name).square().sum((1, 2)))
        assert found == pytest.approx(gamma, rel=1e-3, abs=1e-3) and (found > HETEROGENEITY) == branch


def test_metagpt_takes_the_ports_coefficients() -> None:
    stem = "metagpt_starport__all__seed0"
    merged = methods.get("metagpt")(golden_experts())
    torch.testing.assert_close(merged.trace["coefficients"], golden(stem)["lambdas"].float(), atol=1e-6, rtol=0)
    holds(merged, "metagpt", stem)


def test_slerp_interpolates_two_experts_as_mergekit_does() -> None:
    holds(methods.get("slerp")(golden_experts().subset(["t0", "t1"]), t=0.3), "slerp", "mergekit_slerp__t0.3__seed0")


def test_arcee_fusion_keeps_what_mergekit_keeps() -> None:
    merged = methods.get("arcee_fusion")(golden_experts().subset(["t0"]))
    holds(merged, "arcee_fusion", "mergekit_arcee_fusion__default__seed0")


def test_della_has_mergekits_probabilities_and_merges_what_its_masks_leave() -> None:
    from methods.della import probabilities

    stem = "mergekit_della__density0.5_eps0.15_lam1__seed0"
    stored, experts = golden(stem), golden_experts()
    holds(methods.get("della").from_masks(experts, [part(stored, f"mask{k}") for k in range(4)]), "della", stem)
    for k, task in enumerate(experts.tasks):
        for name, expected in part(stored, f"prob{k}").items():
            found = probabilities(experts.task_vector(name, task), 0.5, 0.15)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_free_merging_gives_each_task_the_model_that_its_router_would() -> None:
    stem = "free_merging__ratio0.7_keep0.1_lam0.5__seed0"
    stored, merged = golden(stem), methods.get("free_merging")(golden_experts(), keep=0.1)
    torch.testing.assert_close(merged.trace["rescalers"], stored["rescalers"].float(), atol=1e-5, rtol=0)
    for k in range(4):
        state = merged.state_dict(f"t{k}")
        assert_state(state, part(stored, f"model{k}"), golden_states()[0], about(stem)["tolerance"])
    assert merged.needs_task and 0 < merged.storage < merged.experts.nbytes()


def test_localize_stitch_trains_masks_as_in_the_authors_code() -> None:
    from methods.localize_stitch import limit, train
    from methods.tools.activations import samples

    stem = "localize_stitch__fewshot_top0.05_bias3_lr10_5ep__seed0"
    stored = golden(stem)
    heads = {n.removesuffix(".weight"): t for n, t in part(stored, "head_init").items()}
    experts = golden_experts(heads=heads)
    how: dict[str, Any] = {"epochs": 5, "lr": 10.0, "l1": 0.1, "bias": 3.0}

    def stream() -> Stream:
        return Stream.from_batches(part(stored, "batches"), labels=part(stored, "labels"), split="train")

    merged = methods.get("localize_stitch")(experts, stream(), labels=True, examples=16, batch_size=8, **how)
    holds(merged, "localize_stitch", stem)
    for k, task in enumerate(experts.tasks):
        batches = list(samples(stream(), task, 16, 8))
        found = train(experts, experts.names, task, batches, limit(experts, experts.names, task, 0.05), **how)
        assert_state(found, part(stored, f"mask_logit{k}"), {n: t.sign() * 3.0 for n, t in found.items()}, 1e-4)


LORA: list[tuple[str, dict[str, Any], str]] = [
    ("dc_merge", {"smoothing": "average", "keep": 0.1}, "dc_merge_lora__avg_keep0.1_K2__seed0"),
    ("dc_merge", {"smoothing": "linear", "keep": 0.1}, "dc_merge_lora__linear_rho5_keep0.1_K2__seed0"),
    ("knots", {}, "knots__ties_topK20_mean_lam0.6__seed0"),
    ("knots", {"inner": "task_arithmetic", "merge": "sum", "scale": 0.3}, "knots__tv_sum_lam0.3__seed0"),
    ("core_space", {"keep": 0.2, "scale": 0.6}, "core_space__ties_topK20_lam0.6__seed0"),
    ("core_space", {"inner": "tsv_m"}, "core_space__tsv_lam1__seed0"),
    ("core_space", {"inner": "task_arithmetic", "isotropic": True}, "core_space__tv_iso_lam1__seed0"),
    ("core_space", {"inner": "task_arithmetic", "scale": 0.3}, "core_space__tv_lam0.3__seed0"),
]


def golden_adapters(stem: str) -> Experts:
    """The golden base with the LoRA factors of one file."""
    stored, adapters = golden(stem), {}
    for k in range(about(stem)["K"]):
        factors = part(stored, f"lora{k}")
        names = [n.removesuffix(".lora_A") for n in factors if n.endswith(".lora_A")]
        adapters[f"t{k}"] = {n: (factors[f"{n}.lora_A"], factors[f"{n}.lora_B"], 1.0) for n in names}
    return Experts.from_lora(golden_states()[0], adapters)


@pytest.mark.parametrize(("name", "keywords", "stem"), LORA)
def test_adapters_merge_as_in_the_authors_code(name: str, keywords: dict[str, Any], stem: str) -> None:
    merged = methods.get(name)(golden_adapters(stem), **keywords)
    holds(merged, name, stem)
    assert merged.storage == 0 and not merged.needs_task
