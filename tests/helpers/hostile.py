"""Methods that a clever or careless author may write, by name; each takes the place of another in its process."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.api import Experts, Merged, Stream
from methods.reference import expert_state

KEPT: list[Any] = []


def plain(experts: Experts, **more: Any) -> Merged:
    """A merge as any: the mean of the experts."""
    return Merged(experts, {n: experts.base_tensor(n) + experts.task_vectors(n).mean(0) for n in experts.names}, **more)


def _tried(attempt: Callable[[], Any]) -> str:
    """What came of an attempt, in words."""
    try:
        return f"came through: {attempt()}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _labels_in(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1


def digs_in_its_stream(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    index = torch.arange(4)
    source = stream._sources["test"][stream.tasks[0]]
    says: dict[str, Any] = {
        "item": str(source[index][1]),
        "attributes": [name for name, value in vars(source).items() if _labels_in(value)],
        "frames": [],
    }
    frame = sys._getframe()
    while frame is not None:
        says["frames"] += [name for name, value in frame.f_locals.items() if name == "labels" and value is not None]
        frame = frame.f_back  # type: ignore[assignment]
    return plain(experts, trace={"said": says})


def asks_for_another_split(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    source: Any = stream._sources["test"][stream.tasks[0]]
    source.channel.send("read", torch.arange(4), split="train", task=stream.tasks[0])
    return plain(experts, trace={"said": _tried(source.channel.receive)})


def fetches_everything(experts: Experts, stream: Stream, **keywords: Any) -> Merged:
    for task in stream.tasks:
        for _ in range(2):
            stream.fetch(task, torch.arange(stream.size(task)))
    return plain(experts)


def reaches_out(experts: Experts, stream: Stream | None = None, *, data: str, results: str, **keywords: Any) -> Merged:
    """All that a process refuses, one after the other."""

    def load() -> Any:
        from benchmark.domains.vision.embedded import load_split

        return load_split

    def score() -> Any:
        import benchmark.records.metrics

        return benchmark

    record = next(Path(results).rglob("record.json"))
    attempts = {
        "data": lambda: Path(data).read_bytes(),
        "data by os": lambda: os.open(data, os.O_RDONLY),
        "a link to data": lambda: (os.symlink(data, "link"), open("link", "rb").read()),
        "results": lambda: record.read_text(),
        "write results": lambda: record.with_name("mine.json").write_text("{}"),
        "delete results": lambda: record.unlink(),
        "move into results": lambda: (Path("mine").write_text("x"), os.replace("mine", record))[1],
        "elsewhere": lambda: (Path(results).parent / "elsewhere").mkdir(),
        "load_split": load,
        "scores": score,
        "subprocess": lambda: subprocess.run(["cat", data], capture_output=True, check=True),
        "system": lambda: os.system("true"),
        "fork": os.fork,
        "memory of the harness": lambda: open(f"/proc/{os.getppid()}/mem", "rb").read(1),
    }
    return plain(experts, trace={"said": {name: _tried(attempt) for name, attempt in attempts.items()}})


def reaches_out_below_python(experts: Experts, stream: Stream | None = None, *, data: str, **keywords: Any) -> Merged:
    """What the audit hook does not see."""
    import pyarrow.parquet

    libc = ctypes.CDLL(None, use_errno=True)
    attempts = {
        "pyarrow": lambda: pyarrow.parquet.read_table(data),
        "libc": lambda: libc.open(data.encode(), os.O_RDONLY),
        "a signal": lambda: libc.kill(os.getppid(), 0),
        "a file beside": lambda: libc.open(str(Path(data).with_name("mine")).encode(), os.O_CREAT | os.O_WRONLY, 0o600),
    }
    return plain(experts, trace={"said": {name: _tried(attempt) for name, attempt in attempts.items()}})


def writes_a_temporary_file(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(b"some")
    torch.save({"a": torch.ones(2)}, "mine.pt")
    return plain(experts, trace={"read": float(torch.load("mine.pt")["a"].sum())})


def leaves_a_hook(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    encoder: Any = experts.encoder
    encoder.register_forward_hook(lambda module, inputs, output: output * 0)
    merged = plain(experts)
    experts.base = {n: t * 0 for n, t in experts.base.items()}  # type: ignore[assignment]
    return merged


def leaves_a_mess(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    merged = plain(experts)
    context = torch.autocast("cpu", dtype=torch.bfloat16)
    context.__enter__()
    KEPT.append(context)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    Tensor.argmax = lambda self, *a, **k: torch.zeros(self.shape[0], dtype=torch.int64)  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        if name.startswith(("torchmetrics", "benchmark.scores")) and hasattr(module, "multiclass_accuracy"):
            module.multiclass_accuracy = lambda *a, **k: torch.tensor(1.0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    return merged


def exits(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    os._exit(0)


def ends_for_good(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    """As ``exits``, by the function that was there before."""
    os._exit.real(0)  # type: ignore[attr-defined]
    raise AssertionError


def crashes(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    ctypes.string_at(0)
    raise AssertionError


def closes(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    raise GeneratorExit("enough")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def cannot_say(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    raise Unprintable


def says_a_surrogate(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    raise ValueError("half a pair: \ud800, and \x1b[31mred")


def says_too_much(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    raise ValueError("x" * 50_000_000)


def never_ends(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    Path("begun").touch()
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            continue


def takes_all(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    while True:
        KEPT.append(torch.ones(1 << 22))


def prints(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    print("a line of mine, \x1b[31mred")
    return plain(experts)


def returns_the_experts(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    return Merged(experts, state=expert_state, declared=-(10**12), needs_task=False)


def claims_less_than_nothing(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    return plain(experts, trace={"adapt_seconds": -1e9})


def claims_no_number(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    return plain(experts, trace={"trainable": "many"})


def forges_a_merge(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    """A rule that is none of this project's methods."""
    merged = plain(experts)
    merged.rule = lambda merged, task: {}  # type: ignore[assignment]
    return merged


class Silent(Merged):
    """A merge that writes something else than a merge."""

    def save(self, path: Any) -> None:
        Path(path).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")


def saves_no_merge(experts: Experts, stream: Stream | None = None, **keywords: Any) -> Merged:
    return Silent(experts)
