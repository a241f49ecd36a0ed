"""One row of a board from the runs of one method, and the ranking of all rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from benchmark.board.searches import search
from benchmark.board.selection import by_time, complete, label
from benchmark.board.tracks import ORDER, REFERENCE, kind, track_of
from benchmark.board.versus import Versus, versus
from benchmark.common.canonical import canonical_json
from benchmark.records import access as accesses
from benchmark.records import metrics
from benchmark.records.precision import Precision
from benchmark.records.record import Record, TaskResult
from benchmark.scores import relative
from benchmark.scores import statistics as stats
from benchmark.scores.relative import scores

_MIB = 2**20


class Key(NamedTuple):
    """What makes one row: seeds apart, everything a user chose."""

    method: str
    parameters: str
    precision: Precision
    source: str


def key(record: Record) -> Key:
    """The row that a run belongs to."""
    spec = record.spec
    return Key(spec.method, canonical_json(spec.parameters), spec.precision, record.provenance.source)


def grouped(records: Iterable[Record]) -> dict[Key, list[Record]]:
    """The runs of each row, by seed."""
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return {each: sorted(group, key=lambda record: record.spec.seed or 0) for each, group in groups.items()}


class Ranking(NamedTuple):
    """A board's rows in their order, the test of whether a track's methods differ, by track, and all pairs."""

    rows: list[dict[str, Any]]
    friedman: dict[str, stats.Friedman]
    versus: Versus | None


@dataclass(frozen=True)
class Table:
    """What all rows of a board share."""

    tasks: list[str]
    expert: Record | None
    averaged: bool
    shared: bool

    def row(
        self, place: Key, records: Sequence[Record], references: dict[Key, dict[int | None, float]]
    ) -> dict[str, Any]:
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
        low, high = self.interval(records) if self.averaged else (np.nan, np.nan)
        own = {record.spec.seed for record in records}
        beside = [value for seed, value in references.get(place, {}).items() if seed in own]
        values_of_seeds = [self._ranked_by(record) for record in records]
        value = stats.mean_over_tasks(values) if self.averaged else normalised.value
        reference = float(np.mean(beside)) if beside else np.nan
        return {
            "track": track_of(records).name,
            "method": label(first),
            "row": kind(first),
            "mean": value if self.averaged else np.nan,
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
            "seed_scores": " ".join(map(repr, values_of_seeds)) if len(records) > 1 else "",
            "reference": reference,
            "reference_gap": value - reference,
            **search(records),
            **_cost(records),
            "title": first.method.title,
            "paper": first.method.paper,
            "changed": json.dumps(first.changed) if first.changed else "",
            "dtype": first.spec.dtype,
            "autocast": first.spec.autocast or "",
            "source": first.provenance.source,
            "commit": " ".join(unique(commit(record) for record in records)),
            "runs": " ".join(record.run_id for record in records),
        }

    def interval(self, records: Sequence[Record], task: str | None = None) -> tuple[float, float]:
        """The 95 % interval of the mean over tasks, or of one task's score; NaN where samples are not kept."""
        samples = [each for record in records if (each := scores(record)) is not None]
        if len(samples) < len(records):
            return np.nan, np.nan
        chosen = [self._pooled(each) if task is None else {task: each[task]} for each in samples]
        _, low, high = stats.interval(chosen)
        return low, high

    def _pooled(self, each: stats.Scores) -> stats.Scores:
        each = {task: each[task] for task in self.tasks}
        return stats.pooled(each) if self.shared else each

    def reference_values(self, records: Iterable[Record]) -> dict[Key, dict[int | None, float]]:
        """What rows are ranked by, of each finished reference run by row and seed."""
        by_row: dict[Key, dict[int | None, float]] = defaultdict(dict)
        for record in reversed(by_time(record for record in records if complete(record))):
            if not np.isnan(value := self._ranked_by(record)):
                by_row[key(record)][record.spec.seed] = value
        return by_row

    def _ranked_by(self, record: Record) -> float:
        """What rows are ranked by, of one run; nan where there is no expert to normalise by."""
        values = {task: _score([record.tasks[task]]) for task in self.tasks}
        if not self.averaged:
            if self.expert is None:
                return np.nan
            expert = {task: _score([self.expert.tasks[task]]) for task in self.tasks}
            higher = {task: record.tasks[task].higher_is_better for task in self.tasks}
            values = stats.normalised(values, expert, higher)
        return stats.mean_over_tasks(values)

    def ranked(self, rows: list[dict[str, Any]], groups: list[list[Record]]) -> Ranking:
        """Rows track by track, from best to worst, with ranks within the track, which only methods have."""
        by = "mean" if self.averaged else "normalised"
        pairs = sorted(
            zip(rows, groups, strict=True),
            key=lambda pair: (
                ORDER[pair[0]["track"]], np.isnan(pair[0][by]), -round(pair[0][by], 9), pair[0]["method"],
            ),
        )  # fmt: skip
        ordered = [row for row, _ in pairs]
        samples = [self._samples(group) for _, group in pairs]
        first = groups[0][0].tasks if groups else {}
        higher = {task: first[task].higher_is_better for task in self.tasks} if groups else {}
        exact = [task for task in higher if first[task].metric == stats.EXACT]
        tests = {}
        for track in ORDER:
            places = [i for i, row in enumerate(ordered) if row["track"] == track and not np.isnan(row[by])]
            if track == REFERENCE.name or not places:
                continue
            of_track = [ordered[i] for i in places]
            self._rank(of_track, [samples[i] for i in places], higher, exact)
            if (test := stats.friedman(of_track, higher, exact)) is not None:
                tests[track] = test
        ranked = [row for row in ordered if "rank" in row]
        for number, row in enumerate(sorted(ranked, key=lambda row: (-round(row[by], 9), row["method"])), 1):
            row["overall"] = number
        return Ranking(ordered, tests, versus(ordered, samples, higher, exact) if ordered else None)

    @staticmethod
    def _rank(
        rows: Sequence[dict[str, Any]],
        samples: Sequence[dict[int | None, stats.Scores] | None],
        higher: Mapping[str, bool],
        exact: Sequence[str],
    ) -> None:
        """Ranks of one track's rows, the best first, and how sure they are."""
        for number, (row, mean_rank) in enumerate(zip(rows, stats.mean_ranks(rows, higher, exact), strict=True), 1):
            row["rank"], row["mean_rank"] = number, mean_rank
        rows[0]["best"] = "best"
        by_method = [each for each in samples if each]
        if len(by_method) < len(rows):
            return
        for row, (low, high) in zip(rows, stats.rank_intervals(by_method), strict=True):
            row["rank_low"], row["rank_high"] = min(low, row["rank"]), max(high, row["rank"])
        for place in range(1, len(rows)):
            gap = stats.paired_difference(by_method[place], by_method[place - 1])
            rows[place].update(_named("above", gap[:3]), above_tied="tied" if gap.tied else "worse")
            if place > 1:
                gap = stats.paired_difference(by_method[place], by_method[0])
            rows[place]["best"] = "tied" if gap.tied else ""

    def _samples(self, records: Sequence[Record]) -> dict[int | None, stats.Scores] | None:
        """For each seed what `stats` compares: scores per sample, or shares of the expert's where metrics differ."""
        by_seed: dict[int | None, stats.Scores] = {}
        for record in records:
            if self.averaged:
                each = scores(record)
            else:
                each = relative.shares(record, self.expert, self.tasks) if self.expert is not None else None
            if each is None:
                return None
            by_seed[record.spec.seed] = self._pooled(each)
        return by_seed


