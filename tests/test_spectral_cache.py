"""Decompositions that are kept on disk: once each, and no merge differs by a bit from one that computed them itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import methods
from methods import spectral
from methods.api import Experts

SHAPES = {"blocks.0.up.weight": (420, 200), "blocks.0.down.weight": (200, 420), "blocks.0.attn.weight": (160, 160)}
#: What reads kept triplets, at ranks that are found by LAPACK and from the Gram matrix.
READERS: list[tuple[str, dict[str, Any]]] = [
    ("tsv_m", {}),
    ("tsv_m", {"keep": 0.1}),
    ("tsv_m", {"keep": 0.9}),
    ("tsv_c", {}),
    ("optmerge", {"steps": 3}),
    ("doge", {"steps": 3}),
]
IDS = [" ".join([name, *(f"{k}={v}" for k, v in keywords.items())]) for name, keywords in READERS]


def wide_experts(count: int = 3) -> Experts:
    """Experts large enough for the quick paths and for the cache."""
    generator = torch.Generator().manual_seed(1)
    base = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    tuned = {
        f"t{k}": {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in base.items()}
        for k in range(count)
    }
    return Experts.from_state_dicts(base, tuned)


def states(name: str, experts: Experts, **keywords: Any) -> dict[str, Tensor]:
    """Every tensor of a merge, of every task where they differ."""
    merged = methods.get(name)(experts, **keywords)
    return {f"{task}/{n}": t for task in experts.tasks for n, t in merged.state_dict(task).items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    return tmp_path / "svd"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rank of every decomposition that is made."""
    made: list[int] = []
    real: Callable[[Tensor, int], spectral.Triplets] = spectral.leading
    monkeypatch.setattr(spectral, "leading", lambda matrix, rank: made.append(rank) or real(matrix, rank))
    return made


@pytest.mark.parametrize(("name", "keywords"), READERS, ids=IDS)
def test_a_merge_is_the_same_bit_for_bit_whatever_the_cache_holds(
    name: str, keywords: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = wide_experts(4)
    monkeypatch.setenv("SYMERGE_CACHE", "")
    alone = states(name, experts, **keywords)
    monkeypatch.setenv("SYMERGE_CACHE", str(folder.parent))
    for tensor in experts.names:
        for task in experts.tasks:
            spectral.task_svd(experts, tensor, task)  # all triplets, as another method asks for them
    assert same(states(name, experts, **keywords), alone)
    monkeypatch.setattr(spectral, "leading", lambda matrix, rank: pytest.fail("decomposed again"))
    assert same(states(name, experts, **keywords), alone)


@pytest.mark.parametrize("shape", [(160, 160), (160, 161), (420, 200), (200, 420), (64, 200)])
@pytest.mark.parametrize("rank", [1, 20, 60, 159, None])
def test_products_with_kept_triplets_are_those_with_fresh_ones(
    shape: tuple[int, int], rank: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    experts = Experts.from_state_dicts({"w": torch.zeros(shape)}, {"a": {"w": vector}})
    found = []
    for cache in (folder.parent, folder.parent, ""):
        monkeypatch.setenv("SYMERGE_CACHE", str(cache))
        u, s, vh = spectral.task_svd(experts, "w", "a", rank)
        found.append([u, s, vh, (u * s) @ vh, vh @ vector.T, u.T @ u])
    for kept in found[1:]:
        assert [t.stride() for t in kept] == [t.stride() for t in found[0]]
        assert all(torch.equal(a, b) for a, b in zip(kept, found[0], strict=True))


def test_what_rounds_otherwise_reads_no_triplets_of_others(
    folder: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = wide_experts(1)

    def decompose() -> int:
        counted.clear()
        spectral.task_svd(experts, "blocks.0.attn.weight", "t0", 20)
        return len(counted)

    assert [decompose(), decompose()] == [1, 0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert [decompose(), decompose()] == [1, 0]
    monkeypatch.setenv("MKL_CBWR", "another")
    assert [decompose(), decompose()] == [1, 0]


def test_decompositions_are_kept_once_and_a_damaged_file_is_made_again(folder: Path, counted: list[int]) -> None:
    experts = wide_experts(4)
    first = states("tsv_m", experts)
    files = sorted(folder.iterdir())
    assert len(files) == len(counted) == 12 and not any(f.suffix == ".part" for f in files)
    files[0].write_bytes(b"damaged")
    whole = files[1].read_bytes()
    save_file({"u": torch.zeros(2, 2)}, str(files[1]))
    assert same(states("tsv_m", experts), first) and len(counted) == 14
    assert files[0].stat().st_size > 100 and files[1].read_bytes() == whole
    assert same(states("tsv_m", experts), first) and len(counted) == 14


def test_experts_in_memory_write_nothing_and_large_files_use_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYMERGE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    experts = wide_experts(2)
    states("tsv_m", experts)
    assert not (tmp_path / "home").exists()
    paths = {t: tmp_path / f"{t}.safetensors" for t in ("base", *experts.tasks)}
    for task, path in paths.items():
        save_file(dict(experts.base if task == "base" else experts.expert(task)), str(path))
    states("tsv_m", Experts.from_state_dicts(paths.pop("base"), paths))
    assert len(list((tmp_path / "home/.cache/symerge-bench/svd").iterdir())) == 6
    monkeypatch.setenv("SYMERGE_CACHE", "")
    assert spectral.cache_folder(experts, torch.zeros(200, 200)) is None


def test_a_user_without_a_home_folder_merges_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = wide_experts(2)
    paths = {t: tmp_path / f"{t}.safetensors" for t in ("base", *experts.tasks)}
    for task, path in paths.items():
        save_file(dict(experts.base if task == "base" else experts.expert(task)), str(path))

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SYMERGE_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    read = Experts.from_state_dicts(paths.pop("base"), paths)
    assert same(states("tsv_m", read), states("tsv_m", experts))
