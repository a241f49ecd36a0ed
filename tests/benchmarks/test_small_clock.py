"""The parts of a run on ``vision-small-8`` against the floor: bare passes of the same images.

    SYMERGE_BENCH_THREADS=1 ./run_all.sh --bench -k small_clock -s

One task's images (``SYMERGE_BENCH_TASK``): its whole test split for the evaluation, some batches for the updates.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn
from turns import Rounds, Seconds, compare, fastest, least, now, since

import methods
from benchmark import suites
from benchmark.harness.evaluate import evaluate
from benchmark.suites.bench import Bench
from methods.api import Stream

TASK, STEPS, BATCH = os.environ.get("SYMERGE_BENCH_TASK", "OptDigits"), 2, 32


@pytest.fixture(autouse=True)
def threads() -> None:
    torch.set_num_threads(int(os.environ.get("SYMERGE_BENCH_THREADS", 0)) or len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return suites.open_bench(suites.load("vision-small-8"))


def told(benchmark: Any, what: str) -> None:
    """Print the ratios of a benchmark: without pytest-benchmark's table they are what is asked for."""
    wall, cpu = (benchmark.extra_info[f"ratio_{clock}"] for clock in ("wall", "cpu"))
    print(f"\n{what}: {wall} of the floor's wall time, {cpu} of its CPU time")


def test_small_clock_loads_and_merges(benchmark: Any, bench: Bench) -> None:
    """Merging by task arithmetic, whose experts are unpacked, against reading every expert once."""
    experts = bench.experts()

    def read() -> None:
        for name in experts.names:
            for task in experts.tasks:
                experts.expert_tensor(name, task)

    start = now()
    bench.experts()
    print(f"\nopening base, experts and heads: {since(start)[0]:.2f} s")

    def merge() -> None:
        methods.get("task_arithmetic")(experts)

    compare(benchmark, "small suite", read, merge, rounds=2)
    told(benchmark, "merge")


def test_small_clock_evaluation_against_bare_forwards(benchmark: Any, bench: Bench) -> None:
    model = methods.get("weight_average")(bench.experts()).model(TASK)
    source, size = bench.source(TASK, "test"), bench.suite.batch_size
    ready = [source[index][0] for index in torch.arange(len(source)).split(size)]

    def bare() -> None:
        with torch.inference_mode():
            for images in ready:
                model(images)

    def whole() -> None:
        evaluate(model, bench.source(TASK, "test"), bench.meter(TASK), device=torch.device("cpu"), batch_size=size)

    compare(benchmark, "small suite", bare, whole, rounds=2)
    told(benchmark, "evaluation")


def test_small_clock_update_of_symerge_against_bare_passes(benchmark: Any, bench: Bench) -> None:
    """The fastest round, an update a task: draw, merge, run, differentiate, step. All tasks see the same images."""
    experts = bench.experts()
    encoder, head = experts.encoder, experts.heads[TASK]
    assert encoder is not None
    source = bench.source(TASK, "test")
    drawn = torch.stack([source[torch.arange(step * BATCH, (step + 1) * BATCH)][0] for step in range(STEPS)])
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def bare() -> Seconds:
        encoder.requires_grad_(True)

        def once() -> None:
            for _ in experts.tasks:
                encoder.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(head(encoder(drawn[0])), labels).backward()

        return fastest(once, STEPS)

    def adapted() -> Seconds:
        encoder.zero_grad(set_to_none=True)
        stream = Stream.from_batches({task: drawn for task in experts.tasks})
        stream.progress = rounds = Rounds()
        methods.get("symerge")(experts, stream, steps=STEPS)
        return least(rounds.taken)

    compare(benchmark, "small suite", bare, adapted, rounds=1, warm=False)
    told(benchmark, "update of SyMerge")
