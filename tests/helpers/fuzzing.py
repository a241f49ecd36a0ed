"""Checkpoint files altered at random, and what reading them did: nothing run, no hang, a clear error or a result."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from benchmark.checkpoints.families import FamilyError, check_file
from benchmark.checkpoints.pickles import read_state
from helpers import damage
from helpers.forks import fork
from methods.api import Experts, MergingError

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
MOST_SECONDS = 20
MOST_MEMORY = 1 << 30
SHAPES: dict[str, tuple[int, ...]] = {"w": (6, 5), "b": (6,), "scale": ()}

#: What a reader has no business doing, besides importing what is not Python's own and opening files to write.
FORBIDDEN = ("exec", "compile", "marshal.", "os.", "subprocess.", "shutil.", "socket.", "ctypes.", "pty.", "code.")
HARMLESS = {"os.listdir", "os.scandir", "os.putenv", "socket.__new__"}


class Forbidden(BaseException):
    """Reading a file tried to do something."""


@dataclass
class Counts:
    """How many altered files were read, refused with the project's own error, and handled in a wrong way."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        return self.read + self.refused + len(self.faults)


def _tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


def _as_expert(path: Path) -> None:
    """A safetensors file as a method reads it: opened lazily, every tensor taken."""
    base = _tensors()
    experts = Experts.from_state_dicts(base, {"t": path})
    for name in experts.names:
        experts.task_vectors(name)


def _as_family(path: Path) -> None:
    """A safetensors file as a family is checked, without the hash that would refuse it at once."""
    check_file(path, SHAPES)


def _as_pickle(path: Path) -> None:
    read_state(path)


def _pickles(name: str) -> Callable[[], list[bytes]]:
    """The files of that layout, one of each open_clip."""
    return lambda: [path.read_bytes() for path in sorted(CHECKPOINTS.glob(f"*/{name}.pt"))]


def _attributed() -> list[bytes]:
    """A state dict whose tensors have attributes, as ``torch.save`` and its predecessor write it."""
    state = _tensors()
    for value in state.values():
        value.tag = {"a": [1, "x"]}  # type: ignore[attr-defined]
    made = []
    for modern in (True, False):
        stream = io.BytesIO()
        torch.save(state, stream, _use_new_zipfile_serialization=modern)
        made.append(stream.getvalue())
    return made


Target = tuple[Callable[[Path], None], str, Callable[[], list[bytes]]]
TARGETS: dict[str, Target] = {
    "safetensors, read as an expert": (
        _as_expert, ".safetensors", lambda: [save(_tensors()), save(_tensors(torch.float16))],
    ),
    "safetensors, checked as a family's": (_as_family, ".safetensors", lambda: [save(_tensors(torch.bfloat16))]),
    **{
        f"pickle, {name}": (_as_pickle, ".pt", _pickles(name))
        for name in ("zip", "state_dict", "legacy", "plain", "plain2", "head")
    },
    "pickle, attributes": (_as_pickle, ".pt", _attributed),
}  # fmt: skip


def fuzz(target: str, count: int, seed: int = 0) -> Counts:
    """``count`` altered files of one target, read in processes of their own; the same seed alters the same way."""
    found, done = Counts(), 0
    with tempfile.TemporaryDirectory() as folder:
        while done < count:
            ours, theirs = os.pipe()
            child = fork(lambda done=done, theirs=theirs: _work(target, range(done, count), seed, Path(folder), theirs))
            os.close(theirs)
            with os.fdopen(ours) as pipe:
                for line in pipe:
                    outcome, text = json.loads(line)
                    done += 1
                    if outcome == "read":
                        found.read += 1
                    elif outcome == "refused":
                        found.refused += 1
                    else:
                        found.faults.append(f"{target}, file {done - 1} of seed {seed}: {text}")
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if done < count:
                found.faults.append(f"{target}, file {done} of seed {seed}: the process ended with {status}")
                done += 1
    return found


def altered(target: str, number: int, seed: int) -> bytes:
    """File ``number`` of a target: one of its whole files, altered once to three times."""
    rng = random.Random(f"{target} {seed} {number}")
    whole = TARGETS[target][2]()
    data = rng.choice(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = damage.bytes_of(data, rng) if data else data
    return data


def _work(target: str, numbers: range, seed: int, folder: Path, pipe: int) -> int:
    read, suffix, whole = TARGETS[target]
    path = folder / f"altered{suffix}"
    for data in whole():  # whatever is imported on first use is imported here
        path.write_bytes(data)
        read(path)
    _limit()
    state = {"watching": False}
    sys.addaudithook(lambda event, arguments: _watch(state, event, arguments))
    with os.fdopen(pipe, "w", buffering=1) as told:
        for number in numbers:
            path.write_bytes(altered(target, number, seed))
            signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
            state["watching"] = True
            try:
                read(path)
                outcome = "read", ""
            except (FamilyError, MergingError) as error:
                clear = path.name in str(error) or "expert 't'" in str(error) or len(str(error)) > 20
                outcome = ("refused", "") if clear else ("fault", f"unclear error {error!r}")
            except BaseException as error:
                outcome = "fault", f"{type(error).__name__}: {error}"[:300]
            state["watching"] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            told.write(json.dumps(outcome) + "\n")
    return 0


def _limit() -> None:
    """A hang becomes an error, and so does asking for a gigabyte more than there is."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"still reading after {MOST_SECONDS} s")

    signal.signal(signal.SIGALRM, ring)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, used + MOST_MEMORY))


def _importing() -> bool:
    """Whether the interpreter is loading a module of its own library, which the readers do on first use."""
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def _watch(state: dict[str, bool], event: str, arguments: tuple[Any, ...]) -> None:
    if not state["watching"]:
        return
    foreign = event == "import" and arguments[0].partition(".")[0] not in sys.stdlib_module_names
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    runs = event.startswith(FORBIDDEN) and event not in HARMLESS
    if foreign or ((writes or runs) and not _importing()):
        state["watching"] = False
        raise Forbidden(f"{event} {str(arguments)[:100]}")
