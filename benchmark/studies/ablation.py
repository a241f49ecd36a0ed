"""Which part of a method matters: variants in settings, as the YAML files beside this one list them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from benchmark.harness.job import Job, Options
from benchmark.harness.runner import execute, plan
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.records.store import Store
from benchmark.studies.derived import Kind, Make, access_of, derive, merged_file, without_merges
from benchmark.studies.settings import Ablation, Setting
from benchmark.studies.unseen import FILE, over_all
from benchmark.studies.variants import Subset, Variant, vary
from benchmark.suites.bench import Bench
from methods.api import Experts, Merged, Stream

UNSEEN = Kind("study.unseen", "A merge of some experts, on tasks it has not seen as well", FILE, "over_all")


def run(
    bench: Bench,
    ablation: Ablation,
    setting: Setting,
    *,
    seeds: Sequence[int],
    store: Store,
    known: Store | None,
    options: Options,
) -> list[Record]:
    """Every variant in one setting of ``bench``; returns the records, failed ones included.

    Args:
        known: finished runs, which are not done again; their records are taken over into ``store``.
    """
    bench, options = vary(bench, setting), without_merges(options)
    if setting.unseen:
        return _unseen(bench, ablation, setting, seeds, store, options)
    jobs = plan(bench, ablation.variants, seeds=seeds)
    records = {job.id: _done(job, known) for job in jobs}
    for record in records.values():
        if record is not None and store.load(record.spec) is None:
            store.save(record)
    open_jobs = [job for job in jobs if records[job.id] is None]
    records.update({record.run_id: record for record in execute(open_jobs, bench, store, options)})
    return [record for record in records.values() if record is not None]


def _done(job: Job, store: Store | None) -> Record | None:
    record = store.load(job.spec) if store else None
    return record if record is not None and record.status == "done" and not record.missing else None


def _over_all(experts: Experts, stream: Stream | None, *, merge: Path, tasks: list[str]) -> Merged:
    """A saved merge of some of the tasks, on all of them."""
    return over_all(Merged.load(merge, experts.subset(tasks)), experts)


def _unseen(
    bench: Bench, ablation: Ablation, setting: Setting, seeds: Sequence[int], store: Store, options: Options
) -> list[Record]:
    """Merges of all tasks but the last ones, tested on all."""
    assert setting.unseen
    tasks = list(bench.tasks)
    part = Subset(bench, tasks[: -setting.unseen])
    whole = Variant(bench, Setting(unseen=setting.unseen).label(tasks))
    merges = [job for job in plan(part, ablation.variants, seeds=seeds) if job.spec.method not in REFERENCE_ROWS]
    records = execute(merges, part, store, dataclasses.replace(options, keep_merged=True, need_merged=True))
    wanted: list[Job] = [job for job in plan(whole, [], seeds=seeds) if job.spec.method in REFERENCE_ROWS]
    for record in (record for record in records if record.status == "done"):

        def prepare(record: Record = record) -> Make:
            return functools.partial(_over_all, merge=merged_file(record, store), tasks=list(part.tasks))

        wanted.append(
            derive(
                UNSEEN,
                whole,
                prepare,
                {"run": record.run_id, "method": record.variant, "merged": list(part.tasks)},
                seed=record.spec.seed,
                variant=record.variant,
                access=access_of([record]),
            )
        )
    return [*records, *execute(wanted, whole, store, options)]
