"""What a run needs beside the project: data sets and checkpoints, each with the check that the run makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.common.errors import Missing, UserError

State = Literal["there", "missing", "wrong"]


@dataclass(frozen=True)
class Part:
    """One data set, or the base, one expert or one head of a family."""

    kind: Literal["data", "base", "expert", "head"]
    name: str
    """The task's, or empty for what there is one of."""
    check: Callable[[], object]
    """What opening the bench and reading a split call; raises `Missing` where nothing is there, else UserError."""
    mend: str
    """The command that makes it what it should be."""
    place: Path | None
    """Its file or folder; None where no folder was named."""
    disk: int | None
    """Bytes that it takes once it is there, by shapes or as a source says; None where nothing says."""
    download: int | None
    """Bytes that are fetched for it, likewise."""


@dataclass(frozen=True)
class Finding:
    """What stands of a part."""

    part: Part
    state: State
    why: str = ""

    @property
    def stored(self) -> int | None:
        """Bytes of it that lie on the disk."""
        place = self.part.place
        if self.state == "missing" or place is None:
            return None
        files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)


def look(part: Part) -> Finding:
    """Check one part."""
    try:
        part.check()
    except Missing as error:
        return Finding(part, "missing", error.message)
    except UserError as error:
        return Finding(part, "wrong", error.message.strip())
    return Finding(part, "there")
