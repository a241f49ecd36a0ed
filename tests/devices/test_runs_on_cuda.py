"""Runs on a CUDA device from the command to the record: every domain, precision and way to name the device."""

from __future__ import annotations

import gc
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import emulated
from helpers.emulated import Machine
from helpers.lacking import lacks
from helpers.on_device import TinyBenchOn, TinyTextBenchOn
from helpers.tiny import TinyBench

import methods
from benchmark import suites
from benchmark.cli import main as cli
from benchmark.common import determinism
from benchmark.harness import judging
from benchmark.harness.child import process
from benchmark.harness.job import Options
from benchmark.harness.recording import UNSTEADY
from benchmark.harness.runner import execute, plan
from benchmark.records.precision import Precision
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.studies import transfer
from benchmark.suites.bench import Bench, resolve_device
from methods.api import Experts, Merged, StateFile

CUDA = torch.device("cuda", 0)


def records_of(folder: Path) -> dict[str, Record]:
    found = {record.variant: record for record in Store(folder, read_only=True).all()}
    assert all(record.status == "done" for record in found.values()), [r.error for r in found.values()]
    return found


def scores(record: Record) -> list[float]:
    return [record.tasks[task].value for task in sorted(record.tasks)]


@pytest.fixture
def two_tasks() -> Iterator[None]:
    """Suites have two tasks."""
    with emulated.two_tasks():
        yield


@pytest.mark.parametrize(
    ("device", "texts"),
    [("cuda", ["ties", "symerge:steps=2", "emr"]), ("cuda:0", ["weight_average"]), ("auto", ["weight_average"])],
)
def test_a_command_on_cuda_gives_the_scores_of_the_cpu(
    device: str, texts: list[str], cuda: Machine | None, two_tasks: None, tmp_path: Path
) -> None:
    for name in ("cpu", device):
        argv = ["run", "--suite", "vision-mini-8", "--methods", *texts, "--results", str(tmp_path / name)]
        assert cli.main([*argv, "--device", name]) == 0
    there, here = records_of(tmp_path / device), records_of(tmp_path / "cpu")
    assert there.keys() == here.keys() and set(texts) < there.keys()
    for name, record in there.items():
        assert record.provenance.device == "cuda:0" and record.provenance.gpu
        assert record.cost.peak_cuda_mb is not None
        assert record.run_id == here[name].run_id and here[name].cost.peak_cuda_mb is None
        assert scores(record) == pytest.approx(scores(here[name]), abs=1.0)


@pytest.mark.slow
def test_two_devices_share_a_plan_with_one_process_each(
    cuda: Machine | None, two_tasks: None, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    if cuda is None:
        pytest.skip(lacks("workers of a real device run whole suites", "./run_all.sh --device cuda:0 cuda:1, by hand"))
    argv = ["run", "--suite", "vision-mini-8", "--methods", "weight_average", "--results", str(tmp_path)]
    assert cli.main([*argv, "--threads", "1", "--device", "cuda:0", "cuda:1"]) == 0
    said = capfd.readouterr().err
    assert "ended with status" not in said, said
    records = records_of(tmp_path)
    assert set(records) == {"pretrained", "individual", "weight_average"}
    did = {name: set(re.findall(rf"\[(cuda:[01])\] {name}: accuracy", said)) for name in records}
    for name, record in records.items():
        assert record.provenance.device in did[name], (record.provenance.device, did)


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_on_cuda_runs_in_half_precision_and_leaves_coefficients_in_single(
    autocast: str, cuda: Machine | None, tmp_path: Path
) -> None:
    texts = ["symerge", "adamerging", "surgery:steps=2"]
    runs = plan(TinyBench(), texts, seeds=[0], precision=Precision(autocast=autocast))
    records = execute(runs[2:], TinyBenchOn(CUDA), Store(tmp_path), Options())
    assert all(record.status == "done" for record in records), [record.error for record in records]
    for record in records:
        assert record.spec.autocast == autocast and all(0 <= score <= 100 for score in scores(record))
        assert ("gradient_scale" in record.trace_summary) == (autocast == "float16")
    merged = StateFile(Store(tmp_path).folder(records[0].spec) / "merged.safetensors")
    kinds = {merged[name].dtype for name in merged if name.startswith(("shared/", "trace/coefficients"))}
    assert kinds == {torch.float32}


def dense() -> Bench:
    return suites.open_bench(suites.load("dense-mini"), device="cuda")


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (dense, ["weight_average", "symerge:steps=1,batch_size=4"]),
        (lambda: TinyTextBenchOn(CUDA), ["ties", "symerge:steps=2,batch_size=8", "tsv_m", "surgery:steps=2"]),
        (lambda: TinyBenchOn(CUDA), ["task_arithmetic:scale=val", "twin:steps=2", "joint:steps=2", "tall_mask"]),
    ],
    ids=["dense", "text", "vision"],
)
def test_every_domain_runs_on_cuda(make: Any, texts: list[str], cuda: Machine | None, tmp_path: Path) -> None:
    bench = make()
    jobs = [job for job in plan(bench, texts, seeds=[0]) if job.spec.method not in ("pretrained", "individual")]
    records = execute(jobs, bench, Store(tmp_path), Options())
    assert [record.status for record in records] == ["done"] * len(texts), [record.error for record in records]
    assert all(set(record.tasks) == set(bench.tasks) for record in records)
    assert all(record.cost.peak_cuda_mb is not None for record in records)


