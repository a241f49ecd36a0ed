"""The side of the harness: start a method's process, serve it samples, bound it, and hear what came of it.

What it says is data: JSON and tensors of the sizes that were asked for. Processes are forked from a server that has
imported torch and read nothing; it starts once a command.
"""

from __future__ import annotations

import collections
import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.common.escapes import printable
from benchmark.common.project import ROOT
from benchmark.harness.child import inside
from benchmark.harness.child.channel import BrokenMessage, Channel, Message
from benchmark.harness.child.inside import Assignment
from benchmark.harness.measure import anonymous_bytes
from methods.api import Source

#: Seconds after its time limit that a process has to say so itself.
GRACE = 5.0
#: How much larger a model's outputs may be than its inputs, and bytes beside.
ROOM = 64, 1 << 20
GIB = 2**30
#: Functions in place of methods' own, by name; tests put some here.
STAND_INS: dict[str, Callable[..., Any]] = {}
#: What a process does before anything else; a test that emulates a device does so there too.
BEFORE: list[Callable[[], Any]] = []


class Failure(Exception):
    """A method failed in its process, or its process did. ``kind`` is the class of its error, ``where`` its line."""

    def __init__(self, kind: str, message: str, *, where: str = "", trail: str = "", unfit: bool = False) -> None:
        super().__init__(message)
        self.kind, self.message, self.where, self.trail, self.unfit = kind, message, where, trail, unfit


class Served:
    """The sources that a method's access grants, and how many of their samples were handed out.

    Args:
        sources: ``{split: {task: source}}``.
        labelled: splits whose labels go with the inputs.
    """

    def __init__(self, sources: Mapping[str, Mapping[str, Source]], labelled: set[str]) -> None:
        self.sources, self.labelled = sources, labelled
        self.first: float | None = None
        """When the method was handed its first sample (`time.perf_counter`); those of the protocol are not its own."""
        self._handed: dict[tuple[str, str], Tensor] = {}

    @property
    def lengths(self) -> dict[str, dict[str, int]]:
        """Samples of every split and task."""
        return {split: {t: len(source) for t, source in tasks.items()} for split, tasks in self.sources.items()}

    @property
    def distinct(self) -> int:
        """How many samples the method was handed, each counted once; those of the suite's protocol are not its own."""
        return sum(int(handed.sum()) for (split, _), handed in self._handed.items() if split != "protocol")

    def read(self, split: str, task: str, index: Any) -> list[Any]:
        """Inputs as they are stored, and labels where they are granted."""
        if split not in self.sources or task not in self.sources[split]:
            raise BrokenMessage(f"samples of {split!r} of {task!r} were asked for, which the method is not granted")
        source = self.sources[split][task]
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
            raise BrokenMessage("samples are asked for by int64 [n]")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(source):
            raise Failure("IndexError", f"a sample of {task!r} was asked for that is not among its {len(source)}")
        if self.first is None and split != "protocol":
            self.first = time.perf_counter()
        handed = self._handed.setdefault((split, task), torch.zeros(len(source), dtype=torch.bool))
        handed[index] = True
        inputs, labels = stored(source, index)
        return [inputs, labels if split in self.labelled else None]


def stored(source: Source, index: Tensor) -> tuple[Any, Any]:
    """Samples as the source stores them where it says how, else as it gives them."""
    read: Callable[[Tensor], tuple[Any, Any]] = getattr(source, "stored", source.__getitem__)
    return read(index)


