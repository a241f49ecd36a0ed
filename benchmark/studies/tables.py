"""Tables of studies, made from records alone. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd

from benchmark.board import rows
from benchmark.board.selection import by_trust, complete, generation
from benchmark.records import access as accesses
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS, other_data
from benchmark.scores import relative
from benchmark.scores import statistics as stats
from benchmark.scores.correlation import correlation
from benchmark.studies.settings import Ablation

TRANSFER = [
    "source", "layer", "recipient", "n", "own", "transferred", "self_adapted", "gain", "gain_low", "gain_high",
    "beyond", "beyond_low", "beyond_high",
]  # fmt: skip

BySeed = dict[int | None, Record]


def finished(records: Iterable[Record]) -> list[Record]:
    """Those that are done on all their tasks."""
    return [record for record in records if complete(record)]


def normalised(record: Record, expert: Mapping[str, float]) -> dict[str, float]:
    """Each task's score in percent of its expert's."""
    values = {name: task.value for name, task in record.tasks.items()}
    return stats.normalised(values, expert, {name: task.higher_is_better for name, task in record.tasks.items()})


def averaged(record: Record) -> bool:
    """Whether the scores of the record's tasks may be averaged as they are; else in percent of the experts'."""
    return rows.averaged(_suite(record), [record])


def score(record: Record, expert: Record | None = None) -> float:
    """Mean over tasks of the score; where metrics are unlike, of the score in percent of ``expert``'s (or nan)."""
    values = {name: task.value for name, task in record.tasks.items()}
    if not averaged(record):
        experts = {name: task.value for name, task in expert.tasks.items()} if expert else {}
        values = normalised(record, experts) if expert else dict.fromkeys(values, float("nan"))
    return stats.mean_over_tasks(values)


def mean_score(records: BySeed, expert: Record | None = None) -> float:
    """The same, averaged over seeds."""
    return float(np.mean([score(record, expert) for record in records.values()]))


def difference(first: BySeed, second: BySeed, expert: Record | None = None) -> tuple[float, float, float]:
    """First minus second over the tasks, in points, with its paired 95 % interval (nan without scores per sample)."""
    sides = []
    for side in (first, second):
        scores = {seed: _samples(record, expert) for seed, record in side.items()}
        if any(each is None for each in scores.values()):
            return mean_score(first, expert) - mean_score(second, expert), float("nan"), float("nan")
        sides.append(scores)
    interval = stats.paired_difference(*sides)  # type: ignore[arg-type]
    return interval.value, interval.low, interval.high


def _samples(record: Record, expert: Record | None) -> stats.Scores | None:
    """One number per sample of each task, whose mean is the score; tasks on the same samples are one."""
    if averaged(record):
        samples = relative.scores(record)
    else:
        samples = relative.shares(record, expert, record.suite_tasks) if expert else None
    return stats.pooled(samples) if samples and rows.shared(_suite(record)) else samples


def _suite(record: Record) -> str:
    """The suite by name, also of a set of its tasks."""
    return record.spec.suite.partition("+")[0]


def _place(record: Record) -> tuple[str, str, str]:
    return record.spec.backbone, record.spec.family, generation(record)


def transfer(derived: Iterable[Record], runs: Iterable[Record]) -> pd.DataFrame:
    """One row per source and recipient, columns TRANSFER: scores in percent, differences in points.

    ``gain`` is transferred minus own, ``beyond`` transferred minus self-adapted; seeds are those of the source.
    """
    by_id = {record.run_id: record for record in finished(runs)}
    derived = finished(derived)
    of_place = [
        r for r in by_id.values()
        if derived and _place(r) == _place(derived[0]) and not other_data(r.spec.data, derived[0].spec.data)
    ]  # fmt: skip
    expert = min((r for r in of_place if r.spec.method == REFERENCE_ROWS[-1]), key=by_trust, default=None)
    groups: dict[tuple[str, str], dict[str, BySeed]] = defaultdict(lambda: defaultdict(dict))
    layers: dict[tuple[str, str], str] = {}
    for record in derived:
        parameters = record.spec.parameters
        if record.spec.method not in ("study.transfer", "study.self_adapted") or "source" not in parameters:
            continue
        key = parameters["source"], parameters["recipient"]
        layers[key] = parameters["layer"]
        groups[key][record.spec.method][record.spec.seed] = record
        if record.spec.method == "study.transfer" and parameters["recipient_run"] in by_id:
            groups[key]["own"][record.spec.seed] = by_id[parameters["recipient_run"]]
    lines = []
    for (source, recipient), sides in groups.items():
        placed, control, own = sides["study.transfer"], sides["study.self_adapted"], sides["own"]
        if not placed or placed.keys() - own.keys():
            continue
        own = {seed: own[seed] for seed in placed}
        gain = difference(placed, own, expert)
        beyond = difference(placed, control, expert) if placed.keys() == control.keys() else (np.nan,) * 3
        lines.append([
            source, layers[source, recipient], recipient, len(placed),
            *(mean_score(side, expert) if side else np.nan for side in (own, placed, control)), *gain, *beyond,
        ])  # fmt: skip
    frame = pd.DataFrame(lines, columns=TRANSFER)
    return frame.sort_values(["source", "own"], ascending=[True, False], kind="stable", ignore_index=True)


