"""From records to the rows of a board: the one place where runs become a table (Markdown, CSV and HTML all show it)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark import suites
from benchmark.board.selection import Current, by_time, by_trust, complete, current, generation, label
from benchmark.board.validity import Validity, validity
from benchmark.records import access as accesses
from benchmark.records.record import Record, TaskResult
from benchmark.records.spec import REFERENCE_ROWS, RunSpec, canonical_json, other_data
from benchmark.scores import metrics, published, relative
from benchmark.scores import statistics as stats
from benchmark.scores.relative import scores as scores

#: Columns of every board before and after those of its tasks.
FIRST = [
    "rank", "method", "row", "mean", "low", "high", "normalised", "normalised_low", "normalised_high", "delta",
    "delta_low", "delta_high", "worst_task", "worst", "mean_rank", "rank_low", "rank_high", "above", "above_low",
    "above_high", "above_tied",
]  # fmt: skip
LAST = [
    "access", "task_id", "n", "seeds", "reference", "storage_models", "extra_storage_mib", "merge_seconds",
    "adapt_seconds", "evaluate_seconds", "peak_anonymous_mib", "peak_cuda_mib", "trainable_parameters", "images_seen",
    "published", "published_gap", "published_source", "published_others", "title", "paper", "changed", "dtype",
    "autocast", "source", "commit", "runs",
]  # fmt: skip
INCOMPLETE = ["method", "seed", "status", "tasks_done", "missing", "reason", "run"]

_MIB = 2**20


@dataclass(frozen=True)
class Board:
    """One suite, backbone and checkpoint family: `rows` with FIRST + tasks + LAST, `incomplete` with INCOMPLETE.

    `rows.row` is "method", or, not ranked, "reference" or "oracle" (it saw test labels). `metrics` names each task's.
    `averaged`: rows have a mean and are ranked by it; else, metrics being unlike, by the expert-normalised mean.
    """

    suite: str
    suite_version: str
    backbone: str
    family: str
    tasks: list[str]
    rows: pd.DataFrame
    incomplete: pd.DataFrame
    metrics: dict[str, str] = field(default_factory=dict)
    averaged: bool = True
    friedman: stats.Friedman | None = None
    n_test: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    validity: Validity | None = None

    @property
    def name(self) -> str:
        """`<suite>--<backbone>--<family>`, the name of its files."""
        return f"{self.suite}--{self.backbone}--{self.family}"

    @property
    def scale(self) -> str:
        """`mini`, `small` or `full`: numbers of two scales never share a table."""
        return next((scale for scale in ("mini", "small") if scale in self.suite.split("-")), "full")

    @property
    def mini(self) -> bool:
        """Whether its numbers are of a mini suite."""
        return self.scale == "mini"


class _Key(NamedTuple):
    """What makes one row: seeds apart, everything a user chose."""

    method: str
    parameters: str
    dtype: str
    autocast: str | None
    vectors: str
    source: str


def _key(record: Record) -> _Key:
    spec = record.spec
    return _Key(
        spec.method,
        canonical_json(spec.parameters),
        spec.dtype,
        spec.autocast,
        spec.vectors,
        record.provenance.source,
    )


def boards(records: Iterable[Record], reference: Iterable[Record] = ()) -> list[Board]:
    """One board per suite, backbone and family of `records`; `reference` are the project's own, shown beside.

    Of several versions of the suite or its checkpoints, and of several versions of one method's code, the one that ran
    last is shown, and a note counts the others; of several data the last, and the others are listed apart. Missing
    reference rows are taken from `reference`.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.spec.suite, record.spec.backbone, record.spec.family].append(record)
    known: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in reference:
        known[record.spec.suite, record.spec.backbone, record.spec.family].append(record)
    return [_board(groups[name], known[name]) for name in sorted(groups)]


