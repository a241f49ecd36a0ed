"""What a killed writer leaves is removed by the next one in its folder, and by `clean`; what lives is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers.records import make_record
from safetensors.torch import load_file, save_file

from benchmark.cli import main as cli
from benchmark.common.files import TEMPORARY, remove_left, replace_file, replacing, write_atomic
from benchmark.records.store import Store

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from pathlib import Path
from benchmark.common.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing the file."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def killed(path: Path) -> None:
    """Leaves what `kill -9` leaves while the file is written."""
    process = writer(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(path.parent.glob(f"{TEMPORARY}*")), "it was to be killed while it wrote"


def test_the_next_write_into_the_folder_removes_what_was_left(tmp_path: Path) -> None:
    killed(tmp_path / "board.md")
    write_atomic(tmp_path / "other.csv", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_clean_removes_what_was_left_in_any_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Store(tmp_path).save(make_record("ties"))
    (tmp_path / "boards").mkdir()
    for folder in (tmp_path, tmp_path / "boards", path.parent):
        killed(folder / "x")
    assert cli.main(["clean", "--results", str(tmp_path), "--yes"]) == 0
    assert "removed 3 files that a killed writer left" in capsys.readouterr().out
    assert not list(tmp_path.rglob(f"{TEMPORARY}*")) and path.is_file()


def test_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    process = writer(tmp_path / "board.md")
    try:
        write_atomic(tmp_path / "other.csv", "whole")
        assert remove_left(tmp_path, below=True) == 0
        (folder,) = tmp_path.glob(f"{TEMPORARY}*")
        assert (folder / "content").read_text() == "half"
    finally:
        process.kill()
        process.wait()


def test_a_library_that_puts_another_file_in_its_place_is_left_alone_too(tmp_path: Path) -> None:
    """safetensors writes beside the path it is given, and renames: a lock on the file itself would be lost."""

    def save(temporary: Path) -> None:
        save_file({"x": torch.ones(3)}, temporary)
        assert remove_left(tmp_path) == 0

    replace_file(tmp_path / "merged.safetensors", save)
    assert load_file(tmp_path / "merged.safetensors")["x"].sum() == 3
    assert [path.name for path in tmp_path.iterdir()] == ["merged.safetensors"]


def test_writers_and_those_who_clear_up_never_race(tmp_path: Path) -> None:
    stop, errors = threading.Event(), list[BaseException]()

    def clear() -> None:
        while not stop.is_set():
            remove_left(tmp_path)

    def write(name: str) -> None:
        try:
            for number in range(40):
                write_atomic(tmp_path / name, str(number))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    clearing = [threading.Thread(target=clear) for _ in range(2)]
    writing = [threading.Thread(target=write, args=(f"{number}.txt",)) for number in range(4)]
    for thread in (*clearing, *writing):
        thread.start()
    for thread in writing:
        thread.join()
    stop.set()
    for thread in clearing:
        thread.join()
    assert errors == [] and {path.read_text() for path in tmp_path.glob("*.txt")} == {"39"}
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_what_no_lock_speaks_of_goes_after_a_day(tmp_path: Path) -> None:
    fresh, old = tmp_path / f"{TEMPORARY}fresh", tmp_path / f"{TEMPORARY}old"
    for path in (fresh, old):
        path.write_text("of an earlier version of the program")
    day_ago = time.time() - 25 * 3600
    os.utime(old, (day_ago, day_ago))
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("x")
    assert fresh.exists() and not old.exists()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