@dataclass(frozen=True)
class CrossTask:
    """Scores of ``tasks`` (columns: heads) on the encoders of their experts (rows), as measured.

    ``adapted`` has each head adapted to the encoder; it is nan where that was not run. The diagonal of ``before`` holds
    the experts on their own tasks.
    """

    tasks: list[str]
    before: np.ndarray
    adapted: np.ndarray
    higher: dict[str, bool]

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """``values`` in percent of the experts' own scores."""
        up = np.array([self.higher[task] for task in self.tasks])
        own = np.diag(self.before)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 100 * np.where(up, values / own, own / values)


def cross_task(derived: Iterable[Record]) -> CrossTask:
    """Every head on every expert's encoder, before and after the head was adapted to it (seeds averaged)."""
    records = [r for r in finished(derived) if "encoder" in r.spec.parameters]
    if not records:
        raise ValueError("no records of cross-task performance")
    tasks = list(records[0].suite_tasks)
    cells: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        kind = "before" if record.spec.method == "study.cross_task" else "adapted"
        cells[kind][record.spec.parameters["encoder"]].append([record.tasks[task].value for task in tasks])
    empty = [[np.nan] * len(tasks)]
    matrices = {k: np.array([np.mean(cells[k].get(t, empty), axis=0) for t in tasks]) for k in ("before", "adapted")}
    higher = {task: records[0].tasks[task].higher_is_better for task in tasks}
    return CrossTask(tasks, matrices["before"], matrices["adapted"], higher)


POINTS = ["merger", "heads", "tasks", "size", "merge", "cross", "merge_normalised", "cross_normalised"]


def points(derived: Iterable[Record]) -> pd.DataFrame:
    """One row per merger and set of tasks, columns POINTS: the merge's mean score and the set's cross-task mean.

    Scores are as measured and, ``_normalised``, in percent of the experts' own. ``heads`` is "own" or "adapted": both
    the merge's and the cross-task scores are then those with adapted heads.
    """
    derived = list(derived)
    cross = cross_task(derived)
    own = dict(zip(cross.tasks, np.diag(cross.before).tolist(), strict=True))
    place = {task: i for i, task in enumerate(cross.tasks)}
    tables = {"own": cross.before, "adapted": cross.adapted}
    shares = {heads: cross.normalised(values) for heads, values in tables.items()}
    by_set: dict[tuple[str, str, tuple[str, ...]], list[tuple[float, float]]] = defaultdict(list)
    for record in finished(derived):
        tasks = tuple(record.suite_tasks)
        if "encoder" in record.spec.parameters or "source" in record.spec.parameters or len(tasks) == len(cross.tasks):
            continue
        adapted = record.spec.method == "study.self_adapted"
        name = record.spec.parameters["recipient"] if adapted else record.variant
        values = score(record), stats.mean_over_tasks(normalised(record, own))
        by_set[name, "adapted" if adapted else "own", tasks].append(values)
    lines = []
    for (merger, heads, tasks), records in by_set.items():
        pairs = list(permutations([place[task] for task in tasks], 2))
        merge, share = np.mean(records, axis=0)
        across = (np.mean([table[heads][pair] for pair in pairs]) for table in (tables, shares))
        crossed, crossed_share = across
        lines.append([merger, heads, "+".join(tasks), len(tasks), merge, crossed, share, crossed_share])
    return pd.DataFrame(lines, columns=POINTS).sort_values(["merger", "heads", "size", "tasks"], ignore_index=True)


