"""Files written whole or not at all: beside their place first, then flushed to the disk, then put there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.common.errors import UserError

#: How the names of unfinished files begin; whoever holds a folder may remove them.
TEMPORARY = ".writing-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which is made, that takes the place of `path` on success.

    A reader, or a machine that stops, sees the old file or the new one, whole: the file and its folder are flushed to
    the disk, some milliseconds a call. Raises OSError; the old file is then as it was and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _flush(path.parent, os.O_RDONLY)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path, how: int) -> None:
    handle = os.open(path, how)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text`, see :func:`replacing`.

    Raises UserError, caused by an OSError, where the folder cannot be written or the disk is full.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def replace_file(path: Path, save: Callable[[Path], object]) -> str:
    """Let `save` write the file that takes the place of `path`, see :func:`replacing`; its sha256.

    Raises UserError, caused by an OSError, where the folder cannot be written or the disk is full.
    """
    try:
        with replacing(path) as temporary:
            save(temporary)
            with open(temporary, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_write(path, error) from error
    except Exception as error:
        # safetensors reports the system's errors by their number in its own exception's text.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        cause = OSError(int(number[1]), os.strerror(int(number[1])))
        raise cannot_write(path, cause) from cause


def file_sha256(path: Path) -> str | None:
    """The sha256 of a file, or None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file that could not be written, saying why and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what, hint = "the disk is full", "Free some space and run the same command again; finished runs are kept."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what, hint = "the folder cannot be written", "Choose another with --results DIR, or mend its permissions."
    else:
        what, hint = error.strerror or str(error), "Choose another folder with --results DIR."
    return UserError(f"cannot write {path}: {what}", hint)
