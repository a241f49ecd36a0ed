"""Memory and time of the merging methods at the size of the full suites, on random towers in files.

ViT-B-32 with K = 8: peaks of anonymous memory of the whole merge, and the spectral methods against the plain form of
their authors' code, in turns, on one of its twelve blocks. ViT-L-14 with K = 20 from float16 files (13 GB of disk, so
only with ``SYMERGE_BENCH_LARGE=1``): element-wise methods whole, others on two of its 24 blocks. Memory is asserted,
time is not. docs/performance.md quotes one run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.lacking import lacks
from helpers.measure import Measure
from safetensors.torch import save_file
from torch import Tensor
from turns import compare, trim

import methods
from benchmark.domains.vision.backbones import create_encoder
from methods.api import Experts

GIB = 2**30
LARGE = pytest.mark.skipif(
    not os.environ.get("SYMERGE_BENCH_LARGE"),
    reason=lacks("it writes 13 GB", "SYMERGE_BENCH_LARGE=1 ./run_all.sh --bench"),
)
#: Peaks beyond mapped files in units of K x P x 4 bytes, what the merge gives included.
MOST = 0.5


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(int(os.environ.get("SYMERGE_BENCH_THREADS", 0)) or len(os.sched_getaffinity(0)))
    monkeypatch.setenv("SYMERGE_CACHE", "")


def written(backbone: str, count: int, dtype: torch.dtype, folder: str) -> Experts:
    """A random tower and ``count`` experts around it, one file each, mapped."""
    state = {n: t.detach().clone() for n, t in create_encoder(backbone).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    paths = {name: f"{folder}/{name}.safetensors" for name in ["base", *(f"t{k}" for k in range(count))]}
    for name, path in paths.items():
        if name == "base":
            tuned = {n: t.to(dtype) for n, t in state.items()}
        else:
            tuned = {n: (t + 0.01 * torch.randn(t.shape, generator=generator)).to(dtype) for n, t in state.items()}
        save_file(tuned, path)
    return Experts.from_state_dicts(paths.pop("base"), paths)


@pytest.fixture(scope="module")
def tower() -> Iterator[Experts]:
    with tempfile.TemporaryDirectory() as folder:
        yield written("ViT-B-32", 8, torch.float32, folder)
    trim()


@pytest.fixture(scope="module")
def large() -> Iterator[Experts]:
    with tempfile.TemporaryDirectory() as folder:
        yield written("ViT-L-14", 20, torch.float16, folder)
    trim()


def blocks(experts: Experts, *numbers: int) -> Experts:
    """The tensors of these blocks alone, in memory."""
    names = [n for n in experts.names if any(f"resblocks.{i}." in n for i in numbers)]
    base = {n: experts.base[n].clone() for n in names}
    return Experts.from_state_dicts(base, {t: {n: experts.expert(t)[n].clone() for n in names} for t in experts.tasks})


def peak(benchmark: Any, experts: Experts, name: str, **keywords: Any) -> float:
    """Merge once; seconds and the peak of anonymous memory beyond what there was, in bytes."""
    return peak_and_kept(benchmark, experts, name, **keywords)[0]


def peak_and_kept(benchmark: Any, experts: Experts, name: str, **keywords: Any) -> tuple[float, int]:
    """:func:`peak`, and the bytes of it that are the merge's own tensors, factors per task among them."""
    trim()
    with Measure(interval=0.002) as used:
        merged = benchmark.pedantic(lambda: methods.get(name)(experts, **keywords), rounds=1)
    assert used.peak_anonymous_mb is not None, "needs /proc/self/status"
    found = used.peak_anonymous_mb * 2**20
    units = found / (len(experts) * experts.nbytes())
    benchmark.extra_info.update(
        threads=torch.get_num_threads(), peak_gib=round(found / GIB, 2), memory_in_task_vectors=round(units, 3)
    )
    return found, sum(t.numel() * t.element_size() for _, t in merged.tensors())


@pytest.mark.parametrize("name", ["ties", "pcb", "tall_mask", "consensus", "emr"])
def test_element_wise_merges_hold_half_of_the_task_vectors_at_most(benchmark: Any, tower: Experts, name: str) -> None:
    benchmark.group = "memory, 8 x ViT-B-32"
    assert peak(benchmark, tower, name) <= MOST * len(tower) * tower.nbytes()


def plain_iso_c(vectors: list[Tensor]) -> Tensor:
    """The sum of task vectors under a flat spectrum, from a full decomposition."""
    u, s, vh = torch.linalg.svd(sum(vectors), full_matrices=False)  # type: ignore[arg-type]
    return torch.linalg.multi_dot((u, torch.diag(torch.full_like(s, float(s.mean()))), vh))


