"""What could make the bare passes themselves quicker on a CPU, against the passes as they are.

    SYMERGE_BENCH_THREADS=1 ./run_all.sh --bench -k "floor and way" -s         # ways to run one forward
    ./run_all.sh --bench -k "floor and jobs" -s                                # two jobs of a thread, one of two

The encoder of ``vision-small-8`` and as many random images as its evaluation takes at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.lacking import lacks
from torch import Tensor, nn
from turns import compare

from benchmark import suites

BATCH, SIZE, PASSES = 250, 28, 8
Pass = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    torch.set_num_threads(int(os.environ.get("SYMERGE_BENCH_THREADS", 0)) or len(os.sched_getaffinity(0)))
    built = suites.open_bench(suites.load("vision-small-8")).experts().encoder
    assert built is not None
    return built.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def channels_last(encoder: nn.Module) -> Pass:
    return lambda images: encoder(images.contiguous(memory_format=torch.channels_last))


def plain_attention(encoder: nn.Module) -> Pass:
    """Without the fused kernel, which is what runs."""

    def run(images: Tensor) -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return encoder(images)  # type: ignore[no-any-return]

    return run


def compiled(encoder: nn.Module) -> Pass:
    return torch.compile(encoder)


def onednn_graph(encoder: nn.Module) -> Pass:
    torch.jit.enable_onednn_fusion(True)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(encoder, torch.zeros(BATCH, 3, SIZE, SIZE)))
    return traced


@pytest.mark.parametrize("way", [channels_last, plain_attention, compiled, onednn_graph])
def test_floor_by_another_way(
    benchmark: Any, encoder: nn.Module, images: Tensor, way: Callable[[nn.Module], Pass]
) -> None:
    try:
        other = way(encoder)
        with torch.inference_mode():
            apart = float((other(images) - encoder(images)).abs().max())
    except Exception as error:  # whatever a compiler says
        pytest.skip(lacks(f"{way.__name__}: {str(error).strip().splitlines()[0][:120]}", "a compiler that torch finds"))

    def plain() -> None:
        with torch.inference_mode():
            encoder(images)

    def ours() -> None:
        with torch.inference_mode():
            other(images)

    compare(benchmark, "floor", plain, ours, rounds=4)
    wall, cpu = (benchmark.extra_info[f"ratio_{clock}"] for clock in ("wall", "cpu"))
    print(f"\n{way.__name__}: {wall} of the wall time, {cpu} of the CPU time; outputs {apart:.0e} apart")


JOB = f"""
import sys, time, torch
from benchmark import suites
torch.set_num_threads(int(sys.argv[1]))
encoder = suites.open_bench(suites.load("vision-small-8")).experts().encoder.eval()
images = torch.zeros({BATCH}, 3, {SIZE}, {SIZE})
with torch.inference_mode():
    encoder(images)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range({PASSES}):
        encoder(images)
print(time.process_time(), flush=True)
"""


def seconds(jobs: int, threads: int) -> float:
    """Wall seconds of ``jobs`` processes side by side, each with all its passes, from their common start."""
    words = [sys.executable, "-c", JOB, str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(jobs)
    ]
    for job in running:
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for job in running:
        job.communicate("\n")
    return time.perf_counter() - began


def test_floor_of_two_jobs_side_by_side(benchmark: Any) -> None:
    """The same images a second core: two jobs of one thread against two passes of two threads after one another."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip(lacks("it needs two cores", "a machine with two"))
    two, one = [], []

    def turn() -> None:
        one.append(2 * seconds(1, 2))
        two.append(seconds(2, 1))

    benchmark.pedantic(turn, rounds=3)
    ratio = min(two) / min(one)
    benchmark.extra_info.update(two_jobs_over_one_of_two_threads=round(ratio, 3))
    print(f"\ntwo jobs of a thread take {ratio:.2f} of the time of one after the other on two threads")