def test_a_run_begun_on_the_cpu_keeps_its_merge_and_is_evaluated_whole_on_cuda(
    cuda: Machine | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, score = Store(tmp_path), judging.Judged.score
    seen: list[str] = []

    def stops(self: judging.Judged, task: str, *rest: Any) -> Any:
        seen.append(task)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return score(self, task, *rest)

    (job,) = plan(TinyBench(), ["ties"], seeds=[0])[2:]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(judging.Judged, "score", stops)
        execute([job], TinyBench(), store, Options())
    begun = store.load(job.spec)
    assert begun is not None and len(begun.tasks) == 1 and begun.provenance.gpu is None
    bench = TinyBenchOn(CUDA)
    asked: list[str] = []
    monkeypatch.setattr(
        judging.Judged, "score", lambda self, task, *rest: asked.append(task) or score(self, task, *rest)
    )
    (record,) = execute(plan(bench, ["ties"], seeds=[0])[2:], bench, store, Options())
    assert record.status == "done" and asked == list(bench.tasks), "no score of one device beside one of another"
    assert record.provenance.device == "cuda:0" and record.provenance.gpu
    assert record.artifacts == begun.artifacts and record.cost.merge_seconds == begun.cost.merge_seconds


def test_a_study_places_layers_on_cuda(cuda: Machine | None, tmp_path: Path) -> None:
    bench = TinyBenchOn(CUDA, tasks=2, symerge={"steps": 2, "batch_size": 8})
    runs, derived = Store(tmp_path), Store(tmp_path / "studies" / "records")
    found = transfer.run(bench, ["symerge"], ["ties"], seeds=[0], runs=runs, derived=derived, options=Options())
    assert found and all(record.status == "done" for record in found), [record.error for record in found]
    assert {record.provenance.device for record in found} == {"cuda:0"}


def shaken(experts: Experts, **keywords: Any) -> Merged:
    """The mean of the experts, with an operation whose result hangs on the order in which a GPU adds."""
    torch.histc(torch.ones(8, device=experts.device), bins=4)
    return methods.get("task_arithmetic")(experts)


def test_a_record_names_what_is_not_deterministic_on_cuda(
    cuda: Machine | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(process.STAND_INS, "weight_average", shaken)
    bench, store = TinyBenchOn(CUDA), Store(tmp_path)
    records = execute(plan(bench, ["weight_average", "ties"], seeds=[0])[2:], bench, store, Options())
    assert all(record.status == "done" for record in records), [record.error for record in records]
    first, second = (record.trace_summary.get(UNSTEADY, []) for record in records)
    assert len(first) == 1 and "histc" in first[0] and not second
    assert not torch.are_deterministic_algorithms_enabled(), "only while it is evaluated"


def counted(experts: Experts, **keywords: Any) -> Merged:
    """The mean of the experts, and the devices that the process of the method has asked for something."""
    merged = methods.get("task_arithmetic")(experts)
    there = torch.stack([tensor.sum() for tensor in merged.shared.values()])
    assert there.device == torch.device("cuda", 1)
    (machine,) = (each for each in gc.get_objects() if isinstance(each, Machine))
    return Merged(experts, merged.shared, trace={"contexts": sorted(machine.contexts)})


def test_a_run_has_one_context_a_process_on_its_own_device(
    cuda: Machine | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda is None:
        pytest.skip(lacks("two emulated devices", "the same test without -m cuda"))
    monkeypatch.setitem(process.STAND_INS, "weight_average", counted)
    cuda.contexts.clear()
    bench = TinyBenchOn(resolve_device("cuda:1"))
    records = execute(
        plan(bench, ["weight_average", "surgery:steps=1"], seeds=[0])[2:], bench, Store(tmp_path), Options()
    )
    assert all(record.status == "done" for record in records), [record.error for record in records]
    assert cuda.contexts == {1} and records[0].trace_summary["contexts"] == [1]
    assert cuda.peak[0] == 0 < cuda.peak[1]


def test_cublas_is_told_to_be_deterministic_before_its_first_handle(
    cuda: Machine | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(determinism.WORKSPACE, raising=False)
    assert resolve_device("cuda") == CUDA and os.environ[determinism.WORKSPACE] == ":4096:8"
    with warnings.catch_warnings(), determinism.steady(CUDA) as unsteady:
        warnings.simplefilter("error")
        x = torch.ones(3, 3, device=CUDA)
        assert (x @ x).sum().item() == 27 and torch.are_deterministic_algorithms_enabled()
    assert not unsteady and not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv(determinism.WORKSPACE)
    assert resolve_device("cpu").type == "cpu" and determinism.WORKSPACE not in os.environ