def _board(records: list[Record], reference: list[Record]) -> Board:
    chosen = current(records)
    kept, notes = chosen.records, _notes(chosen)
    first = (kept or records)[0]
    reference = [r for r in reference if not any(other_data(r.spec.data, each.spec.data) for each in kept)]
    same = [record for record in reference if generation(record) == generation(first)]
    finished = [record for record in kept if complete(record)]
    apart = _of_other_samples(finished)
    finished = [record for record in finished if record.run_id not in apart]
    size = {task: result.n for record in finished[:1] for task, result in record.tasks.items()}
    same = [r for r in same if not size or {task: result.n for task, result in r.tasks.items()} == size]
    for name in REFERENCE_ROWS:
        if not any(record.spec.method == name for record in finished):
            finished += [record for record in same if record.spec.method == name and complete(record)]

    tasks = list(first.suite_tasks)
    experts = [record for record in finished if record.spec.method == REFERENCE_ROWS[-1]]
    expert = min(experts, key=by_trust, default=None)
    measured = {task: finished[0].tasks[task].metric for task in tasks} if finished else {}
    table = _Table(tasks, expert, averaged(first.spec.suite, finished), shared(first.spec.suite))
    version = first.spec.suite_version
    known = table.reference_values(record for record in reference if record.spec.suite_version == version)
    groups = _grouped(finished)
    rows = [table.row(key, group, known) for key, group in groups.items()]
    rows, friedman = table.ranked(rows, list(groups.values()))
    if not table.averaged and expert is None and rows:
        notes.append(f"Nothing is ranked: {REFERENCE_ROWS[-1]}, which scores are normalised by, has no complete run.")
    notes += _unique(note for record in finished for note in record.provenance.notes)
    if table.averaged:
        _beside(rows, first.spec)
    frame = pd.DataFrame(rows, columns=[*FIRST, *tasks, *LAST])
    frame = frame.astype({"rank": "Int64", "rank_low": "Int64", "rank_high": "Int64"})
    left_out = [_incomplete(record) for record in kept if not complete(record)]
    left_out += [{**_incomplete(record), "reason": apart[record.run_id]} for record in kept if record.run_id in apart]
    left_out += [{**_incomplete(r), "reason": f"made on other data: {said}"} for r, said in chosen.of_other_data]
    missing = pd.DataFrame(left_out, columns=INCOMPLETE)
    return Board(
        suite=first.spec.suite,
        suite_version=first.spec.suite_version,
        backbone=first.spec.backbone,
        family=first.spec.family,
        tasks=tasks,
        rows=frame,
        incomplete=missing.sort_values(["method", "seed"], kind="stable", ignore_index=True),
        metrics=measured,
        averaged=table.averaged,
        friedman=friedman,
        n_test={task: finished[0].tasks[task].n for task in tasks} if finished else {},
        commands=_unique(" ".join(record.provenance.argv) for record in by_time(kept)),
        commits=_unique(_commit(record) for record in by_time(finished)),
        notes=notes,
        validity=validity(finished),
    )


def _notes(chosen: Current) -> list[str]:
    """What is left out, in a line each."""
    notes = []
    if chosen.of_generations:
        count = len(chosen.of_generations)
        notes.append(f"{count} records of an earlier version of the suite or its checkpoints are not shown.")
    if chosen.of_versions:
        notes.append(f"{len(chosen.of_versions)} records of earlier versions of the methods' code are not shown.")
    if chosen.put_right:
        named = "; ".join(f"{label(record)}, {why}" for record, why in chosen.put_right[:5])
        more = f"; and {len(chosen.put_right) - 5} more" if len(chosen.put_right) > 5 else ""
        notes.append(f"Runs that failed and are not shown: {named}{more}. `./run_all.sh clean` removes them.")
    return notes


def _beside(rows: list[dict[str, Any]], spec: RunSpec) -> None:
    """Add what papers print for the same suite, backbone and checkpoint family, and the gap to it."""
    found = published.beside(spec.suite, spec.backbone, spec.family, [row["method"] for row in rows])
    for row in rows:
        if beside := found.get(row["method"]):
            row.update(beside, published_gap=row["mean"] - beside["published"])


def averaged(suite: str, finished: Sequence[Record]) -> bool:
    """Whether scores of different tasks may be averaged: of one metric, or percents where the suite's file says so."""
    results = [result for record in finished[:1] for result in record.tasks.values()]
    if len({(result.metric, result.higher_is_better) for result in results}) <= 1:
        return True
    percents = all(
        result.higher_is_better and result.metric in metrics.METRICS and metrics.get(result.metric).percent
        for result in results
    )
    return percents and suite in suites.names() and suites.load(suite).average_percents


def shared(suite: str) -> bool:
    """Whether the suite's file says that all its tasks are measured on the same samples."""
    return suite in suites.names() and suites.load(suite).shared_samples