def plain_tsv_m(vectors: list[Tensor]) -> Tensor:
    """Leading triplets of every task from full decompositions, side by side, and both bases made orthogonal."""
    rank = min(vectors[0].shape)
    each = rank // len(vectors)
    left, values, right = torch.zeros(len(vectors[0]), rank), torch.zeros(rank), torch.zeros(rank, vectors[0].shape[1])
    for k, vector in enumerate(vectors):
        u, s, vh = torch.linalg.svd(vector, full_matrices=False)
        part = slice(k * each, (k + 1) * each)
        left[:, part], values[part], right[part] = u[:, :each], s[:each], vh[:each]
    return torch.linalg.multi_dot((factor(left), torch.diag(values), factor(right)))


def plain_iso_cts(vectors: list[Tensor]) -> Tensor:
    """The common triplets of the sum and what each task has beyond them, under a flat spectrum."""
    u, s, vh = torch.linalg.svd(sum(vectors), full_matrices=False)  # type: ignore[arg-type]
    each = round((len(s) - int(len(s) * 0.8)) / len(vectors))
    common = len(s) - each * len(vectors)
    parts = []
    for vector in vectors:
        a, b, c = torch.linalg.svd(vector - u[:, :common] @ u[:, :common].T @ vector, full_matrices=False)
        parts.append((a[:, :each], b[:each], c[:each]))
    left = torch.cat([a for a, _, _ in parts] + [u[:, :common]], 1)
    right = torch.cat([c for _, _, c in parts] + [vh[:common]], 0)
    mean = float(torch.cat([b for _, b, _ in parts] + [s[:common]]).mean())
    return torch.linalg.multi_dot((factor(left), torch.diag(torch.full((len(s),), mean)), factor(right)))


def factor(matrix: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("name", ["iso_c", "iso_cts", "tsv_m"])
def test_spectral_merges_against_full_decompositions(benchmark: Any, tower: Experts, name: str) -> None:
    """The same result, so that the times compare equals."""
    experts = blocks(tower, 0)
    form = {"iso_c": plain_iso_c, "iso_cts": plain_iso_cts, "tsv_m": plain_tsv_m}[name]
    found: dict[str, dict[str, Tensor]] = {}

    def plain() -> None:
        merged = {}
        for n, base in experts.base.items():
            vectors = [experts.expert(t)[n] - base for t in experts.tasks]
            merged[n] = base + (form(vectors) if base.ndim == 2 else torch.stack(vectors).mean(0))
        found["plain"] = merged

    def ours() -> None:
        found["ours"] = methods.get(name)(experts).state_dict()

    compare(benchmark, "spectral, one block of 8 x ViT-B-32", plain, ours, rounds=2, warm=False)
    gap = max(float((found["ours"][n] - t).abs().max()) for n, t in found["plain"].items())
    benchmark.extra_info["largest_difference"] = gap
    assert gap < 1e-4


ELEMENT_WISE = [
    *("task_arithmetic", "ties", "breadcrumbs", "dare", "emr", "tall_mask", "consensus", "pcb", "flexmerge", "lines")
]


@LARGE
@pytest.mark.parametrize("name", ELEMENT_WISE)
def test_element_wise_merges_of_20_large_towers(benchmark: Any, large: Experts, name: str) -> None:
    benchmark.group = "20 x ViT-L-14 from float16, whole"
    assert peak(benchmark, large, name) <= 24 * GIB


#: Steps of the optimisers instead of 300 or 400: each needs the same memory.
FEW = 10
PARTLY: list[tuple[str, dict[str, Any]]] = [
    ("iso_c", {}),
    ("iso_cts", {}),
    ("tsv_m", {}),
    ("tsv_c", {}),
    ("wudi", {"steps": FEW}),
    ("wudi", {"solver": "closed_form"}),
    ("optmerge", {"steps": FEW}),
    ("optmerge", {"variant": "qwen"}),
    ("doge", {"steps": FEW}),
]


@LARGE
@pytest.mark.parametrize(("name", "keywords"), PARTLY, ids=[" ".join([n, *map(str, k.values())]) for n, k in PARTLY])
def test_two_blocks_of_20_large_towers(benchmark: Any, large: Experts, name: str, keywords: dict[str, Any]) -> None:
    """Time and what is kept grow with the blocks (24 of them); what is worked on is one tensor at a time."""
    benchmark.group = "20 x ViT-L-14 from float16, two blocks"
    found, kept = peak_and_kept(benchmark, blocks(large, 0, 12), name, **keywords)
    working = max(0.0, found - kept)
    benchmark.extra_info["whole_gib_extrapolated"] = round((working + 12 * kept) / GIB, 2)
    assert working + 12 * kept <= 24 * GIB
