"""What is wrong or odd in submitted records, as far as it can be seen without running them again. No torch."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

import methods
from benchmark import suites
from benchmark.common.canonical import canonical_json
from benchmark.common.errors import UserError
from benchmark.common.escapes import terminal
from benchmark.records import access as accesses
from benchmark.records import metrics
from benchmark.records.claims import untrue_of
from benchmark.records.record import CorrectBits, Record, TaskResult, Values
from benchmark.records.spec import REFERENCE_ROWS, other_data
from benchmark.submissions.declared import wrong_method, wrong_names, wrong_texts


@dataclass(frozen=True)
class Finding:
    """What a check found of one record. An error keeps it off the board; a warning is for the reader's eye."""

    level: Literal["error", "warning"]
    record: str
    what: str

    def __str__(self) -> str:
        return terminal(f"{self.level}: {self.record}: {self.what}")


@dataclass(frozen=True)
class Known:
    """What this checkout knows of a suite, backbone and family: from its manifests."""

    data_of: Callable[[methods.Access], Mapping[str, Mapping[str, str]]]
    """sha256 of the data that a run with this access reads, by split and task."""
    checkpoints: Mapping[str, str]
    metrics: Mapping[str, str]
    reads: Mapping[str, str] = field(default_factory=dict)
    """What stands in for a split that the suite does not have."""
    access: Sequence[str] = ()
    """What every row of the suite is handed."""
    samples: Callable[[str], int] | None = None
    """How many samples a task's test split has. Raises UserError where its data are not there."""


#: Gives what is known of (suite, backbone, family), or says in text why it cannot be had here.
Manifests = Callable[[str, str, str], Known | str]


def check(
    records: Sequence[Record], reference: Iterable[Record] = (), manifests: Manifests | None = None
) -> list[Finding]:
    """Everything that is wrong or odd in the records; `reference` are the project's own, of the same suites."""
    own: dict[str, Record] = {record.run_id: record for record in reference}
    by_suite, by_method = defaultdict[str, list[Record]](list), defaultdict[str, list[Record]](list)
    for each in own.values():
        by_suite[each.spec.suite].append(each)
        by_method[each.spec.method].append(each)
    findings: list[Finding] = []
    seen: dict[str, Record] = {}
    for record in records:
        name = _name(record)

        def add(level: Literal["error", "warning"], what: str, name: str = name) -> None:
            findings.append(Finding(level, name, what))

        if record.run_id in seen:
            add("error", "stands twice in the submission")
            continue
        seen[record.run_id] = record
        _check_complete(record, add)
        _check_method(record, by_method[record.spec.method], add)
        _check_protocol(record, manifests, add)
        sizes = _sizes(record, by_suite[record.spec.suite], seen.values(), manifests, add)
        for task, result in record.tasks.items():
            _check_result(task, result, sizes.get(task), add)
        _check_bystanders(record, add)
        _check_cost(record, add)
        _check_against(record, own, add)
    _check_seeds(records, findings)
    return findings


_Add = Callable[[Literal["error", "warning"], str], None]


def _name(record: Record) -> str:
    seed = "" if record.spec.seed is None else f" seed {record.spec.seed}"
    variant, suite = (text if len(text) <= 120 else f"{text[:120]}…" for text in (record.variant, record.spec.suite))
    return f"{variant}{seed} on {suite} ({record.run_id})"


def _check_complete(record: Record, add: _Add) -> None:
    if record.trial:
        add("error", f"is {record.trial}")
    if record.status != "done" or record.missing:
        missing = f", without {', '.join(record.missing)}" if record.missing else ""
        add("error", f"is {record.status}{missing}; only complete records are ranked")
    if record.spec.suite not in suites.names():
        add("error", f"suite {record.spec.suite!r} is not one of this project: {', '.join(suites.names())}")
        return
    suite = suites.load(record.spec.suite)
    if record.suite_tasks != suite.tasks:
        add("error", f"its tasks are {', '.join(record.suite_tasks)}; the suite's are {', '.join(suite.tasks)}")
    if record.spec.suite_version != suite.identity:
        add("error", f"is of version {record.spec.suite_version} of the suite; the present one is {suite.identity}")
    for what, value, allowed in (
        ("backbone", record.spec.backbone, suite.backbones),
        ("family", record.spec.family, suite.families),
    ):
        if value not in allowed:
            add("error", f"{what} {value!r} is not one of the suite's: {', '.join(allowed)}")


def _check_method(record: Record, own: Iterable[Record], add: _Add) -> None:
    """Its texts, names and keywords are those of a method, and of a registered one its own."""
    for said in (*wrong_texts(record), *wrong_names(record)):
        add("error", said)
    name = record.spec.method
    if name in methods.names():
        for said in wrong_method(record, own):
            add("error", said)
    elif name.isidentifier():
        add("warning", f"method {name!r} is not in the registry: send its file too, methods/{name}.py")


