"""Ways to the leading triplets of eight equal matrices of a small tower, against the one that methods take.

    SYMERGE_BENCH_THREADS=1 ./run_all.sh --bench -k spectral_routes -s

Every way gives the same product of its triplets, which is asserted, so that ratios compare equals.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor
from turns import compare

import methods
from benchmark import suites
from methods.tools.spectral import leading

SHAPES = ((384, 384), (1536, 384), (768, 768), (3072, 768))
COUNT = 8
Found = list[Tensor]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", "")
    torch.set_num_threads(int(os.environ.get("SYMERGE_BENCH_THREADS", 0)) or len(os.sched_getaffinity(0)))


def eigenvectors_by(driver: str) -> Callable[[Tensor, int], Found]:
    """One Gram matrix after the other; scipy's drivers that compute the wanted pairs alone."""

    def way(stack: Tensor, rank: int) -> Found:
        out = []
        for matrix in stack:
            size = matrix.shape[1]
            right = torch.from_numpy(
                scipy.linalg.eigh(
                    (matrix.T @ matrix).numpy(), subset_by_index=[size - rank, size - 1], driver=driver,
                    check_finite=False,
                )[1]
            )  # fmt: skip
            out.append(matrix @ right @ right.T)
        return out

    return way


def gram_batched(stack: Tensor, rank: int) -> Found:
    """All Gram matrices at once, each decomposed in full."""
    right = torch.linalg.eigh(stack.mT @ stack)[1][..., -rank:]
    return list(stack @ right @ right.mT)


def full(stack: Tensor, rank: int) -> Found:
    """LAPACK's decomposition, one matrix after the other."""
    return [reduced(torch.linalg.svd(matrix, full_matrices=False), rank) for matrix in stack]


def full_batched(stack: Tensor, rank: int) -> Found:
    """The same in one call."""
    u, s, vh = torch.linalg.svd(stack, full_matrices=False)
    return [reduced((u[k], s[k], vh[k]), rank) for k in range(len(stack))]


def reduced(triplets: tuple[Tensor, Tensor, Tensor], rank: int) -> Tensor:
    u, s, vh = triplets
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


WAYS: dict[str, Callable[[Tensor, int], Found]] = {
    "gram, evr": eigenvectors_by("evr"),
    "gram, evx": eigenvectors_by("evx"),
    "gram, batched": gram_batched,
    "full": full,
    "full, batched": full_batched,
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spectral_routes_to_leading_triplets(benchmark: Any, shape: tuple[int, int], way: str) -> None:
    stack = torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(0))
    # A spectrum that falls, as those of task vectors do, so that the leading directions are well defined.
    stack = stack * torch.logspace(0, -1.2, shape[1])
    rank = shape[1] // COUNT
    found: dict[str, Found] = {}

    def plain() -> None:
        found["ours"] = [reduced(leading(matrix, rank), rank) for matrix in stack]

    def other() -> None:
        found["other"] = WAYS[way](stack, rank)

    compare(benchmark, "triplets", plain, other, rounds=3)
    gap = max(float((a - b).abs().max()) for a, b in zip(found["ours"], found["other"], strict=True))
    assert gap < 1e-3
    wall, cpu = (benchmark.extra_info[f"ratio_{clock}"] for clock in ("wall", "cpu"))
    print(f"\n{shape}, {way}: {wall} of the wall time, {cpu} of the CPU time of what is taken; {gap:.0e} apart")


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts"])
def test_spectral_routes_of_a_small_tower(benchmark: Any, name: str) -> None:
    """The whole merge of the eight experts of ``vision-small-8`` against reading their task vectors once."""
    experts = suites.open_bench(suites.load("vision-small-8")).experts()

    def read() -> None:
        for tensor in experts.names:
            experts.task_vectors(tensor)

    turns = compare(benchmark, "small tower", read, lambda: methods.get(name)(experts) and None, rounds=2, warm=False)
    wall, cpu = (min(t[clock] for t in turns.ours) for clock in (0, 1))
    print(f"\n{name}: {wall:.1f} s, {cpu:.1f} s of CPU time; {benchmark.extra_info['ratio_cpu']} of reading")
