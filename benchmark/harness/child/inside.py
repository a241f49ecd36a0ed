"""The side of the method: what runs in its process, from the first line to the last.

It is handed the experts, how inputs are made ready, and a channel; samples come over the channel, at the access of the
method. It calls methods and runs their merges, and never sees a label that the access does not grant.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import inspect
import multiprocessing.connection
import os
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import methods
from benchmark.common.determinism import steady
from benchmark.common.errors import UserError, line_in
from benchmark.common.escapes import printable
from benchmark.common.files import replace_file
from benchmark.common.processor import flush_small_numbers
from benchmark.common.project import ROOT
from benchmark.harness import adapted
from benchmark.harness.child import landlock, portable
from benchmark.harness.child.channel import Channel, Message
from benchmark.harness.child.refusals import Refusals, refused_exit
from benchmark.harness.child.serving import Serving
from benchmark.harness.evaluate import autocast
from benchmark.harness.guard import time_limit
from benchmark.harness.measure import KeptMemory, give_back
from benchmark.records.precision import Precision
from benchmark.suites.bench import resolve_dtype
from methods.api import Access, Experts, Merged, MergingError, NotApplicable, Stream
from methods.core.stream import place
from methods.tools.coefficients import vectors_in
from methods.tools.scaling import ScaledGradients

#: Rooms of this project whose modules may be there while a method runs; of ``domains`` those of the models alone.
ROOMS = ("common", "records", "suites", "harness", "checkpoints")
#: Of a text that a method makes: an error's message, a traceback.
LONGEST = 2000

#: The end of the name of a file with the adapted layers of a merge.
ADAPTED = ".adapted"

Ready = Callable[[Any], Any]
View = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Assignment:
    """What a process is for, and all that it is given but the channel.

    Attributes:
        experts: as :func:`portable.pack` made them.
        scratch: its current folder, and the only one that it may write to.
        hidden: folders of which it may read nothing.
        readable: files in them that it may read all the same: the merge that it runs.
        seed: of torch's global generators, for layers that initialise themselves.
        ready: ``{split: {task: function}}`` that makes inputs, as they are stored, what the encoder takes.
        function: what is called with experts and stream in place of the method: of runs made from other runs.
        views: what is made of a task's model for each of the suite's bystanders, by name.
        finish: what the suite's protocol does to every merge; it takes a source of its own.
        stand_ins: functions in place of methods' own, for tests.
        before: functions that are called before anything else, for tests.
    """

    method: str
    experts: Experts
    scratch: Path
    hidden: tuple[Path, ...]
    device: str
    threads: int
    precision: Precision
    seed: int
    time_limit: float | None
    ready: Mapping[str, Mapping[str, Ready | None]]
    readable: tuple[Path, ...] = ()
    function: Callable[[Any, Any], Any] | None = None
    finish: Callable[[Merged, Any], Merged] | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    stand_ins: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    before: tuple[Callable[[], Any], ...] = ()


class Source:
    """One split of one task, whose samples are with the harness."""

    def __init__(self, channel: Channel, split: str, task: str, length: int, ready: Ready | None) -> None:
        self.channel, self.split, self.task, self.length, self.ready = channel, split, task, length, ready

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Tensor) -> tuple[Any, Tensor | None]:
        self.channel.send("read", index, split=self.split, task=self.task)
        inputs, labels = self.channel.receive().tree
        return self.ready(inputs) if self.ready else inputs, labels


def main(assignment: Assignment, connection: Connection, output: Connection) -> None:
    """Answer what the harness asks, until it hangs up."""
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    faulthandler.enable(file=2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    channel = Channel(connection)
    try:
        worker = Worker(assignment, channel)
    except BaseException as error:
        channel.send("failed", **_failure(assignment.method, error))
        return
    channel.send("ready")
    while True:
        try:
            request = channel.receive()
        except (EOFError, OSError):
            return
        try:
            worker.answer(request)
        except BaseException as error:
            channel.send("failed", **_failure(assignment.method, error))


class Worker:
    """The experts, and what is done with them on request."""

    def __init__(self, assignment: Assignment, channel: Channel) -> None:
        self.given, self.channel, self.count = assignment, channel, 0
        for begin in assignment.before:
            begin()
        self.device = torch.device(assignment.device)
        flush_small_numbers()
        torch.set_num_threads(assignment.threads)
        # Until the process ends.
        self._kept = contextlib.ExitStack()
        self.unsteady = self._kept.enter_context(steady(self.device))
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.experts = portable.placed(assignment.experts, self.device)
        for name, function in assignment.stand_ins.items():
            methods.get(name).function = function
        self._close_off()
        torch.manual_seed(assignment.seed)

    def _close_off(self) -> None:
        """From here on the process is the method's."""
        given, scratch = self.given, self.given.scratch
        os.chdir(scratch)
        tempfile.tempdir = str(scratch)
        sys.dont_write_bytecode = True
        os._exit = refused_exit(os._exit)  # type: ignore[assignment]
        models = {type(part).__module__ for part in self._modules()}
        kept = set()
        for name in [name for name in sys.modules if name.partition(".")[0] == "benchmark"]:
            room, _, rest = name.removeprefix("benchmark").lstrip(".").partition(".")
            if room in ("", *ROOMS) or name in models or (room == "domains" and "." not in rest):
                kept.add(name)
                continue
            module = sys.modules.pop(name)
            above, _, last = name.rpartition(".")
            if above in sys.modules and getattr(sys.modules[above], last, None) is module:
                delattr(sys.modules[above], last)
        hidden = [folder.resolve() for folder in given.hidden]
        code = {
            Path(path).resolve() for path in (*sys.path, *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)
        }
        readable = landlock.around([*code, *map(Path, landlock.SYSTEM)], hidden)
        landlock.restrict([*readable, *given.readable], [scratch, Path("/dev")])
        open_to = [Path(path) for path in sysconfig.get_paths().values()] + [ROOT / "methods"]
        Refusals(scratch, given.hidden, open_to, frozenset(kept)).install()

    def _modules(self) -> list[Any]:
        parts = [self.experts.encoder, *self.experts.heads.values()]
        return [module for part in parts if part is not None for module in part.modules()]

    def answer(self, request: Message) -> None:
        """Do one thing, and say what came of it."""
        {"merge": self.merge, "open": self.open, "predict": self.predict}[request.kind](request)

    def merge(self, request: Message) -> None:
        """Call the method and save what it returns."""
        given, stream, scaled = self.given, None, None
        self.count += 1
        path = given.scratch / f"merge-{self.count}.safetensors"
        with time_limit(given.time_limit), contextlib.ExitStack() as around:
            if lengths := request["lengths"]:
                stream = self._stream(request, lengths)
                around.enter_context(autocast(self.device, given.precision))
                if given.precision.autocast == "float16":
                    scaled = around.enter_context(ScaledGradients())
                around.enter_context(vectors_in(resolve_dtype(given.precision.vectors)))
            if given.function is not None:
                merged = given.function(self.experts, stream)
            else:
                merged = methods.get(given.method)(self.experts, stream, **request["keywords"])
            around.close()
            if not isinstance(merged, Merged):
                raise MergingError(f"{given.method} returned {type(merged).__name__}; expected Merged(experts, ...)")
            if scaled is not None:
                merged.trace.update(scaled.summary())
            if given.finish is not None:
                settled(self.device)
                self.channel.send("returned")
                give_back()
                merged = given.finish(merged, self._source("protocol", "all", request["protocol"]))
        peak = settled(self.device)
        self.channel.send("returned")
        try:
            replace_file(path, merged.save)
            layers = adapted.save(merged, path.with_suffix(ADAPTED))
        except UserError as error:
            cause = error.__cause__
            assert isinstance(cause, OSError)
            self.channel.send("unwritten", number=cause.errno, reason=printable(cause.strerror, 200))
            return
        self.channel.send(
            "saved",
            path=path.name,
            adapted=layers is not None,
            peak_cuda_mb=peak,
            drawn=stream.drawn if stream is not None else 0,
            storage=merged.storage,
            unsteady=sorted(self.unsteady),
        )

    def _source(self, split: str, task: str, length: int) -> Source:
        return Source(self.channel, split, task, length, self.given.ready.get(split, {}).get(task))

    def _stream(self, request: Message, lengths: Mapping[str, Mapping[str, int]]) -> Stream:
        limit = self.given.time_limit
        return Stream(
            {split: {t: self._source(split, t, n) for t, n in tasks.items()} for split, tasks in lengths.items()},
            Access(**request["access"]),
            seed=request["seed"],
            device=self.device,
            deadline=time.monotonic() + limit if limit else None,
            progress=self._rounds,
        )

    def _rounds(self, steps: Any, total: int, text: str) -> Any:
        kept, told = KeptMemory(), 0.0
        for number, step in enumerate(steps):
            if time.monotonic() - told > 0.1:
                told = time.monotonic()
                self.channel.send("round", done=number, total=total, text=str(text)[:200])
            yield step
            kept.after_round()
        self.channel.send("round", done=total, total=total, text=str(text)[:200])

    def open(self, request: Message) -> None:
        """Read a saved merge, whose models this process will run, and say what they need."""
        self.serving = Serving(Path(request["path"]), self.experts, self.given.precision)
        probes = {t: place(self._ready(request, t)(inputs), self.device) for t, inputs in request.tree.items()}
        storage, needs_task = self.serving.needs(probes)
        self.channel.send("opened", storage=storage, needs_task=needs_task)

    def _ready(self, request: Message, task: str) -> Ready:
        return self.given.ready[request["split"]][task] or (lambda inputs: inputs)

    def predict(self, request: Message) -> None:
        """Run one task's model, or the view of it that a bystander takes, on inputs as they are stored."""
        task, view = request["task"], request["view"]
        model = self.serving.model(task)
        if view:
            model = self.given.views[view](model)
        inputs = place(self._ready(request, view or task)(request.tree), self.device)
        with torch.inference_mode(), autocast(self.device, self.given.precision):
            self.channel.send("outputs", model(inputs))


