"""`symerge-bench submit pack|validate|verify|schema`: how a third party's records get onto the board."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import methods
from benchmark import suites
from benchmark.board.selection import current, left_out
from benchmark.cli.options import Parser, add_device
from benchmark.common.errors import UserError, check_range, shown
from benchmark.common.escapes import terminal
from benchmark.common.paths import resolved
from benchmark.common.project import REFERENCE, ROOT, SUBMITTED
from benchmark.records import metrics
from benchmark.records.record import SOURCES, Record, TaskResult
from benchmark.records.spec import other_data, parse_method, present_version, variant_label
from benchmark.records.store import Store, safe_name, write_atomic
from benchmark.submissions.package import SUFFIX, labelled, load, pack, save, schema
from benchmark.submissions.validation import Known, check

if TYPE_CHECKING:
    import torch


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's actions, each with its options."""
    parser.description = __doc__
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    packing = commands.add_parser("pack", help="make one file of a results folder's complete records")
    packing.set_defaults(action=_pack)
    packing.add_argument("results", type=resolved, metavar="RUN_DIR", help="a results folder, e.g. results/local")
    packing.add_argument("--title", required=True, help="what is submitted, in one line")
    packing.add_argument("--authors", nargs="+", required=True, metavar="NAME")
    packing.add_argument("--link", default="", help="paper or code")
    packing.add_argument("--note", default="", help="what a reader must know")
    packing.add_argument("--methods", nargs="+", metavar="NAME", help="only these methods")
    packing.add_argument("--out", type=resolved, metavar="FILE", help=f"default: NAME{SUFFIX} of the first method")
    validating = commands.add_parser("validate", help="check a submission, a record, or a folder of them")
    validating.set_defaults(action=_validate)
    validating.add_argument("path", type=resolved, metavar="FILE_OR_DIR")
    validating.add_argument(
        "--into",
        type=resolved,
        metavar="DIR",
        help="without errors, also file the records there as submitted, not re-run",
    )
    verifying = commands.add_parser("verify", help="run it again with its own parameters, compare, and accept it")
    verifying.set_defaults(action=_verify)
    verifying.add_argument("path", type=resolved, metavar="FILE_OR_DIR")
    verifying.add_argument("--into", type=resolved, default=SUBMITTED, metavar="DIR", help="default: results/submitted")
    add_device(verifying)
    verifying.add_argument(
        "--tolerance",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="on each task, for other machines; of depths and angles percent of the value; default 0.5",
    )
    writing = commands.add_parser("schema", help="write the JSON Schemas of records and submissions")
    writing.set_defaults(action=_schema)
    writing.add_argument("--out", type=resolved, default=ROOT / "docs" / "schema", metavar="DIR")


def command(arguments: argparse.Namespace) -> int:
    """Do one action. Returns 0, or 1 where the submission has errors. Raises UserError for what the user can mend."""
    return int(arguments.action(arguments))


def _pack(arguments: argparse.Namespace) -> int:
    if not arguments.results.is_dir():
        raise UserError(f"no records under {shown(arguments.results)}", "Name a results folder, e.g. results/local")
    records = _named(Store(arguments.results, read_only=True).all(), arguments.methods or [])
    submission = pack(
        records, title=arguments.title, authors=arguments.authors, link=arguments.link, note=arguments.note
    )
    out = arguments.out or Path(f"{safe_name(submission.records[0].spec.method)}{SUFFIX}")
    save(submission, out)
    names = {record.spec.suite for record in submission.records}
    print(f"packed {len(submission.records)} records of {len(names)} suites in {shown(out)}")
    return _report(submission.records, hashes=False)


