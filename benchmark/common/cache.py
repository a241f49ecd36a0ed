"""Images decoded once: uint8 arrays on disk, memory-mapped, built by one process and read by all.

An entry is three files, ``<stem>.images.npy``, ``<stem>.labels.npy`` and, written last, ``<stem>.json`` with their
shape and hash. The stem's name holds the hash of what was decoded and how, so nothing is ever stale. A builder writes
temporary files and moves them into place under a lock that the system frees however it ends: others wait for it, and
after a killed one the next begins anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmark.common.files import read_object, replacing
from benchmark.common.paths import in_home, of_variable

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]


class CacheError(OSError):
    """The cache folder does not keep what is written to it, or a builder gave other rows than it announced."""


def cache_dir() -> Path:
    """`$SYMERGE_CACHE`, else `~/.cache/symerge-bench`. Raises UserError for a user without a home folder."""
    return of_variable("SYMERGE_CACHE") or in_home(instead="Set SYMERGE_CACHE to a folder.")


def arrays_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 of the raw bytes of a split: uint8 images, then little-endian int64 labels."""
    digest = hashlib.sha256()
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024], dtype=np.uint8).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def load(
    name: str,
    shape: tuple[int, ...],
    chunks: Callable[[], Chunks],
    *,
    sha256: str | None = None,
    folder: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of one entry: mapped if they are there and whole, else built.

    Args:
        name: of the entry; holds the hash of the data and of the preprocessing.
        shape: ``(n, *shape of one image)``.
        chunks: gives ``(images uint8 [m, ...], labels int64 [m])`` in order, ``n`` rows in all; called where nothing
            usable is cached.
        sha256: of the arrays (:func:`arrays_sha256`), where it is known: then the whole entry is read and compared at
            every opening. Without it, sizes and the entry's own mark are.
        folder: default `<cache_dir()>/vision`.

    Returns:
        ``images`` uint8, mapped and read-only; ``labels`` int64 ``[n]``.

    Raises:
        CacheError: the disk does not keep the entry, or ``chunks`` gives other shapes.
    """
    stem = (folder or cache_dir() / "vision") / name
    array = _open(stem, shape, sha256)
    if array is not None:
        return array
    with _locked(stem):
        array = _open(stem, shape, sha256)
        if array is not None:
            return array
        _build(stem, shape, chunks())
        array = _open(stem, shape, sha256)
    if array is None:
        raise CacheError(
            f"the cache under {stem.parent} does not keep what is written to it (disk full?); "
            "set SYMERGE_CACHE to another folder"
        )
    return array


def mark(name: str, folder: Path | None = None) -> dict[str, object] | None:
    """What is noted of a finished entry (``shape``, ``sha256`` of its arrays), or None where there is none."""
    try:
        return read_object(_file((folder or cache_dir() / "vision") / name, "json"))
    except (OSError, ValueError):
        return None


def _file(stem: Path, end: str) -> Path:
    return stem.with_name(f"{stem.name}.{end}")


def _open(stem: Path, shape: tuple[int, ...], sha256: str | None) -> tuple[np.ndarray, np.ndarray] | None:
    noted = mark(stem.name, stem.parent)
    if noted is None or noted.get("shape") != list(shape):
        return None
    try:
        images = np.load(_file(stem, "images.npy"), mmap_mode="r", allow_pickle=False)
        labels = np.load(_file(stem, "labels.npy"), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if images.shape != shape or images.dtype != np.uint8 or labels.dtype != np.int64 or labels.shape != shape[:1]:
        return None
    return (images, labels) if sha256 in (None, arrays_sha256(images, labels)) else None


def _build(stem: Path, shape: tuple[int, ...], chunks: Chunks) -> None:
    labels = np.empty(shape[0], dtype=np.int64)
    digest = hashlib.sha256()
    with replacing(_file(stem, "images.npy")) as temporary:
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        _make_room(temporary, stem)
        done = 0
        for block, block_labels in chunks:
            if block.shape[1:] != shape[1:] or done + len(block) > shape[0] or len(block) != len(block_labels):
                raise CacheError(f"{stem.name}: rows {done} to {done + len(block)} are {block.shape}, expected {shape}")
            images[done : done + len(block)] = block
            labels[done : done + len(block)] = block_labels
            digest.update(np.ascontiguousarray(block).data)
            done += len(block)
        if done != shape[0]:
            raise CacheError(f"{stem.name}: {done} rows were decoded, expected {shape[0]}")
        images.flush()
        del images
    digest.update(labels.astype("<i8").data)
    with replacing(_file(stem, "labels.npy")) as temporary, open(temporary, "wb") as file:
        np.save(file, labels, allow_pickle=False)
    with replacing(_file(stem, "json")) as temporary:
        noted = {"shape": list(shape), "sha256": digest.hexdigest()}
        temporary.write_text(json.dumps(noted) + "\n", encoding="utf-8")


def _make_room(path: Path, stem: Path) -> None:
    """Blocks for all of a sparse file: where a disk is full, writing into a map ends the process without a word."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise CacheError(
                    f"{stem.name} needs {size / 2**20:.0f} MiB of the cache {stem.parent}: {error.strerror}; free some "
                    "space, or set SYMERGE_CACHE to another folder"
                ) from error


@contextlib.contextmanager
def _locked(stem: Path) -> Iterator[bool]:
    """Hold the entry as :func:`locked` does. Raises :class:`CacheError` where nothing can be written."""
    path = cache_dir() / "locks" / f"{stem.name}.lock"
    with written():
        for folder in (path.parent, stem.parent):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    with locked(path) as alone:
        yield alone


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Around what writes into the cache: raises :class:`CacheError`, which names it, where the system refuses that."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache {cache_dir()} cannot be written: {error.strerror or error}; set SYMERGE_CACHE to another folder"
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path``, waiting for who does; False where the file system has no locks."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
