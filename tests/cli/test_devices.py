"""Device, dtype and autocast are passed through. What needs CUDA runs where it is; on the CPU stand-ins check."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.support import random_experts, random_stream, wide_experts
from helpers.tiny import TinyBench, TinySource
from torch import Tensor, nn

import methods
from benchmark import suites
from benchmark.board.selection import label
from benchmark.budget import estimate
from benchmark.budget.generated import vision as generated
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.vision.bench import Accuracy
from benchmark.executors import processes as devices
from benchmark.executors.worker import Opening
from benchmark.harness import provenance, recording, runner
from benchmark.harness.child import process
from benchmark.harness.child.inside import settled
from benchmark.harness.evaluate import autocast, batches, evaluate
from benchmark.harness.job import Job, Options
from benchmark.harness.runner import execute, plan
from benchmark.harness.setup import Setup
from benchmark.records.precision import Precision
from benchmark.records.store import Store
from benchmark.suites.bench import resolve_device, resolve_dtype
from methods.api import Experts, Merged
from methods.tools.coefficients import _HELD, LayerwiseMerge, vectors_in
from methods.tools.vectors import per_tensor

MIXED = Precision(autocast="bfloat16")


def test_the_next_batch_is_asked_for_before_the_present_one_is_handed_out() -> None:
    asked: list[int] = []

    class Told(TinySource):
        def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(int(index[0]))
            return super().__getitem__(index)

    source = Told(0, size=24)
    seen = []
    for number, (inputs, labels) in enumerate(batches(source, 10)):
        assert len(asked) == min(number + 2, 3)
        seen.append(labels)
        assert len(inputs) == len(labels)
    assert torch.equal(torch.cat(seen), source.labels)


def _tells_of_its_surroundings(experts: Experts, stream: Any, **keywords: Any) -> Merged:
    held = {"autocast": torch.is_autocast_enabled("cpu"), "held": str(_HELD.get())}
    return Merged(experts, trace=held)


def test_autocast_reaches_adaptation_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, seen = TinyBench(), set()

    class Spy(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Any:
            seen.add((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return self.inner(images)

    monkeypatch.setitem(process.STAND_INS, "symerge", _tells_of_its_surroundings)
    runs = plan(bench, ["symerge"], seeds=[0], precision=MIXED)
    records = execute(runs, bench, Store(tmp_path), Options())
    assert records[-1].trace_summary["autocast"] is True and all(r.status == "done" for r in records)
    plain = plan(bench, ["symerge"], seeds=[0])
    assert plain[-1].spec.run_id != runs[-1].spec.run_id
    model = Spy(methods.get("pretrained")(random_experts()).model("t0"))
    evaluate(model, TinySource(0), Accuracy("t0", 5), device=torch.device("cpu"), precision=MIXED)
    assert (True, torch.bfloat16) in seen


def test_coefficients_and_weights_stay_float32_under_autocast() -> None:
    experts = random_experts()
    with autocast(torch.device("cpu"), MIXED):
        merged = methods.get("symerge")(experts, random_stream(experts.tasks), steps=2, batch_size=8)
    assert merged.trace["coefficients"].dtype == torch.float32
    assert all(t.dtype == torch.float32 for t in merged.state_dict().values())
    exact = methods.get("symerge")(experts, random_stream(experts.tasks), steps=2, batch_size=8)
    assert (merged.trace["coefficients"] - exact.trace["coefficients"]).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_task_vectors_are_held_in_the_dtype_asked_for_and_everything_else_is_float32(dtype: torch.dtype) -> None:
    experts, exact = wide_experts(), LayerwiseMerge(wide_experts())
    with vectors_in(dtype):
        merge = LayerwiseMerge(experts)
    held = {name: part.vectors for _, part in merge._parts for name in part.names}
    assert [t.dtype for t in held["w"]] == [dtype] and [t.dtype for t in held["b"]] == [torch.float32]
    assert LayerwiseMerge(experts)._parts[-1][1].vectors[0].dtype == torch.float32, "only within"
    made, wanted = merge(), exact()
    assert all(t.dtype == torch.float32 for t in made.values())
    # Only the task vectors are rounded, by at most half of their last bit.
    rounding = 0.9 * sum(v.abs() for v in experts.task_vectors("w")) * 2.0 ** (-9 if dtype == torch.bfloat16 else -11)
    off = (made["w"] - wanted["w"]).abs()
    assert (off <= rounding + 1e-6).all() and off.max() > 0 and torch.equal(made["b"], wanted["b"])
    grads = {n: torch.randn_like(t) for n, t in made.items()}
    (found,) = torch.autograd.grad([made[n] for n in made], merge.raw, [grads[n] for n in made])
    (right,) = torch.autograd.grad([wanted[n] for n in made], exact.raw, [grads[n] for n in made])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, right, rtol=0.02, atol=0.02)
    assert not torch.equal(found, right)


def test_the_dtype_of_task_vectors_reaches_the_method_and_makes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, texts = TinyBench(), ["symerge", "ties"]
    plain, half = plan(bench, texts, seeds=[0]), plan(bench, texts, seeds=[0], precision=Precision(vectors="bfloat16"))
    # It is another run of what holds task vectors, and no other run of anything else.
    assert {a.spec.method for a, b in zip(plain, half, strict=True) if a.spec.run_id != b.spec.run_id} == {"symerge"}
    monkeypatch.setitem(process.STAND_INS, "symerge", _tells_of_its_surroundings)
    records = execute(half, bench, Store(tmp_path), Options())
    assert records[2].trace_summary["held"] == "torch.bfloat16" and all(r.status == "done" for r in records)
    assert [label(r) for r in records if "task vectors bfloat16" in label(r)] == ["symerge [task vectors bfloat16]"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_evaluated_in_the_dtype_asked_for(dtype: str) -> None:
    seen = set()

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 16 * 16, 5)

        def forward(self, images: Tensor) -> Tensor:
            seen.add(self.layer.weight.dtype)
            return self.layer(images.flatten(1).to(self.layer.weight.dtype))

    evaluate(Spy(), TinySource(0), Accuracy("t", 5), device=torch.device("cpu"), precision=Precision(dtype))
    assert seen == {resolve_dtype(dtype)}


def test_no_merge_mixes_the_experts_device_with_another() -> None:
    """The meta device is a stand-in for a second one: there, arithmetic with a CPU tensor raises."""
    base = {"w": torch.randn(4, 6), "b": torch.randn(4)}
    tuned = {t: {n: v + 0.1 for n, v in base.items()} for t in ("x", "y")}
    experts = Experts.from_state_dicts(base, tuned, device="meta")
    experts._finite = lambda name, owner, value: value  # type: ignore[method-assign]  # meta tensors have no values
    merge = LayerwiseMerge(experts)
    assert {t.device.type for t in merge().values()} == {"meta"} == {merge.raw.device.type}
    found = per_tensor(experts, lambda vectors: vectors.sum(0))
    assert {t.device.type for t in found.values()} == {"meta"}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.device]]:
    """Stand-ins of torch.cuda for a machine with two GPUs, as strict as ``set_device`` is. Returns the calls."""
    calls: list[tuple[str, torch.device]] = []

    def strict(name: str, answer: Any) -> None:
        def called(device: torch.device | int | None = None) -> Any:
            if not isinstance(device, int) and torch.device(device).index is None:  # type: ignore[arg-type]
                raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
            calls.append((name, torch.device(device)))  # type: ignore[arg-type]
            return answer

        monkeypatch.setattr(torch.cuda, name, called)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, answer in {
        "set_device": None, "synchronize": None, "max_memory_allocated": 0,
        "mem_get_info": (8 << 30, 16 << 30), "get_device_name": "make-believe",
    }.items():  # fmt: skip
        strict(name, answer)
    monkeypatch.setattr(estimate, "_speed", lambda device: (1e12, 1e11))
    return calls


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("auto", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_every_call_to_torch_cuda_names_the_device_by_its_index(
    name: str, index: int, two_gpus: list[tuple[str, torch.device]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(job: Job, setup: Setup) -> Any:
        bench = setup.bench
        assert torch.device(job.device) == bench.device
        record = recording.started(job, setup)
        assert settled(bench.device) == 0
        estimate.look(bench.device, tmp_path, tmp_path)
        record.status, record.provenance = "done", provenance.describe(bench, ())
        devices.append(record.provenance.device)
        return record

    devices: list[str] = []
    monkeypatch.setattr(runner, "do", one)
    argv = [
        "run",
        "--suite",
        "vision-mini-8",
        "--methods",
        "weight_average",
        "--results",
        str(tmp_path),
        "--device",
        name,
    ]
    assert cli.main(argv) == 0
    assert devices == [f"cuda:{index}"] * 3, "pretrained, individual, weight_average"
    assert {device for _, device in two_gpus} == {torch.device("cuda", index)}
    assert len({call for call, _ in two_gpus}) == 5, "every stand-in was asked"


def test_workers_and_benches_are_given_devices_with_an_index(
    two_gpus: list[tuple[str, torch.device]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[str] = []

    def spread(argv: Any, places: Any, *_: Any) -> None:
        shared.extend(devices.command(argv, place, tmp_path)[-3] for place in places)
        shared.extend(devices.labels(places))

    monkeypatch.setattr(devices, "spread", spread)
    monkeypatch.setattr(runner, "execute", lambda *_: [])
    run = [
        "run",
        "--suite",
        "vision-mini-8",
        "--methods",
        "weight_average",
        "--results",
        str(tmp_path),
        "--device",
        "cuda",
        "cuda:1",
        "auto",
    ]
    assert cli.main(run) == 0
    assert shared == ["cuda:0", "cuda:1", "cuda:0", "cuda:0#1", "cuda:1", "cuda:0#2"]
    opened = Opening("vision-mini-8", "ViT-mini", "mini", "cuda", "float32").open()
    assert opened.device == torch.device("cuda", 0)
    assert suites.open_bench(suites.load("dense-mini"), device=torch.device("cuda")).device == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_a_plan_for_auto_asks_for_the_gpu_memory_it_will_take(
    name: str, two_gpus: list[tuple[str, torch.device]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        cli.main(
            [
                "run",
                "--suite",
                "vision-mini-8",
                "--methods",
                "ties",
                "--results",
                str(tmp_path),
                "--device",
                name,
                "--dry-run",
            ]
        )
        == 0
    )
    assert "free now: device memory 8.0 GiB" in capsys.readouterr().out


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:", "cuda:-1", "cuda:x", "meta", ""])
def test_a_device_that_no_run_could_use_is_unknown(name: str, two_gpus: list[tuple[str, torch.device]]) -> None:
    with pytest.raises(UserError, match="unknown device .*\n.*cpu, cuda, cuda:N or auto"):
        resolve_device(name)


def test_a_device_that_is_not_there_is_named(two_gpus: list[tuple[str, torch.device]]) -> None:
    for name in ("cuda:2", "cuda:300"):
        with pytest.raises(UserError, match=f"device {name} is not there; this machine has 2 CUDA devices"):
            resolve_device(name)


def test_a_rehearsal_looks_for_its_device_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(generated, "write_family", lambda *_: pytest.fail("written"))
    argv = ["run", "--suite", "vision-8", "--backbone", "ViT-B-32", "--rehearse", "--results", str(tmp_path)]
    assert cli.main([*argv, "--methods", "ties", "--device", "cuda"]) == 2
    assert "device cuda is not there" in capsys.readouterr().err


def test_a_dtype_that_is_not_there_is_named() -> None:
    with pytest.raises(Exception, match="unknown dtype 'int8'"):
        resolve_dtype("int8")


@pytest.mark.slow
def test_runs_are_shared_out_to_the_devices_and_each_is_done_once(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    argv = [
        "run",
        "--suite",
        "vision-mini-8",
        "--methods",
        "weight_average",
        "--results",
        str(tmp_path),
        "--discard-merged",
        "--force",
    ]
    assert cli.main([*argv, "--device", "cpu", "cpu", "--threads", "1"]) == 0
    said = capfd.readouterr()
    names = {"pretrained", "individual", "weight_average"}
    assert set(re.findall(r"\[(cpu#[12])\] (\S+): accuracy", said.err)) == {
        (f"cpu#{i}", n) for i in (1, 2) for n in names
    }
    records = {r.variant: r for r in Store(tmp_path, read_only=True).all()}
    assert set(records) == names and all(r.status == "done" for r in records.values())
    assert "weight_average" in said.out and (tmp_path / "leaderboard.md").is_file()


def test_what_a_dead_worker_leaves_is_done_by_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    done = []

    def noted(runs: Any, *_: Any) -> list[Any]:
        done.extend(run.variant for run in runs)
        return []

    monkeypatch.setattr(devices, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(9)"])
    monkeypatch.setattr(runner, "execute", noted)
    assert cli.main(["run", "--methods", "weight_average", "--results", str(tmp_path), "--device", "cpu", "cpu"]) == 0
    assert "the process on cpu#2 ended with status 9; its runs are done here" in capfd.readouterr().err
    assert done == ["pretrained", "individual", "weight_average"]


def test_every_device_is_looked_for_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(devices, "spread", lambda *_: pytest.fail("started"))
    assert cli.main(["run", "--results", str(tmp_path), "--device", "cpu", "cuda:63"]) == 2
    assert "device cuda:63 is not there" in capfd.readouterr().err


def test_compiled_evaluation_gives_the_same_predictions() -> None:
    # The full compiler needs a C++ toolchain; this asks that the model runs through torch.compile at all.
    seen = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    real = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda model: real(model, backend=backend))
        found = []
        for compiled in (False, True):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
            found.append(
                evaluate(model, TinySource(0), Accuracy("t", 5), device=torch.device("cpu"), compiled=compiled)
            )
    assert found[0] == found[1] and seen


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "symerge", "adamerging"])
def test_cuda_gives_the_cpu_result(name: str) -> None:
    about, found = methods.get(name), []
    for device in ("cpu", "cuda"):
        experts = random_experts(device=device)
        experts.encoder.to(device)
        stream = random_stream(experts.tasks)
        stream.device = torch.device(device)
        keywords = {"steps": 3, "batch_size": 8} if about.access else {}
        merged = about(experts, *([stream] if about.access else []), **keywords)
        assert merged.model("t0")(torch.randn(2, 3, 16, 16, device=device)).device.type == device
        found.append({n: t.cpu() for n, t in merged.state_dict().items()})
    for tensor in found[0]:
        torch.testing.assert_close(found[0][tensor], found[1][tensor], atol=1e-3, rtol=1e-3)


@pytest.mark.cuda
def test_the_embedded_suite_runs_on_cuda(tmp_path: Path) -> None:
    bench = suites.open_bench(suites.load("vision-mini-8"), device="cuda")
    runs = plan(bench, ["symerge:steps=2", "ties"], seeds=[0], precision=MIXED)
    records = execute(runs, bench, Store(tmp_path), Options())
    assert all(r.status == "done" for r in records) and records[-1].cost.peak_cuda_mb > 0
