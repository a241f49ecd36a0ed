"""Memory of a process."""

from __future__ import annotations

from pathlib import Path


def anonymous_bytes(pid: int | str = "self") -> int | None:
    """Resident memory of a process that is no mapped file, in bytes; None where the system does not tell it."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