def _check_access(record: Record, checkout: Known, add: _Add) -> None:
    """The declared access is the method's with these keywords, and what every row of the suite is handed."""
    about = methods.describe(record.spec.method)
    try:
        access = about.access_for(record.spec.parameters)
    except methods.MergingError as error:
        add("error", str(error))
        return
    handed = accesses.parts(access, checkout.reads, checkout.access)
    if set(record.access) != set(handed):
        said, right = (accesses.text(sorted(set(each))) for each in (record.access, handed))
        add("error", f"says its access is {said}; with these keywords it is {right}")


def _check_protocol(record: Record, manifests: Manifests | None, add: _Add) -> None:
    """Data and checkpoints are those of this checkout's manifests, and each task has its metric."""
    spec = record.spec
    checkout = manifests(spec.suite, spec.backbone, spec.family) if manifests else None
    if isinstance(checkout, str):
        add("warning", f"hashes of data and checkpoints were not checked: {checkout}")
        return
    # What the suite hands every row only its manifest tells.
    if spec.method in methods.names() and (checkout or not accesses.protocol(record.access)):
        _check_access(record, checkout or Known(lambda access: {}, {}, {}), add)
    if checkout is None:
        return
    if spec.checkpoints != checkout.checkpoints:
        names = {*spec.checkpoints, *checkout.checkpoints}
        other = sorted(name for name in names if spec.checkpoints.get(name) != checkout.checkpoints.get(name))
        add("error", f"the sha256 of its checkpoints differ from the manifest's: {', '.join(other[:6])}")
    _check_data(record, checkout, add)
    for task, result in record.tasks.items():
        if checkout.metrics.get(task, result.metric) != result.metric:
            add("error", f"{task} is measured by {checkout.metrics[task]}, not by {result.metric}")


def _check_data(record: Record, checkout: Known, add: _Add) -> None:
    """The hashes of its data are those of this checkout, for all that it was handed."""
    access = methods.Access(**{split: methods.UNLABELLED for split in record.spec.data if split in ("train", "val")})
    if record.spec.method in methods.names():
        with contextlib.suppress(methods.MergingError):
            access = methods.describe(record.spec.method).access_for(record.spec.parameters)
    try:
        wanted = checkout.data_of(access)
    except UserError as error:
        add("warning", f"hashes of its data were not checked: {error.message}")
        return
    stated = {split: sorted(tasks) for split, tasks in record.spec.data.items()}
    if stated != {split: sorted(tasks) for split, tasks in wanted.items()}:
        names, reads = (", ".join(f"{s} of {len(t)} tasks" for s, t in each.items()) for each in (stated, wanted))
        add("error", f"names the data of {names or 'nothing'}; with these keywords a run reads {reads}")
    elif (said := other_data(record.spec.data, wanted)) is not None:
        add("error", f"was made on other data: {said}")


def _sizes(
    record: Record, own: Iterable[Record], others: Iterable[Record], manifests: Manifests | None, add: _Add
) -> dict[str, int]:
    """How many test samples each task has: by the project's own records of the same data, else by the data themselves.

    Where neither is here, by the records before it in the submission.
    """
    test = record.spec.data.get("test", {})

    def of_same_data(records: Iterable[Record]) -> dict[str, int]:
        return {
            task: result.n
            for each in records
            if each is not record and each.spec.suite == record.spec.suite
            for task, result in each.tasks.items()
            if task in record.tasks and each.spec.data.get("test", {}).get(task, "") == test.get(task)
        }

    sizes = of_same_data(own)
    rest = [task for task in record.tasks if task not in sizes]
    spec = record.spec
    checkout = manifests(spec.suite, spec.backbone, spec.family) if manifests and rest else None
    if isinstance(checkout, Known) and checkout.samples is not None:
        try:
            sizes |= {task: checkout.samples(task) for task in rest if task in record.suite_tasks}
        except (UserError, KeyError) as error:
            add("warning", f"numbers of test samples were not checked: {getattr(error, 'message', error)}")
    return {**of_same_data(others), **sizes}


def _check_result(task: str, result: TaskResult, size: int | None, add: _Add) -> None:
    """The stated score is what the statistics give, and possible; `size` is the number of the split's samples."""
    if size not in (None, result.n):
        add("error", f"{task}: was tested on {result.n} samples; its test split has {size}")
        return
    wrong = list(untrue_of(result))
    for said in wrong:
        add("error", f"{task}: {said}")
    if result.metric not in metrics.METRICS:
        return
    about = metrics.get(result.metric)
    low = -100.0 if result.metric in ("mcc", "pearson_spearman", "pearson", "spearman") else 0.0
    high = 100.0 if about.percent else (180.0 if about.unit == "°" else math.inf)
    if not low <= result.value <= high:
        add("error", f"{task}: {result.metric} {result.value:.6g} is impossible; it lies between {low:g} and {high:g}")
    if isinstance(result.statistics, Values) and not wrong:
        _check_counts(task, result.metric, result.statistics, add)
    elif isinstance(result.statistics, CorrectBits) and result.n >= 100 and result.value in (0.0, 100.0):
        add("warning", f"{task}: every one of {result.n} samples is {'right' if result.value else 'wrong'}")