def _of_other_samples(records: Sequence[Record]) -> dict[str, str]:
    """Runs that were not tested on as many samples as most, and what is odd about them: nothing can be paired."""
    found: dict[str, str] = {}
    records = sorted(records, key=lambda record: record.spec.method not in REFERENCE_ROWS)  # of equal counts, theirs
    for task in records[0].suite_tasks if records else []:
        size = Counter(record.tasks[task].n for record in records).most_common(1)[0][0]
        for record in records:
            if (n := record.tasks[task].n) != size:
                found.setdefault(record.run_id, f"{task} was tested on {n} samples, in other runs on {size}")
    return found


def _grouped(records: Iterable[Record]) -> dict[_Key, list[Record]]:
    groups: dict[_Key, list[Record]] = defaultdict(list)
    for record in records:
        groups[_key(record)].append(record)
    return {key: sorted(group, key=lambda record: record.spec.seed or 0) for key, group in groups.items()}


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _commit(record: Record) -> str:
    provenance = record.provenance
    return f"{provenance.commit[:12]}{' with local changes' if provenance.dirty else ''}" if provenance.commit else ""


@dataclass(frozen=True)
class _Table:
    """What all rows of a board share."""

    tasks: list[str]
    expert: Record | None
    averaged: bool
    shared: bool

    def row(self, key: _Key, records: Sequence[Record], known: dict[_Key, dict[int | None, float]]) -> dict[str, Any]:
        """One method's row, without its rank."""
        first, tasks = records[0], self.tasks
        values = {task: _score([record.tasks[task] for record in records]) for task in tasks}
        higher = {task: first.tasks[task].higher_is_better for task in tasks}
        alike = len({(first.tasks[task].metric, higher[task]) for task in tasks}) == 1
        shares: dict[str, float] = {}
        none = stats.Interval(np.nan, np.nan, np.nan)
        normalised, delta = none, none
        if self.expert is not None:
            shares = stats.normalised(values, {task: _score([self.expert.tasks[task]]) for task in tasks}, higher)
            normalised, delta = relative.relative(records, self.expert, tasks, shared=self.shared)
        worst, worst_value = ("", np.nan)
        if alike and all(higher.values()):
            worst, worst_value = stats.worst_task(values)
        elif shares:
            worst, worst_value = stats.worst_task(shares)
        low, high = self._interval(records) if self.averaged else (np.nan, np.nan)
        own = {record.spec.seed for record in records}
        beside = [value for seed, value in known.get(key, {}).items() if seed in own]
        return {
            "method": label(first),
            "row": _kind(first),
            "mean": stats.mean_over_tasks(values) if self.averaged else np.nan,
            "low": low,
            "high": high,
            **_named("normalised", normalised),
            **_named("delta", delta),
            "worst_task": worst,
            "worst": worst_value,
            **values,
            "access": accesses.text(first.access),
            "task_id": "yes" if first.needs_task_id else "no",
            "n": len(records),
            "seeds": " ".join(str(seed) for seed in sorted(seed for seed in own if seed is not None)),
            "reference": float(np.mean(beside)) if beside else np.nan,
            **_cost(records),
            "title": first.method.title,
            "paper": first.method.paper,
            "changed": json.dumps(first.changed) if first.changed else "",
            "dtype": first.spec.dtype,
            "autocast": first.spec.autocast or "",
            "source": first.provenance.source,
            "commit": " ".join(_unique(_commit(record) for record in records)),
            "runs": " ".join(record.run_id for record in records),
        }

    def _interval(self, records: Sequence[Record]) -> tuple[float, float]:
        found = [scores(record) for record in records]
        if any(each is None for each in found):
            return np.nan, np.nan
        _, low, high = stats.interval([self._pooled(each) for each in found if each is not None])
        return low, high

    def _pooled(self, each: stats.Scores) -> stats.Scores:
        each = {task: each[task] for task in self.tasks}
        return stats.pooled(each) if self.shared else each

    def reference_values(self, records: Iterable[Record]) -> dict[_Key, dict[int | None, float]]:
        """What rows are ranked by, of each finished reference run by row and seed."""
        found: dict[_Key, dict[int | None, float]] = defaultdict(dict)
        for record in reversed(by_time(record for record in records if complete(record))):
            values = {task: _score([result]) for task, result in record.tasks.items()}
            if not self.averaged:
                if self.expert is None:
                    continue
                expert = {task: _score([result]) for task, result in self.expert.tasks.items()}
                higher = {task: result.higher_is_better for task, result in record.tasks.items()}
                values = stats.normalised(values, expert, higher)
            found[_key(record)][record.spec.seed] = stats.mean_over_tasks(values)
        return found

    def ranked(
        self, rows: list[dict[str, Any]], groups: list[list[Record]]
    ) -> tuple[list[dict[str, Any]], stats.Friedman | None]:
        """Rows from best to worst with ranks, which only methods have, and the test of whether they differ."""
        by = "mean" if self.averaged else "normalised"
        pairs = sorted(
            zip(rows, groups, strict=True),
            key=lambda pair: (np.isnan(pair[0][by]), -round(pair[0][by], 9), pair[0]["method"]),
        )
        ranked = [(row, group) for row, group in pairs if row["row"] == "method" and not np.isnan(row[by])]
        higher = {task: groups[0][0].tasks[task].higher_is_better for task in self.tasks} if groups else {}
        exact = [task for task in higher if groups[0][0].tasks[task].metric == stats.EXACT]
        methods = [row for row, _ in ranked]
        mean_ranks = stats.mean_ranks(methods, higher, exact)
        for number, (row, mean_rank) in enumerate(zip(methods, mean_ranks, strict=True), 1):
            row["rank"], row["mean_rank"] = number, mean_rank
        samples = [self._samples(group) for _, group in ranked]
        if samples and all(samples):
            kept = [each for each in samples if each]
            for row, (low, high) in zip(methods, stats.rank_intervals(kept), strict=True):
                row["rank_low"], row["rank_high"] = min(low, row["rank"]), max(high, row["rank"])
            for place in range(1, len(methods)):
                gap = stats.paired_difference(kept[place], kept[place - 1])
                methods[place].update(_named("above", gap[:3]), above_tied="tied" if gap.tied else "worse")
        return [row for row, _ in pairs], stats.friedman(methods, higher, exact)

    def _samples(self, records: Sequence[Record]) -> dict[int | None, stats.Scores] | None:
        """For each seed what `stats` compares: scores per sample, or shares of the expert's where metrics differ."""
        found: dict[int | None, stats.Scores] = {}
        for record in records:
            if self.averaged:
                each = scores(record)
            else:
                each = relative.shares(record, self.expert, self.tasks) if self.expert is not None else None
            if each is None:
                return None
            found[record.spec.seed] = self._pooled(each)
        return found