def _named(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """Of the records those that count today, of the methods as named; other variants and versions are told."""
    asked = [parse_method(name) for name in names]
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.spec.suite, record.spec.backbone, record.spec.family].append(record)
    chosen, odd = [], Counter[str]()
    for record in (each for group in groups.values() for each in current(group).records):
        spec = record.spec
        if asked and not any(spec.method == name and _is_variant(record, keys) for name, keys in asked):
            if any(spec.method == name for name, _ in asked):
                odd[f"{record.variant}: not named; add it to --methods to send it"] += 1
        elif spec.method in methods.names() and spec.method_version != present_version(spec.method, spec.parameters):
            odd[f"{record.variant}: made by an earlier version of methods/{spec.method}; run it again to send it"] += 1
        else:
            chosen.append(record)
    for text, count in sorted(odd.items()):
        print(terminal(f"left out: {text}{f' ({count} records)' if count > 1 else ''}"))
    return chosen


def _is_variant(record: Record, keywords: Mapping[str, Any]) -> bool:
    """Whether the keywords, typed after a method's name, make the record's variant and no other."""
    same = all(record.spec.parameters.get(key) == value for key, value in keywords.items())
    return same and set(record.changed) <= set(keywords)


def _validate(arguments: argparse.Namespace) -> int:
    records = _loaded(arguments.path)
    failed = _report(records)
    if arguments.path.is_dir() and any(record.status == "failed" for record in records):
        print(f"runs that failed can be removed: ./run_all.sh clean --results {shown(arguments.path)}")
    if arguments.into and not failed:
        for record in records:
            print(f"filed: {shown(Store(arguments.into).save(labelled(record, SOURCES[2])))}")
    return failed


def _loaded(path: Path) -> list[Record]:
    """The records; of a folder without runs that failed and that another run stands for, which are named."""
    records = load(path)
    gone = [each for each in left_out(records) if each.record.status == "failed"] if path.is_dir() else []
    for record, why in gone:
        print(f"left out: {record.variant} on {record.spec.suite} ({record.run_id}) failed, {why}")
    return [record for record in records if not any(record is each.record for each in gone)]


def _report(records: Sequence[Record], hashes: bool = True) -> int:
    """Print what the checks find; 1 where there are errors. `hashes`: also those of data and checkpoints."""
    findings = check(records, _reference(records), manifests if hashes else None)
    for finding in findings:
        print(finding)
    levels = Counter(finding.level for finding in findings)
    bad = {finding.record for finding in findings if finding.level == "error"}
    sources = Counter(record.provenance.source for record in records)
    print(f"{len(records)} records ({', '.join(f'{count} {source}' for source, count in sources.items())})")
    print(f"{levels['error']} errors in {len(bad)} records, {levels['warning']} warnings")
    return 1 if bad else 0


def _reference(records: Sequence[Record]) -> list[Record]:
    store = Store(REFERENCE, read_only=True)
    return [record for suite in sorted({r.spec.suite for r in records}) for record in store.all(suite)]


@functools.cache
def manifests(suite: str, backbone: str, family: str) -> Known | str:
    """The hashes and metrics of this checkout, or why they cannot be had (full suites need their files here)."""
    try:
        bench = _bench(suite, backbone, family, "cpu")
    except UserError as error:
        return error.message
    return Known(
        data_of=bench.data_of,
        checkpoints=dict(bench.checkpoints),
        metrics={name: task.metric for name, task in bench.tasks.items()},
        reads=dict(bench.reads),
        access=tuple(bench.access),
        samples=functools.cache(lambda task: len(bench.source(task, "test"))),
    )


def _bench(suite: str, backbone: str, family: str, device: str | torch.device, dtype: str = "float32") -> Any:
    return suites.open_bench(suites.load(suite), backbone=backbone, family=family, device=device, dtype=dtype)


def _verify(arguments: argparse.Namespace) -> int:
    check_range("--tolerance", arguments.tolerance, 0, 100)
    records = _loaded(arguments.path)
    if _report(records):
        raise UserError("a submission with errors is not run again", "Mend the errors above first.")
    failed = 0
    _check_committed(records)
    with tempfile.TemporaryDirectory() as folder:
        for record in records:
            again = Store(folder)
            said = verify(record, again, arguments.device, arguments.tolerance)
            passed = not said.startswith("differs")
            failed += not passed
            print(f"{record.variant} seed {record.spec.seed}: {said}")
            if passed and (rerun := again.load(record.spec)):
                print(f"  accepted, as run here: {shown(Store(arguments.into).save(labelled(rerun, SOURCES[1])))}")
    return 1 if failed else 0