def _check_bystanders(record: Record, add: _Add) -> None:
    """What was measured beside the tasks is what the suite measures, and what its statistics give."""
    name = record.spec.suite
    known = suites.load(name).bystanders if name in suites.names() else {}
    for each, result in record.bystanders.items():
        if each not in known:
            add("error", f"says {each}, which the suite does not measure")
        _check_result(each, result, None, add)


def _check_counts(task: str, metric: str, statistics: Values, add: _Add) -> None:
    """Sums over pixels are what pixels can give."""
    arrays = {name: array.numpy() for name, array in statistics.arrays.items()}
    for name in ("confusion", "count", "abs_sum", "rel_sum", "angle_sum", "histogram"):
        if name in arrays and (arrays[name] < 0).any():
            add("error", f"{task}: {name} holds negative numbers")
    if metric == "mean_angle":
        pixels = arrays["histogram"].sum(axis=1)
        if (pixels != arrays["count"]).any():
            add("error", f"{task}: histogram and count disagree on the number of pixels")
            return
        # Each pixel lies within a quarter of a degree of the middle of its half degree.
        binned = arrays["histogram"] @ (np.arange(360) / 2 + 0.25)
        if (abs(arrays["angle_sum"] - binned) > 0.26 * pixels + 1).any():
            add("error", f"{task}: angle_sum is not that of its histogram")


def _check_cost(record: Record, add: _Add) -> None:
    """Times and sizes that can be."""
    cost = record.cost
    for name, value in cost.model_dump().items():
        if value is not None and not 0 <= value < math.inf:
            add("error", f"cost {name} is {value}")
    try:
        begin, end = (datetime.datetime.fromisoformat(text or "") for text in (record.started, record.finished))
        wall = (end - begin).total_seconds()
    except (ValueError, TypeError):
        add("error", "started and finished are not two times in ISO 8601 with a time zone")
        return
    if wall < 0:
        add("error", f"finished {-wall:.0f} s before it started")
    spent = (cost.merge_seconds or 0) + (cost.adapt_seconds or 0)
    if 0 <= wall and spent > wall + 1:
        add("warning", f"says {spent:.0f} s of merging and adaptation in {wall:.0f} s; was the record continued?")
    if end > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1):
        add("error", f"finished in the future, {record.finished}")
    if accesses.own(record.access) and not cost.images_drawn:
        add("warning", "has access to data and says that it drew no samples")
    if not record.provenance.commit:
        add("warning", "names no commit of this project")
    elif record.provenance.dirty:
        add("warning", f"was made with local changes to commit {record.provenance.commit[:12]}")


def _check_against(record: Record, own: Mapping[str, Record], add: _Add) -> None:
    """Beside the project's own record of the same run, and the experts."""
    same = own.get(record.run_id)
    if same is not None:
        differing = [task for task, result in record.tasks.items() if not _same(result, same.tasks.get(task))]
        pairs = [(name, result, same.bystanders.get(name)) for name, result in record.bystanders.items()]
        differing += [name for name, result, other in pairs if other is not None and not _same(result, other)]
        if differing:
            add("warning", f"differs from the project's own record of this run on {', '.join(differing)}")
    where = (record.spec.suite, record.spec.backbone, record.spec.family)
    for expert in own.values():
        spec = expert.spec
        if spec.method != REFERENCE_ROWS[1] or (spec.suite, spec.backbone, spec.family) != where:
            continue
        if other_data(record.spec.data, spec.data) is not None:
            continue
        above = [task for task, result in record.tasks.items() if _far_above(result, expert.tasks.get(task))]
        if above and record.spec.method not in REFERENCE_ROWS:
            add("warning", f"is more than 5 points above the task's own expert on {', '.join(above)}")
        break


def _same(result: TaskResult, other: TaskResult | None) -> bool:
    return other is not None and canonical_json(result.statistics.model_dump()) == canonical_json(
        other.statistics.model_dump()
    )


def _far_above(result: TaskResult, expert: TaskResult | None) -> bool:
    return expert is not None and result.metric == expert.metric == "accuracy" and result.value > expert.value + 5


def _check_seeds(records: Sequence[Record], findings: list[Finding]) -> None:
    """Different seeds of a stochastic method give different predictions."""
    by_row: dict[str, list[Record]] = {}
    for record in records:
        if record.spec.seed is not None and record.tasks:
            key = canonical_json(record.spec.model_dump(exclude={"seed"}))
            by_row.setdefault(key, []).append(record)
    for group in by_row.values():
        texts = [canonical_json({t: r.statistics.model_dump() for t, r in record.tasks.items()}) for record in group]
        for record, text in zip(group, texts, strict=True):
            if texts.count(text) > 1:
                findings.append(Finding("warning", _name(record), "has the same predictions as another seed"))
