"""Files written whole or not at all: beside their place first, then flushed to the disk, then put there.

And files of others, read only where they are files: a pipe would be waited for, a device never ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
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

#: How the names of folders begin in which a file is being written; each holds a lock of its writer.
TEMPORARY = ".writing-"
_LOCK = ".lock"
#: Seconds after which what no lock speaks of counts as left behind: on a file system without locks, or by a version of
#: this program that had none.
_OLD = 24 * 3600.0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path of the same file system, an empty file, that takes the place of `path` on success.

    A reader, or a machine that stops, sees the old file or the new one, whole: the file and its folder are flushed to
    the disk, some milliseconds a call. What killed writers left in the folder goes first, see `remove_left`.
    Raises OSError; the old file is then as it was and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path.parent)
    handle, folder = _own_folder(path)
    temporary = folder / "content"  # no name that anyone looks for
    try:
        temporary.touch()
        yield temporary
        temporary.chmod(0o644)
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _flush(path.parent, os.O_RDONLY)
    finally:
        _clear(folder)
        os.close(handle)


def _clear(folder: Path) -> None:
    """Remove a temporary folder with all that a writer put there; usually that is the lock alone."""
    try:
        os.unlink(folder / _LOCK)
        os.rmdir(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _own_folder(path: Path) -> tuple[int, Path]:
    """A new folder beside `path` and the lock on it, which the system frees when this process ends, however it ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name[:100]}.", dir=path.parent))
        try:
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue  # another process took it for one left behind, while it was empty
        except OSError:
            folder.rmdir()
            raise
        if _lock(handle) is not False and is_at(handle, folder / _LOCK):
            return handle, folder
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether the lock is this process's now; None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN) else None
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        there, here = path.stat(), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def remove_left(folder: Path, *, below: bool = False) -> int:
    """Remove what killed writers left unfinished in a folder, or `below` it too; how many there were.

    A writer that lives holds its lock, and what it writes stays. Never raises.
    """
    count = 0
    with contextlib.suppress(OSError):
        if below:
            left = [path for path in folder.rglob(f"{TEMPORARY}*")]
        else:
            with os.scandir(folder) as entries:
                left = [Path(entry.path) for entry in entries if entry.name.startswith(TEMPORARY)]
        for path in left:
            with contextlib.suppress(OSError):
                count += _remove(path)
    return count


def _remove(path: Path) -> bool:
    """Remove it where no writer lives any more; whether it was."""
    status = path.lstat()
    old = time.time() - status.st_mtime > _OLD
    if not stat.S_ISDIR(status.st_mode):
        if old:
            path.unlink()
        return old
    try:
        handle = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        path.rmdir()  # fails where it is not empty: another process is removing it
        return True
    try:
        mine = _lock(handle)
        if mine is False or (mine is None and not old) or not is_at(handle, path / _LOCK):
            return False
        shutil.rmtree(path, ignore_errors=True)  # held until all is gone
    finally:
        os.close(handle)
    return True


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