def _check_committed(records: Sequence[Record]) -> None:
    """Raise UserError for a method whose file is not in the present commit, which records made here will name."""
    from benchmark.harness.provenance import git_state, holds

    commit, _ = git_state()
    for name in sorted({record.spec.method for record in records} & set(methods.names())):
        file = f"methods/{methods.describe(name).path.name}"
        if commit and holds(commit, file) is False:
            raise UserError(
                f"{file} is not in commit {commit[:12]} as it is here, and a record made here would name that commit",
                f"Type git add {file} && git commit, then verify again.",
            )


def verify(record: Record, store: Store, device: str | torch.device = "cpu", tolerance: float = 0.5) -> str:
    """Run a submitted record again in `store` and say how the two compare: "identical", "within ...", or "differs ...".

    Raises UserError where this checkout cannot make the same run (other code, checkpoints or parameters), naming what
    differs.
    """
    from benchmark.harness import runner
    from benchmark.harness.job import Options

    spec = record.spec
    bench = _bench(spec.suite, spec.backbone, spec.family, device, spec.dtype)
    text = variant_label(spec.method, spec.parameters)
    seeds = [0 if spec.seed is None else spec.seed]
    planned = runner.plan(bench, [text], seeds=seeds, precision=spec.precision)
    job = next(job for job in reversed(planned) if job.spec.method == spec.method)
    if job.id != record.run_id:
        mine, theirs = job.spec.model_dump(), spec.model_dump()
        other = ", ".join(key for key in theirs if theirs[key] != mine[key])
        if (said := other_data(spec.data, job.spec.data)) is not None:
            other += f" ({said})"
        raise UserError(
            f"{record.variant}: this checkout does not make the same run; it differs in {other}",
            f"Check out the commit it was made with: {record.provenance.commit or 'none is named'}",
        )
    (again,) = runner.execute([job], bench, store, Options(keep_merged=False, argv=record.provenance.argv))
    if again.status != "done":
        return f"differs: the run ends as {again.status}: {again.error.line() if again.error else ''}"
    claim, answer = ({key: getattr(each, key) for key in SAID} for each in (record, again))
    if wrong := [key for key in SAID if claim[key] != answer[key]]:
        return f"differs in {', '.join(wrong)}: the re-run says {', '.join(str(answer[key]) for key in wrong)}"
    if all(result.statistics == again.tasks[task].statistics for task, result in record.tasks.items()):
        return "identical in every prediction"
    gaps = {task: _points(result, again.tasks[task]) for task, result in record.tasks.items()}
    task = max(gaps, key=lambda name: gaps[name])
    if gaps[task] <= tolerance:
        return f"within {gaps[task]:.2f} points (percent of depths and angles) on every task"
    return (
        f"differs by {gaps[task]:.2f} on {task}: submitted {record.tasks[task].value:.2f}, "
        f"here {again.tasks[task].value:.2f}; allowed are {tolerance:g}"
    )


#: What a record says of its run beside scores and costs; a re-run must say the same.
SAID = ("variant", "changed", "method", "access", "needs_task_id")


def _points(claimed: TaskResult, measurement: TaskResult) -> float:
    """The difference in points; of a metric that is no percentage in percent of the value found."""
    gap = abs(claimed.value - measurement.value)
    metric = metrics.METRICS.get(claimed.metric)
    return gap if metric is None or metric.percent else 100 * gap / max(abs(measurement.value), 1e-12)


def _schema(arguments: argparse.Namespace) -> int:
    for kind in ("record", "submission"):
        path = arguments.out / f"{kind}.schema.json"
        write_atomic(path, schema(kind))
        print(f"wrote {shown(path)}", file=sys.stderr)
    return 0