CORRELATIONS = ["merger", "heads", "size", "compared", "kind", "value", "low", "high", "n", "tasks"]


def correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """Cross-task performance against merge quality, columns CORRELATIONS, for each merger and size of the sets.

    ``compared``: "scores" as measured; "normalised", both in percent of the experts' own; "task effects removed",
    normalised and less what an effect of each task explains, so that easy tasks alone make no correlation.
    """
    lines = []
    for (merger, heads, size), group in frame.groupby(["merger", "heads", "size"], sort=False):
        members = [text.split("+") for text in group["tasks"]]
        for name, suffix in (("scores", ""), ("normalised", "_normalised"), ("task effects removed", "_normalised")):
            x, y = list(group[f"cross{suffix}"]), list(group[f"merge{suffix}"])
            for kind in ("pearson", "spearman"):
                estimate = correlation(x, y, members, kind=kind, partial=name == "task effects removed")
                lines.append([merger, heads, size, name, kind, *estimate])
    return pd.DataFrame(lines, columns=CORRELATIONS)


ABLATION = [
    "setting", "suite", "variant", "n", "mean", "low", "high", "normalised", "difference", "difference_low",
    "difference_high", "seen", "unseen", "access", "adapt_seconds", "images", "trainable",
]  # fmt: skip


def ablation(about: Ablation, records: Iterable[Record], suite: str | None = None) -> pd.DataFrame:
    """One row per setting and variant, columns ABLATION: scores in percent with 95 % intervals, costs of the runs.

    ``difference`` is to the study's first variant in the same setting, paired by sample and by seed where both have
    the same seeds; ``seen`` and ``unseen`` are means over the tasks that were merged and that were not.
    """
    by_place: dict[str, dict[str, BySeed]] = defaultdict(lambda: defaultdict(dict))
    for record in sorted(finished(records), key=lambda record: record.finished or ""):
        by_place[record.spec.suite][record.variant][record.spec.seed] = record
    lines = []
    for setting, place in about.places(suite):
        by_variant = by_place.get(place, {})
        if not by_variant.keys() & set(about.variants):
            continue
        expert = next(iter(by_variant.get(REFERENCE_ROWS[-1], {}).values()), None)
        for variant in [*REFERENCE_ROWS, *(v for v in about.variants if v not in REFERENCE_ROWS)]:
            runs = by_variant.get(variant)
            if not runs:
                continue
            first, base = next(iter(runs.values())), by_variant.get(about.variants[0], {})
            samples = [_samples(record, expert) for record in runs.values()]
            low, high = (np.nan, np.nan)
            if all(each is not None for each in samples):
                _, low, high = stats.interval([each for each in samples if each is not None])
            shared = base.keys() & runs.keys()
            if shared and base.keys() != runs.keys():
                base, compared = {s: base[s] for s in shared}, {s: runs[s] for s in shared}
            else:
                compared = runs
            gap = difference(compared, base, expert) if base and variant != about.variants[0] else (np.nan,) * 3
            shares = [stats.mean_over_tasks(normalised(r, {t: v.value for t, v in expert.tasks.items()}))
                      for r in runs.values()] if expert else [np.nan]  # fmt: skip
            split = len(first.suite_tasks) - (setting.unseen or 0)
            parts = [
                np.mean([[r.tasks[task].value for task in tasks] for r in runs.values()])
                if setting.unseen and averaged(first) else np.nan
                for tasks in (first.suite_tasks[:split], first.suite_tasks[split:])
            ]  # fmt: skip
            cost = [[getattr(r.cost, name) or 0 for r in runs.values()]
                    for name in ("adapt_seconds", "images_drawn", "trainable_parameters")]  # fmt: skip
            lines.append([
                setting.say(), place, variant, len(runs), mean_score(runs, expert), low, high, np.mean(shares), *gap,
                *parts, accesses.text(first.access), *(float(np.mean(values)) for values in cost),
            ])  # fmt: skip
    return pd.DataFrame(lines, columns=ABLATION)