def unique(values: Iterable[str]) -> list[str]:
    """Each text once, empty ones left out."""
    return list(dict.fromkeys(value for value in values if value))


def commit(record: Record) -> str:
    """The commit that a run was made at, in 12 digits; empty where it is unknown."""
    provenance = record.provenance
    return f"{provenance.commit[:12]}{' with local changes' if provenance.dirty else ''}" if provenance.commit else ""


def _score(results: Sequence[TaskResult]) -> float:
    """Mean over runs of a task's score; of accuracies computed from the counts, so that equal ones are equal."""
    if any(each.metric != stats.EXACT for each in results):
        return float(np.mean([each.value for each in results]))
    counts = [metrics.rows(each.metric, each.statistics).sum(axis=0) for each in results]
    return float(100 * sum((Fraction(int(right), int(n)) for right, n in counts), Fraction()) / len(counts))


def _named(name: str, interval: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _cost(records: Sequence[Record]) -> dict[str, Any]:
    def over(name: str, reduce: Any) -> float:
        values = [value for record in records if (value := getattr(record.cost, name)) is not None]
        return float(reduce(values)) if values else np.nan

    extra, model = over("storage_bytes", max), over("model_bytes", max)
    # Records of earlier versions say 0 where a method drew samples and did not tell how long it took.
    untold = all(record.cost.images_drawn and not record.cost.adapt_seconds for record in records)
    return {
        "storage_models": 1 + extra / model if model else np.nan,
        "extra_storage_mib": extra / _MIB,
        "merge_seconds": over("merge_seconds", np.mean),
        "adapt_seconds": np.nan if untold else over("adapt_seconds", np.mean),
        "evaluate_seconds": over("evaluate_seconds", np.mean),
        "peak_anonymous_mib": over("peak_anonymous_mb", max),
        "peak_cuda_mib": over("peak_cuda_mb", max),
        "trainable_parameters": over("trainable_parameters", max),
        "images_seen": over("images_drawn", np.mean),
    }
