"""The same bounds kept by the kernel, where that can: files beyond an allowed list, connections, signals to others.

Landlock (Linux 5.13 and later, docs.kernel.org/userspace-api/landlock.html) lets a process give up rights for good,
without any privilege. It holds for code of every language, where the audit hook of :mod:`refusals` sees Python alone.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

#: System calls, on every architecture.
CREATE, ADD, RESTRICT = 444, 445, 446
NO_NEW_PRIVILEGES = 38
WRITE_FILE, READ_FILE = 1 << 1, 1 << 2
#: Removing, making and moving of any kind; truncating; by the version of the interface that knows it.
CHANGES = {1: sum(1 << bit for bit in range(4, 13)), 2: 1 << 13, 3: 1 << 14}
#: What one may do with a file, in contrast to a folder.
OF_FILES = WRITE_FILE | READ_FILE | 1 << 14
#: Folders of the system that libraries read, as far as they are there.
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/sys", "/proc", "/opt", "/run", "/nix", "/gnu")


def version() -> int:
    """The version of the kernel's interface; 0 where it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    found: int = ctypes.CDLL(None).syscall(CREATE, None, 0, 1)
    return max(found, 0)


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """From now on this thread, and those it starts, read and write these files and folders alone; False where the
    kernel cannot. Connections over TCP and signals to processes outside are refused too, where it knows of them."""
    known = version()
    if not known:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    every = WRITE_FILE | READ_FILE | sum(bits for since, bits in CHANGES.items() if known >= since)
    # Of networks: binding and connecting. Of other processes: abstract sockets and signals.
    words = [every, 3 if known >= 4 else None, 3 if known >= 6 else None]
    attributes = b"".join(struct.pack("Q", word) for word in words if word is not None)
    rules = libc.syscall(CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    try:
        allowed = [(path, READ_FILE) for path in readable] + [(path, every) for path in writable]
        for path, rights in allowed:
            try:
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            rule = struct.pack("=Qi", rights if path.is_dir() else rights & OF_FILES, handle)
            failed = libc.syscall(ADD, rules, 1, rule, 0)
            os.close(handle)
            if failed:
                return False
        return not libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) and not libc.syscall(RESTRICT, rules, 0)
    finally:
        os.close(rules)


def around(folders: Iterable[Path], hidden: Sequence[Path]) -> list[Path]:
    """The folders without those hidden in them: in place of a folder that holds one, what else it holds."""
    kept: list[Path] = []
    for folder in folders:
        if any(folder == each or folder.is_relative_to(each) for each in hidden) or not folder.exists():
            continue
        if folder.is_dir() and any(each.is_relative_to(folder) for each in hidden):
            kept += around(folder.iterdir(), hidden)
        else:
            kept.append(folder)
    return kept