class AsStored:
    """A source whose inputs are as they are stored; the process that runs the model makes them ready."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Tensor) -> tuple[Any, Any]:
        return stored(self.source, index)


class Child:
    """A process that runs methods' code; a context, at whose end it is gone.

    Args:
        assignment: what it is given.
        memory: bytes of anonymous memory at which it is ended.
        rounds: called with done, total and text as the method advances.
        tell: called with each line that the process prints.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        memory: float,
        rounds: Callable[[int, int, str], Any] = lambda done, total, text: None,
        tell: Callable[[str], Any] = lambda line: None,
    ) -> None:
        self.assignment, self.memory, self.rounds, self.tell = assignment, memory, rounds, tell
        self.peak = self.start = 0
        self._ended, self._deadline = "", math.inf
        self._tail: collections.deque[str] = collections.deque(maxlen=200)

    def __enter__(self) -> Child:
        ours, theirs = multiprocessing.Pipe()
        printed, printing = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(target=inside.main, args=(self.assignment, theirs, printing), daemon=True)
        with _no_main():
            self.process.start()
        theirs.close()
        printing.close()
        self.channel, self._done = Channel(ours), threading.Event()
        self._reader = threading.Thread(target=self._listen, args=(printed,), daemon=True)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._reader.start()
        self._watcher.start()
        try:
            self._ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self) -> None:
        """Wait until it has opened the experts; from here on its memory is the method's."""
        self._bound()
        try:
            message = self.channel.receive()
        except (EOFError, OSError):
            raise self._death() from None
        finally:
            self._deadline = math.inf
        if message.kind == "failed":
            raise self._failure(message)
        self.start = self.peak = anonymous_bytes(self.process.pid or 0) or 0

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self.process.kill()
        self.process.join()
        self._watcher.join()
        self._reader.join(1)
        self.channel.connection.close()

    def _watch(self) -> None:
        """Note the peak of its memory, and end it where it takes too much of that or of time."""
        pid = self.process.pid
        while not self._done.wait(0.01):
            self.peak = max(self.peak, anonymous_bytes(pid or 0) or 0)
            if self.peak > self.memory:
                self._ended = "memory"
            elif time.monotonic() > self._deadline:
                self._ended = "time"
            if self._ended:
                self.process.kill()
                return

    def _listen(self, printed: multiprocessing.connection.Connection) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := os.read(printed.fileno(), 1 << 16):
                *whole, rest = (rest + data).split(b"\n")
                if len(rest) > 4096:
                    whole, rest = [*whole, rest], b""
                for line in whole:
                    self._say(line)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        text = printable(line.decode(errors="replace"), 4096)
        self._tail.append(text)
        self.tell(text)

    def ask(
        self, kind: str, tree: Any = None, *, served: Served | None = None, room: float = 0, **fields: Any
    ) -> Iterator[Message]:
        """Send a request and yield what is answered, while samples are served; the last one is the answer.

        Raises:
            Failure: the method failed, or its process ended.
        """
        self._bound()
        try:
            self.channel.send(kind, tree, **fields)
            while True:
                message = self.channel.receive(room if served is None else max(room, 8 << 24))
                if message.kind == "failed":
                    raise self._failure(message)
                if message.kind == "read" and served is not None:
                    self.channel.send("samples", served.read(message["split"], message["task"], message.tree))
                elif message.kind == "round":
                    self.rounds(int(message["done"]), int(message["total"]), printable(message["text"], 200))
                else:
                    yield message
                    if message.kind != "returned":
                        return
        except (EOFError, OSError):
            raise self._death() from None
        except (BrokenMessage, ValueError, TypeError) as error:
            raise Failure(
                type(error).__name__, f"the method's process broke the rules: {printable(error, 500)}"
            ) from None
        finally:
            self._deadline = math.inf

    def _bound(self) -> None:
        """From now on it has its time limit for an answer."""
        limit = self.assignment.time_limit
        self._deadline = time.monotonic() + limit + GRACE if limit else math.inf

    def answer(self, kind: str, tree: Any = None, **given: Any) -> Message:
        """The answer to a request; see :meth:`ask`."""
        (message,) = collections.deque(self.ask(kind, tree, **given), maxlen=1)
        return message

    def _failure(self, message: Message) -> Failure:
        return Failure(
            printable(message["type"], 100),
            printable(message["message"], 2 * inside.LONGEST),
            where=printable(message["where"], 300),
            trail=printable(message["traceback"], 2 * inside.LONGEST),
            unfit=message["unfit"] is True,
        )

    def _death(self) -> Failure:
        """Why the process ended without an answer."""
        self.process.join(GRACE)
        self._reader.join(GRACE)
        status = self.process.exitcode
        if self._ended == "memory":
            return Failure(
                "out of memory",
                f"its process held {self.peak / GIB:.1f} GiB of anonymous memory and the limit is "
                f"{self.memory / GIB:.1f}: --memory-limit GIB raises it",
            )
        if self._ended == "time":
            limit = self.assignment.time_limit
            return Failure(
                "timeout",
                f"the run took more than {limit:g} s and did not stop; raise the limit with --time-limit SECONDS",
            )
        if status is not None and status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            return Failure(name, f"its process was ended by {name} before it returned a merge", where=self._last_line())
        return Failure(
            "exit", f"its process ended with status {status} before it returned a merge", where=self._last_line()
        )

    def _last_line(self) -> str:
        """The innermost line outside the harness and the libraries that the trace of a crash names."""
        for line in self._tail:
            found = re.search(r'File "([^"]+)", line (\d+) in (\w+)', line)
            path = Path(found[1]).resolve() if found else Path()
            own = path.is_relative_to(ROOT) and "site-packages" not in path.parts
            if found and own and not path.is_relative_to(ROOT / "benchmark"):
                return f"{path.parent.name}/{path.name}, line {found[2]}, in {found[3]}"
        return ""


class Elsewhere(nn.Module):
    """The model of one task that another process runs, or a bystander's view of it; inputs are as they are stored."""

    def __init__(self, child: Child, task: str, split: str, view: str = "") -> None:
        super().__init__()
        self.child, self.task, self.split, self.view = child, task, split, view

    def forward(self, inputs: Any) -> Any:
        times, more = ROOM
        room = times * _nbytes(inputs) + more
        return self.child.answer("predict", inputs, room=room, task=self.task, split=self.split, view=self.view).tree


def _nbytes(tree: Any) -> int:
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, Mapping):
        return sum(map(_nbytes, tree.values()))
    return sum(map(_nbytes, tree)) if isinstance(tree, (list, tuple)) else 0


# A process that is forked off this one has no server yet: the one it inherits answers to its parent alone.
os.register_at_fork(after_in_child=lambda: forkserver._forkserver.__init__())  # type: ignore[misc]


def start_server(modules: set[str]) -> None:
    """Start the server that processes are forked from, where none runs yet; it imports these modules and no data.

    It is ready in the time that the harness needs to read its own files.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preloaded", *sorted(modules)])
    before = os.environ.get("PYTHONPATH")
    # The server runs this very code, wherever it was imported from.
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    try:
        with _no_main():
            forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Processes do not import again the program that was started: they need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
