"""Folders and files as a command line, the environment or a caller names them, resolved once: at the door."""

from __future__ import annotations

import os
from pathlib import Path

from benchmark.common.errors import UserError

#: Variables that name a folder. Processes that are started later, elsewhere too, are given them resolved.
VARIABLES = ("SYMERGE_CACHE", "SYMERGE_CHECKPOINTS", "SYMERGE_DATA")


def resolved(named: str | os.PathLike[str]) -> Path:
    """The absolute path that is meant, without ``~``, ``..`` and links. It need not exist; brackets and ``::`` stay.

    Raises UserError for an empty name, an unknown user's ``~``, or links that lead in a circle.
    """
    if not os.fspath(named):
        raise UserError("an empty name was given where a folder or file is wanted", "Write . for the present folder.")
    try:
        return Path(named).expanduser().resolve()
    except (RuntimeError, OSError) as error:
        raise UserError(f"{named} leads nowhere: {error}", "Write the whole path.") from None


def of_variable(name: str) -> Path | None:
    """The folder that an environment variable names, or None where it is not set or empty."""
    value = os.environ.get(name)
    return resolved(value) if value else None


def settle_variables() -> None:
    """Write the resolved folders back into the environment, for this process and those it starts."""
    for name in VARIABLES:
        path = of_variable(name)
        if path is not None:
            os.environ[name] = str(path)


def home() -> Path | None:
    """The user's home folder; None where neither HOME nor the system's list of users names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def in_home(*parts: str, instead: str) -> Path:
    """``~/.cache/symerge-bench/PARTS``. Raises UserError, saying what to do ``instead``, for a user without a home."""
    folder = home()
    if folder is None:
        raise UserError(f"no home folder is known for user id {os.getuid()}, and no other was named", instead)
    return folder.joinpath(".cache", "symerge-bench", *parts)
