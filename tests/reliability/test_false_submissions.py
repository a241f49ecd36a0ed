"""What a submission can't claim: `submit validate` names everything that is false in it, at once, and files nothing."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.records import classified

from benchmark.cli import main as cli
from benchmark.cli import submit
from benchmark.common.errors import UserError
from benchmark.records.record import Array, Record, Sums, TaskResult, Values
from benchmark.records.spec import RunSpec
from benchmark.records.store import Store
from benchmark.submissions import package
from benchmark.submissions.validation import check

ROOT = Path(__file__).parents[2]
SUITE = "vision-mini-8"
Fields = dict[str, Any]


@pytest.fixture(scope="module")
def reference() -> list[Record]:
    return Store(ROOT / "results" / "reference", read_only=True).all(SUITE)


def named(records: list[Record], variant: str) -> Record:
    return next(record for record in records if record.variant == variant)


def forged(record: Record, edit: Callable[[Fields], object]) -> Record:
    """The record with its fields edited, and its id that of its spec again."""
    fields = json.loads(record.model_dump_json())
    edit(fields)
    fields["run_id"] = RunSpec.model_validate(fields["spec"]).run_id
    return Record.model_validate(fields)


def errors(record: Record, reference: list[Record], **more: Any) -> str:
    found = check([record], reference, **more)
    return "\n".join(finding.what for finding in found if finding.level == "error")


def update(place: str, value: Any) -> Callable[[Fields], object]:
    """Sets the field at a path with dots."""

    def edit(fields: Fields) -> None:
        *path, last = place.split(".")
        for name in path:
            fields = fields[name]
        fields[last] = value

    return edit


FALSE = [
    ("ties", "spec.method_version", "0" * 16, "is of version 0000000000000000 of ties"),
    ("ties", "spec.method_version", "a" * 100_000, "method_version 'aaa"),
    ("ties", "spec.method_version", "a" * 100_000, "has 100,000 characters"),
    ("ties", "method.title", "SyMerge", "its title is 'SyMerge'"),
    ("ties", "method.paper", "arXiv:2412.19098", "its paper is 'arXiv:2412.19098'"),
    ("ties", "variant", "symerge", "its variant is 'symerge'"),
    ("ties", "changed", {"keep": 0.9}, "changed says other values than its parameters of 'keep'"),
    ("emr", "needs_task_id", False, "says it needs no task id"),
    ("ties", "needs_task_id", True, "says it needs task id"),
    ("ties", "spec.parameters.keep", "0.2", "keep is '0.2'; a plan writes it as 0.2"),
    ("ties", "spec.parameters.keep", [[0.2]], "parameter 'keep' is nested"),
    ("ties", "spec.parameters.keep", [0.2], "keep=[0.2] is not allowed"),
    ("ties", "spec.parameters.keep", {"a": 1}, "parameter 'keep' is nested"),
    ("ties", "spec.parameters.keep", "<b>0.2</b>", "keep=<b>0.2</b> is not allowed"),
    ("ties", "spec.parameters.merge", "\x1b[31m", "holds control characters"),
    ("ties", "spec.dtype", "float128", "dtype 'float128' is not one of"),
    ("ties", "spec.vectors", "bfloat16", "says bfloat16 task vectors"),
    ("ties", "provenance.notes", ["fine\nRow | 99"], "provenance.notes holds control characters"),
    ("ties", "provenance.versions", {"x\x07": "1"}, "holds control characters"),
    ("ties", "provenance.argv", ["x" * 5000], "provenance.argv has 5,000 characters"),
    ("ties", "spec.method", "../../x", "method '../../x' is no name of a method"),
    ("ties", "spec.method", "a\nb", "is no name of a method"),
    ("ties", "spec.parameters.inner", "x" * 300, "its keywords are"),
]


@pytest.mark.parametrize(("variant", "place", "value", "said"), FALSE, ids=[f"{row[1]}-{row[3][:12]}" for row in FALSE])
def test_what_is_false_of_a_method_or_no_text_of_one_line_is_an_error(
    variant: str, place: str, value: Any, said: str, reference: list[Record]
) -> None:
    genuine = named(reference, variant)
    assert errors(genuine, reference) == ""
    assert said in errors(forged(genuine, update(place, value)), reference)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_cost_that_no_run_has_is_an_error(value: float, reference: list[Record]) -> None:
    record = named(reference, "ties")
    odd = record.model_copy(update={"cost": record.cost.model_copy(update={"merge_seconds": value})})
    assert f"cost merge_seconds is {value}" in errors(odd, reference)


def with_samples(record: Record, n: int) -> Record:
    tasks = {task: classified(np.arange(n) % 2 == 0) for task in record.tasks}
    return record.model_copy(update={"tasks": tasks})


@pytest.mark.parametrize("n", [1, 99])
def test_other_numbers_of_samples_than_the_split_has_are_errors(n: int, reference: list[Record]) -> None:
    """By the project's own records of the same data, and without them by the data."""
    record = named(reference, "ties")
    task, right = next((task, result.n) for task, result in record.tasks.items())
    wanted = f"{task}: was tested on {n} samples; its test split has {right}"
    assert wanted in errors(with_samples(record, n), reference)
    assert wanted in errors(with_samples(record, n), [], manifests=submit.manifests)


