"""Do tasks whose experts understand each other's heads merge well?

Cross-task performance: the head of task j on the encoder of expert i, for all K x K pairs; before and after the head is
adapted to that encoder with task j's unlabelled images. For a set S of tasks and a merger, it is compared with merge
quality: the mean score of the merge of S on its own tasks. The paper reports a correlation of 0.863 between the two
over 20 tasks on ViT-B-32 (arXiv:2412.19098).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import methods
from benchmark.common.seeds import derive_seed
from benchmark.harness.job import Job, Options
from benchmark.harness.runner import execute, plan
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.records.store import Store
from benchmark.studies.adaptation import adapt_layer, budget
from benchmark.studies.derived import SELF_ADAPTED, Kind, Make, derive, without_merges
from benchmark.studies.encoders import expert_encoder
from benchmark.studies.variants import Subset
from benchmark.suites.bench import Bench
from methods.api import UNLABELLED, Access, Experts, Merged, Stream

MERGERS = ("weight_average", "task_arithmetic", "ties", "tsv_m")
#: Number of sets of each size.
SETS = {2: 60, 4: 30}

CROSS = Kind(
    "study.cross_task",
    "Every head on the encoder of one expert",
    Path(__file__).with_name("encoders.py"),
    "expert_encoder",
)


def subsets(tasks: Sequence[str], sets: Mapping[int, int], seed: int = 0) -> list[list[str]]:
    """Distinct sets of tasks, in the suite's order, in which the tasks occur about equally often.

    Args:
        sets: ``{size: how many}``; no more than there are.
    """
    sets_of_tasks: list[list[str]] = []
    for size, count in sets.items():
        if size > len(tasks):
            continue
        rng = np.random.default_rng(derive_seed("subsets", size, seed))
        every = [list(pick) for pick in itertools.combinations(range(len(tasks)), size)]
        rng.shuffle(every)
        used = np.zeros(len(tasks))
        chosen: list[list[int]] = []
        while every and len(chosen) < count:
            best = min(every, key=lambda pick: (used[pick].max(), used[pick].sum()))
            every.remove(best)
            used[best] += 1
            chosen.append(best)
        sets_of_tasks += [[tasks[i] for i in pick] for pick in chosen]
    return sets_of_tasks


def run(
    bench: Bench,
    mergers: Sequence[str],
    *,
    sets: Mapping[int, int],
    seeds: Sequence[int],
    derived: Store,
    options: Options,
    steps: int,
) -> list[Record]:
    """Cross-task performance of all pairs, and every merger on every set of tasks; returns the records.

    Args:
        mergers: methods; on the merges of the first one, the heads are adapted too.
        sets: ``{size: how many}`` sets of tasks.
        seeds: of the adaptation, and of mergers that are stochastic.
        steps: rounds of the adaptation; 0 leaves it out.
    """
    own, options = budget("head", {"steps": steps}), without_merges(options)
    adapting = seeds if steps else []
    records = execute(_cross(bench, own, adapting), bench, derived, options)
    for tasks in subsets(list(bench.tasks), sets):
        part = Subset(bench, tasks)
        merges = [job for job in plan(part, mergers, seeds=seeds) if job.spec.method not in REFERENCE_ROWS]
        first = [_adapted(part, job, own, seed) for job in merges[:1] for seed in adapting]
        records += execute([*merges, *first], part, derived, options)
    return records


def _cross(bench: Bench, own: Mapping[str, Any], seeds: Sequence[int]) -> list[Job]:
    """For each expert, its encoder under every head: as they are, and with each head adapted to it."""
    wanted: list[Job] = []
    for encoder in bench.tasks:
        alone = functools.partial(expert_encoder, encoder=encoder)
        wanted.append(
            derive(
                CROSS,
                bench,
                functools.partial(_given, alone),
                {"encoder": encoder},
                seed=None,
                variant=f"encoder {encoder}",
                access=Access(),
            )
        )
        wanted += [
            derive(
                SELF_ADAPTED,
                bench,
                functools.partial(_given, functools.partial(_adapt, make=alone, own=own, seed=seed)),
                {"encoder": encoder, **own},
                seed=seed,
                variant=f"encoder {encoder}, heads adapted",
                access=Access(test=UNLABELLED),
            )
            for seed in seeds
        ]
    return wanted


def _adapt(experts: Experts, stream: Stream | None, *, make: Make, own: Mapping[str, Any], seed: int) -> Merged:
    assert stream is not None
    return adapt_layer(make(experts, stream), stream, seed=seed, **own)


def _given(make: Make) -> Make:
    """For a run that stands on no other."""
    return make


def _merge(experts: Experts, stream: Stream | None, *, method: str, keywords: Mapping[str, Any]) -> Merged:
    merged: Merged = methods.get(method)(experts, stream, **keywords)
    return merged


def _adapted(part: Bench, job: Job, own: Mapping[str, Any], seed: int) -> Job:
    """The merge of ``job`` with its heads adapted."""
    merge = functools.partial(_merge, method=job.spec.method, keywords=job.keywords)
    return derive(
        SELF_ADAPTED,
        part,
        functools.partial(_given, functools.partial(_adapt, make=merge, own=own, seed=seed)),
        {"recipient": job.variant, "recipient_run": job.id, **own},
        seed=seed,
        variant=f"{job.variant}, heads adapted",
        access=job.access | Access(test=UNLABELLED),
    )
