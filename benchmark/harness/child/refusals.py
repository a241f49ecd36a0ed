"""What a method's process refuses its code: files of data and results, the harness, other processes, the network.

It is Python's audit hook, so it sees what Python does. Code that goes around Python (``ctypes``, a compiled extension
that opens files by itself) is not stopped by it; docs/security.md says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from methods.core.errors import MergingError

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events that change what is on the disk; every path they name must be in the scratch folder.
CHANGES = frozenset(
    ["os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
     "os.utime", "os.setxattr", "os.removexattr", "shutil.move", "shutil.rmtree", "tempfile.mkstemp",
     "tempfile.mkdtemp"]
)  # fmt: skip
#: Audit events that start another process, or speak to another one.
OTHERS = frozenset(
    ["subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn",
     "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"]
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Refusal(MergingError, PermissionError):
    """A method did what its process refuses. The text says what, and what is allowed in its place."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Refusals:
    """The rules of one process.

    Args:
        scratch: the only folder in which anything may be written.
        hidden: folders of which nothing may be read: data, results, caches.
        open_to: folders that may be read even there: the interpreter, the methods.
        modules: modules of this project that are imported already, and may be again.
    """

    def __init__(self, scratch: Path, hidden: Sequence[Path], open_to: Sequence[Path], modules: frozenset[str]) -> None:
        self.scratch = os.path.realpath(scratch)
        self.hidden = tuple(os.path.realpath(folder) for folder in hidden)
        self.open_to = tuple(os.path.realpath(folder) for folder in open_to)
        self.modules = modules
        self.own = f"/proc/{os.getpid()}"

    def install(self) -> None:
        """From now on, for good: an audit hook cannot be taken away."""
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)):
                self._opened(os.path.realpath(os.fsdecode(path)), flags)
        elif event == "import":
            self._imported(arguments[0])
        elif event in OTHERS:
            raise Refusal(f"{event} was refused: a method starts no other process and speaks to none")
        elif event in CHANGES:
            for path in arguments:
                if isinstance(path, (str, bytes, os.PathLike)) and not self._is_scratch(os.fsdecode(path)):
                    raise Refusal(f"{event} {os.fsdecode(path)} was refused: {self._where()}")

    def _opened(self, path: str, flags: Any) -> None:
        if path in DEVICES or _within(path, self.scratch):
            return
        if isinstance(flags, int) and flags & WRITING:
            raise Refusal(f"writing {path} was refused: {self._where()}")
        if path.startswith("/proc/") and path.split("/")[2].isdigit() and not _within(path, self.own):
            raise Refusal(f"reading {path} was refused: a method looks into no other process")
        if any(_within(path, folder) for folder in self.hidden) and not any(_within(path, f) for f in self.open_to):
            raise Refusal(
                f"reading {path} was refused: a method reads no data and no results by itself; it draws samples from "
                "its stream, at the access it declares: @method(access=Access(...))"
            )

    def _imported(self, name: str) -> None:
        if name.partition(".")[0] == "benchmark" and name not in self.modules:
            raise Refusal(f"importing {name} was refused: a method uses methods.api, and nothing of the harness")

    def _is_scratch(self, path: str) -> bool:
        return _within(os.path.realpath(path), self.scratch)

    def _where(self) -> str:
        return "a method writes nothing but temporary files, in its current folder"


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def refused_exit(real: Callable[[int], Any]) -> Callable[[int], Any]:
    """In place of ``os._exit``, which would end the process without a word."""

    def exit(status: int) -> Any:
        raise Refusal(f"os._exit({status}) was refused: a method returns a Merged, or raises an error")

    exit.real = real  # type: ignore[attr-defined]
    return exit
