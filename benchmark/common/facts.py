"""What is known of files without reading them again: content decides, and nothing else is taken for it.

A fact, such as a sha256, is trusted for as long as device, inode, size and both times in nanoseconds (of the content
and of the inode) of its files stay. Size and the time of the content alone say nothing: a copy or an unpacked archive
sets both. What changed a moment ago may change again within one tick of its file system's clock, so it is read each
time until it has settled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.common.cache import cache_dir
from benchmark.common.errors import UserError
from benchmark.common.files import open_regular, read_object, write_atomic

#: Seconds; the coarsest clock of a file system still in use (FAT) ticks every two.
TICK = 2.0
_FACTS: dict[str, Any] = {}


def remembered(what: str, files: Sequence[Path], read: Callable[[], Any], *, on_disk: bool = True) -> Any:
    """``read()``, or what it gave before while the files were as they are now.

    Args:
        what: names the fact.
        files: on whose contents alone it depends.
        kept: also for later processes, in the cache folder; the fact is then a JSON value (a tuple comes back as a
            list). Otherwise in this process only.

    Raises OSError for a file that is not there, and what ``read`` raises.
    """
    before = [_state(file) for file in files]
    key = hashlib.sha256(repr((what, before)).encode()).hexdigest()[:40]
    if key in _FACTS:
        return _FACTS[key]
    memo = None
    if on_disk:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UserError):
            memo = cache_dir() / "facts" / f"{key}.json"
            _FACTS[key] = read_object(memo)["fact"]
            return _FACTS[key]
    now = time.time()
    fact = read()
    settled = all(changed < (now - TICK) * 1e9 for *_, written, inode in before for changed in (written, inode))
    if settled and before == [_state(file) for file in files]:
        _FACTS[key] = fact
        if memo is not None:
            with contextlib.suppress(UserError):  # where that is possible
                write_atomic(memo, json.dumps({"fact": fact}) + "\n")
    return fact


def sha256(file: Path, *, on_disk: bool = True) -> str:
    """The file's sha256 as hex, remembered as :func:`remembered` does."""

    def read() -> str:
        with open_regular(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    digest: str = remembered("sha256", [file], read, on_disk=on_disk)
    return digest


def _state(file: Path) -> tuple[int, int, int, int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
