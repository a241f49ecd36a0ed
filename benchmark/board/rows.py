"""From records to the rows of a board: the one place where runs become a table (Markdown, CSV and HTML all show it)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmark import suites
from benchmark.board import bystanders
from benchmark.board.beside import BESIDE, beside_table
from benchmark.board.oddities import degenerate, of_other_libraries, remarks
from benchmark.board.selection import Current, by_time, by_trust, complete, current, generation, label
from benchmark.board.table import Table, commit, grouped, unique
from benchmark.board.validity import ALL, Validity, validity
from benchmark.board.versus import Versus
from benchmark.records import metrics
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS, RunSpec, other_data
from benchmark.records.store import safe_name
from benchmark.scores import published
from benchmark.scores import statistics as stats
from benchmark.scores.relative import scores as scores
from benchmark.suites.own import is_own

#: Columns of every board before and after those of its tasks.
FIRST = [
    "track", "rank", "overall", "method", "row", "mean", "low", "high", "normalised", "normalised_low",
    "normalised_high", "delta", "delta_low", "delta_high", "worst_task", "worst", "mean_rank", "rank_low", "rank_high",
    "above", "above_low", "above_high", "above_tied", "best",
]  # fmt: skip
LAST = [
    "access", "task_id", "n", "seeds", "seed_scores", "reference", "reference_gap", "chosen", "grid", "at_edge",
    "storage_models", "extra_storage_mib", "merge_seconds", "adapt_seconds", "evaluate_seconds", "peak_anonymous_mib",
    "peak_cuda_mib", "trainable_parameters", "images_seen", "published", "published_gap", "published_source",
    "published_others", "remark", "title", "paper", "changed", "dtype", "autocast", "source", "commit", "runs",
]  # fmt: skip
INCOMPLETE = ["method", "seed", "status", "tasks_done", "missing", "reason", "run"]
TRIAL = ["method", "seed", "limit", "status", "tasks_done", "reason", "run"]


@dataclass(frozen=True)
class Board:
    """One suite, backbone and checkpoint family: `rows` with FIRST + tasks + bystanders' names + LAST, `incomplete`
    with INCOMPLETE.

    `validity` is None where no two rows are published.
    `trials` (TRIAL) are runs on a few samples, which are no results; `beside` (BESIDE) what papers print of the rows.

    `rows.row` is "method", or, not ranked, "reference" or "oracle" (it saw test labels); `rows.track` names one of
    `tracks.TRACKS`, `rows.rank` is within it, `rows.overall` over all tracks, and `rows.best` says which row of a
    track is "best" and which are "tied" with it. `versus` holds all pairs of rows, `friedman` a test of each track with
    rows and tasks enough. `own`: the rows for which the project has no records of its own, of a user's methods or
    parameters. `records` are the runs of the rows, by id. `metrics` names each task's.
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
    bystanders: list[bystanders.Column] = field(default_factory=list)
    friedman: dict[str, stats.Friedman] = field(default_factory=dict)
    versus: Versus | None = None
    own: list[str] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    n_test: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    validity: Validity | None = None
    trials: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TRIAL))
    beside: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=BESIDE))

    @property
    def name(self) -> str:
        """`<suite>--<backbone>--<family>`, the name of its files."""
        return name_of(self.suite, self.backbone, self.family)

    @property
    def called(self) -> str:
        """The suite in a sentence, and the family where it is not the suite's first."""
        return called(self.suite, self.family)

    @property
    def scale(self) -> str:
        """`mini`, `small`, `full`, or `own` of a user's suite: numbers of two scales never share a table."""
        if is_own(self.suite):
            return "own"
        return next((scale for scale in ("mini", "small") if scale in self.suite.split("-")), "full")

    @property
    def mini(self) -> bool:
        """Whether its numbers are of a mini suite."""
        return self.scale == "mini"


def called(suite: str, family: str) -> str:
    """The suite in a sentence, and the family where it is not the suite's first."""
    families = suites.load(suite).families if suite in suites.names() else [family]
    return suite if family == families[0] else f"{suite} ({family})"


def _in_order(name: tuple[str, str, str]) -> tuple[Any, ...]:
    """A suite's first family before its others."""
    suite, backbone, family = name
    return suite, backbone, called(suite, family) != suite, family


def name_of(suite: str, backbone: str, family: str) -> str:
    """The name of a board's files: one file name, whatever records call these."""
    return "--".join(map(safe_name, (suite, backbone, family)))


def boards(records: Iterable[Record], reference: Iterable[Record] | None = None) -> list[Board]:
    """One board per suite, backbone and family of `records`; `reference` are the project's own, shown beside.

    Without them `records` are the project's own.

    Of several versions of the suite or its checkpoints, and of several versions of one method's code, the one that ran
    last is shown, and a note counts the others; of several data the last, and the others are listed apart. Missing
    reference rows are taken from `reference`. Trials on a few samples are in no row: they are listed apart.
    """
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.spec.suite, record.spec.backbone, record.spec.family].append(record)
    references: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in reference or ():
        references[record.spec.suite, record.spec.backbone, record.spec.family].append(record)
    return [_board(groups[name], references[name], reference is not None) for name in sorted(groups, key=_in_order)]


