"""Files written whole or not at all: beside their place first, then flushed to the disk, then put there.

And files of others, read only where they are files: a pipe would be waited for, a device never ends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from benchmark.common.errors import UserError

#: Of a text that is read whole: a manifest, settings, a vocabulary.
LARGEST_TEXT = 256 << 20
_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip

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


class NotRegular(OSError):
    """What stands in the place of a file is none, or is larger than what is read; ``strerror`` says so."""

    def __init__(self, path: Path, what: str, number: int = errno.EINVAL) -> None:
        super().__init__(number, what, str(path))


def check_regular(path: str | Path, most: int | None = None) -> int:
    """The size of a file of a user, in bytes. Nothing is opened, since opening a pipe or a device may do something.

    Raises OSError where there is none, :class:`NotRegular` for a pipe, a device, a folder, or more than ``most`` bytes.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotRegular(Path(path), f"it is {kind}, expected a regular file")
    if most is not None and status.st_size > most:
        raise NotRegular(Path(path), f"it has {status.st_size:,} bytes, at most {most:,} are read", errno.EFBIG)
    return status.st_size


def open_regular(path: str | Path, most: int | None = None) -> BufferedReader:
    """A user's file, opened for reading. Raises as :func:`check_regular` does."""
    check_regular(path, most)
    # What took the file's place since is not waited for.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegular(Path(path), "it is no regular file any more")
    return file


def read_regular(path: str | Path, most: int = LARGEST_TEXT) -> bytes:
    """A user's file, whole. Raises as :func:`check_regular` does."""
    with open_regular(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size + 1)


def read_object(path: str | Path, most: int = LARGEST_TEXT) -> dict[str, Any]:
    """The object in a user's JSON file.

    Raises OSError (see :func:`check_regular`), and ValueError, in one line, for what is no JSON, nested too deeply, or
    a list or a number instead of an object.
    """
    try:
        content = json.loads(read_regular(path, most).decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected an object of names and values")
    return content


def check_folder(folder: str | Path) -> None:
    """Raise :class:`NotRegular` where a folder holds anything but files and folders, before a library reads it."""
    for path in sorted(Path(folder).iterdir()):
        if path.exists() and not path.is_dir():
            check_regular(path)


def file_sha256(path: Path) -> str | None:
    """The sha256 of a file, or None where it cannot be read."""
    try:
        with open_regular(path) as file:
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
