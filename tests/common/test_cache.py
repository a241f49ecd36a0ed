"""The one cache of decoded images: built once, by one process, whatever happens to the builders."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmark.common import cache

SHAPE = (40, 4, 4, 3)
CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path))
    return tmp_path


def chunks(log: Path | None = None, pause: float = 0.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Four blocks of ten; every start of a build adds a line to ``log``."""
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
    for block in range(4):
        time.sleep(pause)
        yield np.full((10, *SHAPE[1:]), block, np.uint8), np.arange(10 * block, 10 * block + 10)


def load(log: Path | None = None, pause: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return cache.load("entry", SHAPE, lambda: chunks(log, pause))


def right(found: tuple[np.ndarray, np.ndarray]) -> bool:
    images, labels = found
    expected = np.repeat(np.arange(4), 10)
    return bool((images == expected[:, None, None, None]).all() and (labels == np.arange(40)).all())


def _load_in(arguments: tuple[Path, float]) -> bool:
    return right(load(*arguments))


def test_many_builders_at_once_decode_once_and_all_read_it(folder):
    log = folder / "builds"
    with CONTEXT.Pool(6) as pool:
        assert all(pool.map(_load_in, [(log, 0.02)] * 12, chunksize=1))
    assert len(log.read_text().split()) == 1


def test_a_killed_builder_leaves_nothing_in_the_way_of_the_next(folder):
    log = folder / "builds"
    process = CONTEXT.Process(target=load, args=(log, 5.0))
    process.start()
    left = folder / "vision"
    deadline = time.monotonic() + 30
    while not log.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(left.glob(".writing-entry.*")), "the builder was to be killed while it wrote"
    assert right(load(log))
    assert sorted(p.name for p in left.iterdir()) == ["entry.images.npy", "entry.json", "entry.labels.npy"]
    assert len(log.read_text().split()) == 2


@pytest.mark.parametrize("name", ["entry.json", "entry.images.npy", "entry.labels.npy"])
def test_a_builder_killed_between_its_files_is_built_again(folder, name):
    load()
    (folder / "vision" / name).unlink()
    assert right(load(folder / "builds")) and (folder / "builds").is_file()


def test_a_finished_entry_is_mapped_and_not_built_again(folder):
    load()
    images, labels = cache.load("entry", SHAPE, lambda: pytest.fail("built again"))
    assert isinstance(images, np.memmap) and right((images, labels))
    with pytest.raises(ValueError):
        images[0] = 1
    noted = cache.mark("entry")
    assert noted == {"shape": list(SHAPE), "sha256": cache.arrays_sha256(images, labels)}


def test_a_known_hash_is_compared_at_every_opening(folder):
    images, labels = load()
    expected = cache.arrays_sha256(images, labels)
    with open(folder / "vision" / "entry.images.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    log = folder / "builds"
    assert right(cache.load("entry", SHAPE, lambda: chunks(log), sha256=expected)) and log.is_file()


@pytest.mark.parametrize(
    "blocks",
    [
        [(np.zeros((30, 4, 4, 3), np.uint8), np.zeros(30))],
        [(np.zeros((41, 4, 4, 3), np.uint8), np.zeros(41))],
        [(np.zeros((40, 4, 5, 3), np.uint8), np.zeros(40))],
        [(np.zeros((40, 4, 4, 3), np.uint8), np.zeros(39))],
    ],
)
def test_other_rows_than_announced_are_refused_and_leave_nothing(folder, blocks):
    with pytest.raises(cache.CacheError, match="entry"):
        cache.load("entry", SHAPE, lambda: iter(blocks))
    assert list((folder / "vision").iterdir()) == []


def test_without_locks_the_entry_is_still_whole(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    assert right(load())


def test_a_disk_without_room_is_an_error_before_anything_is_mapped(monkeypatch, folder):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(cache.CacheError, match="needs .* MiB of the cache .*No space left on device.*SYMERGE_CACHE"):
        load()
    assert not list((folder / "vision").iterdir())


def test_a_cache_that_cannot_be_written_names_the_variable(monkeypatch, folder):
    (folder / "file").write_text("")
    monkeypatch.setenv("SYMERGE_CACHE", str(folder / "file" / "below"))
    with pytest.raises(cache.CacheError, match="cannot be written: Not a directory; set SYMERGE_CACHE"):
        load()