def _score(results: Sequence[TaskResult]) -> float:
    """Mean over runs of a task's score; of accuracies computed from the counts, so that equal ones are equal."""
    if any(each.metric != stats.EXACT for each in results):
        return float(np.mean([each.value for each in results]))
    counts = [metrics.rows(each.metric, each.statistics).sum(axis=0) for each in results]
    return float(100 * sum((Fraction(int(right), int(n)) for right, n in counts), Fraction()) / len(counts))


def _named(name: str, interval: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _kind(record: Record) -> str:
    if record.spec.method in REFERENCE_ROWS:
        return "reference"
    return "oracle" if accesses.read(record.access).labelled("test") else "method"


def _cost(records: Sequence[Record]) -> dict[str, Any]:
    def over(name: str, reduce: Any) -> float:
        found = [value for record in records if (value := getattr(record.cost, name)) is not None]
        return float(reduce(found)) if found else np.nan

    extra, model = over("storage_bytes", max), over("model_bytes", max)
    return {
        "storage_models": 1 + extra / model if model else np.nan,
        "extra_storage_mib": extra / _MIB,
        "merge_seconds": over("merge_seconds", np.mean),
        "adapt_seconds": over("adapt_seconds", np.mean),
        "evaluate_seconds": over("evaluate_seconds", np.mean),
        "peak_anonymous_mib": over("peak_anonymous_mb", max),
        "peak_cuda_mib": over("peak_cuda_mb", max),
        "trainable_parameters": over("trainable_parameters", max),
        "images_seen": over("images_drawn", np.mean),
    }


def _incomplete(record: Record) -> dict[str, Any]:
    return {
        "method": label(record),
        "seed": "" if record.spec.seed is None else str(record.spec.seed),
        "status": record.status,
        "tasks_done": f"{len(record.tasks)} of {len(record.suite_tasks)}",
        "missing": ", ".join(record.missing),
        "reason": record.error.line(200) if record.error else "",
        "run": record.run_id,
    }