def test_records_of_one_submission_are_tested_on_the_same_samples(reference: list[Record]) -> None:
    one, two = named(reference, "ties"), with_samples(named(reference, "emr"), 99)
    assert any("was tested on 99 samples" in finding.what for finding in check([one, two]))


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_filed(
    tmp_path: Path, reference: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: Fields) -> None:
        for place, value in (
            ("spec.method_version", "0" * 16), ("spec.dtype", "float128"), ("spec.parameters.keep", "0.2"),
            ("method.title", "\x1b[2JBest"), ("cost.storage_bytes", -(10**12)), ("changed", {"keep": 9}),
        ):  # fmt: skip
            update(place, value)(fields)

    bad = with_samples(forged(named(reference, "ties"), edit), 99)
    path = tmp_path / "x.submission.json"
    package.save(package.Submission(title="x", authors=["y"], records=[bad]), path)
    assert cli.main(["submit", "validate", str(path), "--into", str(tmp_path / "filed")]) == 1
    out = capsys.readouterr().out
    said = (
        "of version 0000",
        "float128",
        "writes it as 0.2",
        "title",
        "storage_bytes is -1",
        "changed says",
        "99 samples",
    )
    assert [each for each in said if each not in out] == []
    assert "\x1b" not in out and not (tmp_path / "filed").exists()


def test_fields_of_a_wrong_kind_are_all_named(tmp_path: Path, reference: list[Record]) -> None:
    fields = json.loads(package.Submission(title="x", authors=["y"], records=reference[:2]).model_dump_json())
    fields["records"][0]["tasks"]["MNIST"]["value"] = "many"
    fields["records"][1]["needs_task_id"] = "perhaps"
    path = tmp_path / "x.submission.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"records\.0\.tasks\.MNIST\.value.*; records\.1\.needs_task_id"):
        package.load(path)


def packed(tmp_path: Path, tasks: dict[str, TaskResult], record: Record) -> Path:
    path = tmp_path / "bomb.submission.json"
    fields = json.loads(package.Submission(title="x", authors=["y"], records=[record]).model_dump_json())
    fields["records"][0]["tasks"] = {name: json.loads(result.model_dump_json()) for name, result in tasks.items()}
    path.write_text(json.dumps(fields))
    return path


def bomb(shape: list[int], dtype: str = "uint8") -> Array:
    """Zeros of this shape, as small as zlib makes them; made without holding them."""
    small = Array.of(np.zeros([1], dtype))
    return small.model_copy(update={"shape": shape, "data": Array.of(np.zeros(min(shape[0], 1 << 20), dtype)).data})


@pytest.mark.parametrize("shape", [[1 << 34], [1 << 20, 1 << 12], [750, 2000, 2000]])
def test_a_submission_that_declares_huge_arrays_is_refused_before_one_is_unpacked(
    shape: list[int], tmp_path: Path, reference: list[Record]
) -> None:
    result = TaskResult.model_construct(
        metric="miou", value=1.0, higher_is_better=True, n=shape[0], kind="segmentation", others={},
        statistics=Values.model_construct(type="values", arrays={"confusion": bomb(shape)}),
    )  # fmt: skip
    path = packed(tmp_path, {"MNIST": result}, named(reference, "ties"))
    tracemalloc.start()
    with pytest.raises(UserError, match="declares arrays of"):
        package.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_arrays_of_few_bytes_that_a_metric_would_spread_out_are_refused(reference: list[Record]) -> None:
    """Classes 0 to 99 of 120,000 samples are 120 kB, and 9.6 GB as one-hot cells of a confusion matrix."""
    labels = Array.of((np.arange(120_000) % 100).astype("uint8"))
    result = TaskResult(
        metric="mcc", value=100.0, n=120_000, statistics=Values(arrays={"predicted": labels, "label": labels})
    )
    record = named(reference, "ties").model_copy(update={"tasks": {"MNIST": result}})
    tracemalloc.start()
    said = errors(record, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "more than this metric counts" in said and peak < 64 << 20


def test_sums_hide_no_number_of_samples(reference: list[Record]) -> None:
    sums = TaskResult(
        metric="rel_err", value=0.5, higher_is_better=False, n=99, statistics=Sums(sums={"rel_sum": 1.0, "count": 2.0})
    )
    record = named(reference, "ties").model_copy(update={"tasks": {"MNIST": sums}})
    assert "was tested on 99 samples" in errors(record, reference)


@pytest.mark.parametrize("odd", [None, True, -1, 1e308, "", "x", "\ud83d", [], [[]], {}, [1, "a"], {"a": [1]}, "val"])
def test_no_value_of_a_parameter_ends_in_a_trace(odd: Any, reference: list[Record]) -> None:
    for variant in ("ties", "symerge", "task_arithmetic", "emr"):
        genuine = named(reference, variant)
        for key in genuine.spec.parameters:
            try:
                record = forged(genuine, update(f"spec.parameters.{key}", odd))
            except ValueError:
                continue
            check([record], reference)