def settled(device: torch.device) -> float | None:
    """Wait for what a GPU still has to do, so that its time counts; the peak of its memory in MiB, None of a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def _failure(method: str, error: BaseException) -> dict[str, Any]:
    """An error as plain text, whatever its class does."""
    where = ""
    with contextlib.suppress(Exception):
        where = line_in(_file(method), error)
    try:
        trail = "".join(traceback.format_exception(error))
    except BaseException:
        trail = "".join(traceback.format_tb(error.__traceback__))
    return {
        "type": printable(type(error).__name__, 100),
        "message": printable(error, LONGEST),
        "where": printable(where, 300),
        "traceback": printable(trail[-LONGEST:], LONGEST),
        "unfit": isinstance(error, NotApplicable),
    }


def _file(method: str) -> Path:
    """Where the method stands, or what stands in for it, whether or not it can be imported."""
    try:
        function: Any = methods.get(method).function
    except BaseException:
        return methods.describe(method).path
    while isinstance(function, functools.partial):
        function = function.func
    return Path(inspect.getfile(inspect.unwrap(function)))


def _end_with_parent() -> None:
    """The process ends with the harness's, however that ended."""
    parent, leave = multiprocessing.parent_process(), os._exit
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        leave(1)

    threading.Thread(target=wait, daemon=True).start()