def _board(records: list[Record], reference: list[Record], users: bool) -> Board:
    whole = [record for record in records if not record.trial]
    chosen = current(whole)
    shown, notes = chosen.records, _notes(chosen)
    first = (shown or whole or records)[0]
    reference = [r for r in reference if not r.trial]
    reference = [r for r in reference if not any(other_data(r.spec.data, each.spec.data) for each in shown)]
    same = [record for record in reference if generation(record) == generation(first)]
    finished = [record for record in shown if complete(record)]
    apart = _of_other_samples(finished)
    apart |= of_other_libraries(grouped(r for r in finished if r.run_id not in apart).values())
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
    table = Table(tasks, expert, averaged(first.spec.suite, finished), shared(first.spec.suite))
    version = first.spec.suite_version
    values = table.reference_values(record for record in reference if record.spec.suite_version == version)
    groups = grouped(finished)
    rows = [table.row(key, group, values) for key, group in groups.items()]
    ranking = table.ranked(rows, list(groups.values()))
    rows = ranking.rows
    beside = [each for each in bystanders.columns_of(first.spec.suite, finished) if each.name not in tasks]
    of_row = {" ".join(record.run_id for record in group): group for group in groups.values()}
    for row in rows:
        row.update({each.name: each.value(of_row[row["runs"]]) for each in beside})
    for row, remark in zip(rows, remarks(rows, tasks), strict=True):
        row["remark"] = remark
    if not table.averaged and expert is None and rows:
        notes.append(f"Nothing is ranked: {REFERENCE_ROWS[-1]}, which scores are normalised by, has no complete run.")
    notes += unique(note for record in finished for note in record.provenance.notes)
    notes += degenerate(finished)
    if table.averaged:
        _beside(rows, first.spec)
    papers = beside_table(table, rows, of_row, first.spec)
    frame = pd.DataFrame(rows, columns=[*FIRST, *tasks, *(each.name for each in beside), *LAST])
    frame = frame.astype(dict.fromkeys(("rank", "overall", "rank_low", "rank_high"), "Int64"))
    left_out = [_incomplete(record) for record in shown if not complete(record)]
    left_out += [{**_incomplete(record), "reason": apart[record.run_id]} for record in shown if record.run_id in apart]
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
        bystanders=beside,
        friedman=ranking.friedman,
        records={record.run_id: record for record in finished},
        versus=ranking.versus,
        own=[r["method"] for r in rows if users and r["row"] == "method" and pd.isna(r["reference"])],
        n_test={task: finished[0].tasks[task].n for task in tasks} if finished else {},
        commands=unique(" ".join(record.provenance.argv) for record in by_time(shown)),
        commits=unique(commit(record) for record in by_time(finished)),
        notes=notes,
        validity=told if (told := validity(finished)) and told.agreements[ALL].pairs else None,
        trials=pd.DataFrame([_trial(record) for record in records if record.trial], columns=TRIAL).sort_values(
            ["method", "seed", "limit"], kind="stable", ignore_index=True
        ),
        beside=papers,
    )


def _notes(chosen: Current) -> list[str]:
    """What is left out, in a line each."""
    notes = []
    if chosen.of_generations:
        count = len(chosen.of_generations)
        notes.append(f"{count} records of an earlier version of the suite or its checkpoints are not shown.")
    if chosen.of_versions:
        named = ", ".join(unique(label(each.record) for each in chosen.of_versions))
        notes.append(
            f"{len(chosen.of_versions)} records of earlier versions of the methods' code are not shown, but the "
            f"version that ran last: {named}."
        )
    if chosen.of_less_trust:
        named = "; ".join(
            f"{label(record)} ({record.provenance.source}): {why}" for record, why in chosen.of_less_trust[:5]
        )
        more = f"; and {len(chosen.of_less_trust) - 5} more" if len(chosen.of_less_trust) > 5 else ""
        notes.append(f"Records of less trusted sources that are not shown: {named}{more}.")
    if chosen.put_right:
        named = "; ".join(f"{label(record)}, {why}" for record, why in chosen.put_right[:5])
        more = f"; and {len(chosen.put_right) - 5} more" if len(chosen.put_right) > 5 else ""
        notes.append(f"Runs that failed and are not shown: {named}{more}. `./run_all.sh clean` removes them.")
    return notes


def _beside(rows: list[dict[str, Any]], spec: RunSpec) -> None:
    """Add what papers print for the same suite, backbone and checkpoint family, and the gap to it."""
    papers = published.beside(spec.suite, spec.backbone, spec.family, [row["method"] for row in rows])
    for row in rows:
        if beside := papers.get(row["method"]):
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
    """Runs of another metric or number of samples than most, and what is odd about them: nothing can be paired."""
    oddities: dict[str, str] = {}
    records = sorted(records, key=lambda record: record.spec.method not in REFERENCE_ROWS)  # of equal counts, theirs
    for task in records[0].suite_tasks if records else []:
        size = Counter(record.tasks[task].n for record in records).most_common(1)[0][0]
        metric = Counter(record.tasks[task].metric for record in records).most_common(1)[0][0]
        for record in records:
            if (n := record.tasks[task].n) != size:
                oddities.setdefault(record.run_id, f"{task} was tested on {n} samples, in other runs on {size}")
            if (other := record.tasks[task].metric) != metric:
                oddities.setdefault(record.run_id, f"{task} was measured by {other}, in other runs by {metric}")
    return oddities


def _trial(record: Record) -> dict[str, Any]:
    return {key: value for key, value in _incomplete(record).items() if key in TRIAL} | {"limit": record.spec.limit}


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
