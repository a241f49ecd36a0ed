"""Do the layers that one method adapted help the merges of others?

For each source (a method that adapts a layer per task) and each recipient (any merge; the experts and the base too),
on the same test samples:

- own: the recipient as its method left it;
- transferred: with the source's adapted layers in place of its own, nothing trained;
- self-adapted: with the same layer adapted on the recipient itself, with the source's budget of images and updates.

A gain of *transferred* over *own* shows that the layers help; only the difference from *self-adapted* tells whether
that is transfer or what any training of the layer would give.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.common.errors import UserError
from benchmark.harness import adapted
from benchmark.harness.job import Job, Options
from benchmark.harness.runner import execute, plan
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.records.store import Store
from benchmark.studies.adaptation import adapt_layer, budget, layer_of
from benchmark.studies.derived import (
    SELF_ADAPTED,
    Derived,
    Kind,
    access_of,
    adapted_file,
    derive,
    merged_file,
    without_merges,
)
from benchmark.suites.bench import Bench
from methods.api import UNLABELLED, Access, Experts, Merged, Stream

SOURCES = ("symerge", "model_tinting", "surgery")
RECIPIENTS = (
    "weight_average", "task_arithmetic", "ties", "adamerging", "adamerging:trim=true", "regmean", "consensus", "tsv_m",
    "iso_c", "emr", "tall_mask", "tsv_c",
)  # fmt: skip

PLACED = Kind("study.transfer", "Layers of one method on the merge of another", Path(adapted.__file__), "place")


def run(
    bench: Bench,
    sources: Sequence[str],
    recipients: Sequence[str],
    *,
    seeds: Sequence[int],
    runs: Store,
    derived: Store,
    options: Options,
) -> list[Record]:
    """Run sources and recipients, then every pair; returns the derived records, failed ones included.

    Base and experts are recipients always, a source only where it is named among them.

    Args:
        runs: where records of methods are and go; what was discarded and is needed (merges of recipients, adapted
            layers of sources) is made again.
        derived: where records of pairs go.

    Raises:
        UserError: a source that adapts no layer.
    """
    planned = [job for text in sources for job in plan(bench, [text], seeds=seeds)]
    givers = [job for job in planned if job.spec.method not in REFERENCE_ROWS]
    for giver in givers:
        if not giver.access:
            raise _nothing_adapted(giver.variant)
    takers = plan(bench, recipients, seeds=seeds)
    received = execute(takers, bench, runs, replace(options, need_merged=True))
    done = [(job, record) for job, record in zip(takers, received, strict=True) if record.status == "done"]
    wanted: list[Derived] = []
    for giver in givers:
        has_layers = (runs.folder(giver.spec) / adapted.ADAPTED).is_file()
        (record,) = execute([giver], bench, runs, replace(options, need_merged=not has_layers))
        if record.status != "done":
            continue
        layer = _adapted_layer(record, runs, bench)
        for taker, other in done:
            if _paired(giver, taker):
                wanted += _pair(bench, record, other, layer, runs)
    return execute(wanted, bench, derived, without_merges(options))


def _adapted_layer(giver: Record, runs: Store, bench: Bench) -> str:
    """Which layer the run adapted. Its file is written here where an earlier version of the runner did not."""
    path, experts = runs.folder(giver.spec) / adapted.ADAPTED, bench.experts()
    if not path.is_file() and not adapted.save(Merged.load(merged_file(giver, runs), experts), path):
        raise _nothing_adapted(giver.variant)
    return layer_of(adapted.load(adapted_file(giver, runs), experts))


def _nothing_adapted(name: str) -> UserError:
    return UserError(
        f"{name} adapts no layer, so there is nothing to transfer from it", f"Sources that do: {', '.join(SOURCES)}"
    )


def _paired(giver: Job, taker: Job) -> bool:
    """Another method, and the same seed where both have one (their data order was then the same)."""
    return giver.variant != taker.variant and taker.spec.seed in (None, giver.spec.seed)


def _placed(experts: Experts, stream: Stream | None, *, recipient: Path, layers: Path) -> Merged:
    """A saved merge with another's adapted layers."""
    return adapted.place(Merged.load(recipient, experts), adapted.load(layers, experts))


def _own(experts: Experts, stream: Stream, *, recipient: Path, seed: int, own: Mapping[str, Any]) -> Merged:
    """A saved merge with the same layer adapted on itself."""
    return adapt_layer(Merged.load(recipient, experts), stream, seed=seed, **own)


def _pair(bench: Bench, giver: Record, taker: Record, layer: str, runs: Store) -> list[Derived]:
    """The transfer from one run to another, and its control."""
    own = budget(layer, giver.spec.parameters)
    names = {"source": giver.variant, "recipient": taker.variant, "recipient_run": taker.run_id}
    seed = giver.spec.seed
    return [
        derive(
            PLACED,
            bench,
            lambda: functools.partial(_placed, recipient=merged_file(taker, runs), layers=adapted_file(giver, runs)),
            {**names, "source_run": giver.run_id, "layer": layer},
            seed=seed,
            variant=f"{giver.variant} on {taker.variant}",
            access=access_of([giver, taker]),
            precision=giver.spec.precision,
        ),
        derive(
            SELF_ADAPTED,
            bench,
            lambda: functools.partial(_own, recipient=merged_file(taker, runs), seed=seed or 0, own=own),
            {**names, **own},
            seed=seed,
            variant=f"{taker.variant} with its own {layer} ({giver.variant})",
            access=access_of([giver, taker]) | Access(test=UNLABELLED),
            precision=giver.spec.precision,
        ),
    ]
