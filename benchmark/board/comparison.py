"""Two methods on the same samples: difference, paired interval, wins and losses by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from benchmark.board import rows
from benchmark.board.selection import by_time, by_trust, complete, current, label
from benchmark.common.errors import UserError, unknown
from benchmark.common.tables import markdown
from benchmark.records import metrics
from benchmark.records.record import Record, distrust
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.scores import relative
from benchmark.scores import statistics as stats

Runs = Mapping[int | None, Mapping[str, np.ndarray]]


def compare(
    records: Iterable[Record], first: str, second: str, suite: str, backbone: str | None = None,
    family: str | None = None, typed: str | None = None,
) -> str:  # fmt: skip
    """Markdown: first minus second over all tasks and on each, in points, with 95 % intervals.

    Where metrics differ, over all tasks the expert-normalised means are compared, and each task in its metric's unit.
    Which records count is decided as for boards (:mod:`benchmark.board.selection`), among those of ``backbone`` and
    ``family``; methods are named as boards name them. ``typed``: what names the suite on a command line, where that is
    not its name. Raises :class:`UserError` where one of the two has no complete record there, or where several
    backbones or families have records and none was named.
    """
    runs, other_data_of = _runs(records, suite, backbone, family)
    for name in (first, second):
        if name not in runs:
            plain = name.partition(" [")[0]  # in brackets the precision
            command = f"./run_all.sh --suite {typed or suite} --methods {plain}"
            if name in other_data_of:
                raise UserError(
                    f"{name} has no record on the data that the last run on {suite} read: {other_data_of[name]}",
                    f"Run it again, on these: {command}",
                )
            raise unknown("method with records", name, runs, f"Run it: {command}")
    one = next(iter(runs[first].values()))
    tasks = one.suite_tasks
    _check_same_samples(one, [record for name in (first, second) for record in runs[name].values()])
    runs, said = _on_shared_seeds(runs, first, second)
    sides = [_scores(runs[name]) for name in (first, second)]
    averaged = rows.averaged(suite, [one])
    what = "points of the mean over tasks" if averaged else "points of the expert-normalised mean"
    of_family = f", family {family}" if family else ""
    over_all = sides if averaged else [_shares(runs, name, suite) for name in (first, second)]
    if rows.shared(suite):
        over_all = [{seed: stats.pooled(each) for seed, each in side.items()} for side in over_all]
    whole = stats.paired_difference(*over_all)
    each, words = {}, {}
    for task in tasks:
        gap = stats.paired_difference(*({s: {task: v[task]} for s, v in side.items()} for side in sides))
        better = (gap.value > 0) == one.tasks[task].higher_is_better
        each[task], words[task] = gap, "tied" if gap.tied else ("win" if better else "loss")
    wins, losses = (sum(word == wanted for word in words.values()) for wanted in ("win", "loss"))
    verdict = "tied" if whole.tied else f"{first if whole.value > 0 else second} is better"
    lines = [
        f"{first} (n={len(sides[0])}) minus {second} (n={len(sides[1])}) on {suite}{of_family}, {what}:",
        f"{whole.value:+.2f} [{whole.low:+.2f}, {whole.high:+.2f}]: {verdict}. "
        f"By task: {wins} wins, {len(tasks) - wins - losses} ties, {losses} losses.",
        *([said] if said else []),
        "",
    ]
    lines_of_tasks = []
    for task, gap in each.items():
        metric = metrics.METRICS.get(one.tasks[task].metric)
        digits = metric.digits if metric else 1
        name = task if averaged and metric and metric.name == "accuracy" else f"{task} ({one.tasks[task].metric})"
        low, high = (f"{value:+.{digits}f}" for value in (gap.low, gap.high))
        lines_of_tasks.append([name, f"{gap.value:+.{digits}f}", f"{low} to {high}", words[task]])
    return "\n".join([*lines, *markdown(["task", "difference", "95 %", ""], lines_of_tasks, "<>><")])


def _on_shared_seeds(
    runs: dict[str, dict[int | None, Record]], first: str, second: str
) -> tuple[dict[str, dict[int | None, Record]], str]:
    """The runs with those of both methods on the seeds that both ran, and what must be said of the others.

    Two seeds or more that both ran are paired one by one; else each method keeps all of its own, and their numbers
    differ or their seeds do.
    """
    mine, theirs = runs[first], runs[second]
    if mine.keys() == theirs.keys():
        return runs, ""
    shared = [seed for seed in mine if seed in theirs]
    if len(shared) > 1:
        kept = {name: {seed: runs[name][seed] for seed in shared} for name in (first, second)}
        return {**runs, **kept}, (
            f"Paired on the {len(shared)} seeds that both ran; {first} has {len(mine)}, {second} has {len(theirs)}."
        )
    alone = [name for name in (first, second) if runs[name].keys() == {None}]
    if alone:
        return runs, f"{' and '.join(alone)} is deterministic: one run is all there is, the other's seeds count."
    return runs, (
        f"The numbers of seeds differ ({len(mine)} and {len(theirs)}), or the seeds do: they are not paired, and of "
        "one seed alone the spread over seeds is not known."
    )


def _runs(
    records: Iterable[Record], suite: str, backbone: str | None, family: str | None
) -> tuple[dict[str, dict[int | None, Record]], dict[str, str]]:
    """The runs that count, by label and seed; of the same label the one measured here before one that was told.

    Also how the data differ, by label, of runs that were made on others.
    """
    of_place = [r for r in records if backbone in (None, r.spec.backbone) and family in (None, r.spec.family)]
    places = sorted({(r.spec.backbone, r.spec.family) for r in of_place})
    if len(places) > 1:
        raise UserError(
            f"{suite} has records on {', '.join(f'{b} ({f})' for b, f in places)}",
            f"Name one: --backbone {places[0][0]} --family {places[0][1]}",
        )
    by_label: dict[str, dict[int | None, Record]] = {}
    counted = current(of_place)
    chosen = [record for record in counted.records if complete(record)]
    for record in sorted(by_time(chosen), key=lambda record: distrust(record.provenance.source)):
        by_label.setdefault(label(record), {}).setdefault(record.spec.seed, record)
    return by_label, {label(record): said for record, said in counted.of_other_data}


def _check_same_samples(one: Record, records: Iterable[Record]) -> None:
    """Raise UserError where a run has other tasks, numbers of samples or metrics than ``one``."""
    for task, result in one.tasks.items():
        for record in records:
            other = record.tasks.get(task)
            if other is not None and (other.n, other.metric) == (result.n, result.metric):
                continue
            here = f"{label(one)} on {result.n} by {result.metric}"
            said = f"{other.n} samples of {task} by {other.metric}" if other is not None else f"no samples of {task}"
            raise UserError(
                f"{label(record)} ({record.run_id}) was tested on {said}, {here}",
                "Only runs on the same samples are compared; run one of them again.",
            )


def _scores(runs: Mapping[int | None, Record]) -> Runs:
    return {seed: _present(relative.scores(record), record) for seed, record in runs.items()}


def _shares(found: Mapping[str, Mapping[int | None, Record]], name: str, suite: str) -> Runs:
    experts = [r for runs in found.values() for r in runs.values() if r.spec.method == REFERENCE_ROWS[-1]]
    if not experts:
        raise UserError(
            f"tasks of {suite} have unlike metrics, and {REFERENCE_ROWS[-1]} has no record to normalise by",
            f"Run it: ./run_all.sh --suite {suite} --methods {REFERENCE_ROWS[-1]}",
        )
    record = min(experts, key=by_trust)
    return {seed: _present(relative.shares(each, record, each.suite_tasks), each) for seed, each in found[name].items()}


def _present(samples: dict[str, np.ndarray] | None, record: Record) -> dict[str, np.ndarray]:
    if samples is None:
        raise UserError(f"{record.variant} on {record.spec.suite} has no statistics per sample to pair")
    return samples
