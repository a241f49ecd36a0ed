"""Memory of a process."""

from __future__ import annotations

import ctypes
from pathlib import Path

from benchmark.common.processor import keep_freed_memory


def anonymous_bytes(pid: int | str = "self") -> int | None:
    """Resident memory of a process that is no mapped file, in bytes; None where the system does not tell it."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def give_back() -> bool:
    """Hand memory that was freed, and that the C library keeps for later, back to the system; whether it can be told.

    glibc keeps freed pieces of up to 32 MB: a gibibyte after one update of ResNet-50 on two images of 288 x 384.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    trim(0)
    return True


class KeptMemory:
    """Freed memory stays with the process from one round to the next, but for what holes between pieces would add.

    What is kept is of use where the next round asks for the same pieces. Where it does not, and the process has grown
    by more than a quarter of what it held after its first rounds, all of it is handed back: AdaRank, whose pieces are
    of many sizes, grew by 80 MB an update otherwise, in some of its runs, until the machine had no more.
    """

    FIRST, GROWN = 2, 1.25

    def __init__(self) -> None:
        keep_freed_memory()
        self.rounds, self.usual = 0, 0

    def after_round(self) -> None:
        """To be called between two rounds."""
        if (held := anonymous_bytes()) is None:
            return
        self.rounds += 1
        if self.rounds <= self.FIRST:
            self.usual = held
        elif held > self.GROWN * self.usual:
            give_back()
            # What is still there is in use, and no reason to do so again.
            self.usual = max(self.usual, anonymous_bytes() or 0)
