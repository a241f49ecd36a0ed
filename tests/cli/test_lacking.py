"""What is skipped is said at the end of a run, with what would run it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SKIPS = {"pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.importorskip"}

SOME = """
import pytest
from helpers.lacking import lacks

@pytest.mark.parametrize("n", range(3))
def test_often(n):
    pytest.skip(lacks("no browser", "apt-get install browser"))

@pytest.mark.skipif(True, reason="for no reason told")
def test_once():
    pass

def test_passes():
    pass
"""
WHOLE = """
import pytest
from helpers.lacking import lacks

pytest.importorskip("no_such_module", reason=lacks("it", "get it"))
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_run_ends_with_what_was_skipped_and_what_would_run_it(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_some.py").write_text(SOME)
    (tmp_path / "test_whole.py").write_text(WHOLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -rfExX\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", processes, "-p", "conftest", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True,
    )  # fmt: skip
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0 and last.startswith("1 passed, 5 skipped"), done.stdout + done.stderr
    start = next(n for n, line in enumerate(lines) if "skipped, and what would run it" in line)
    said = lines[start + 1 :]
    assert said[:2] == ["3 tests: no browser", "    apt-get install browser"]
    assert {said[2]: said[3], said[4]: said[5]} == {
        "1 test: for no reason told": "    nothing here says what would run it",
        "1 file: it": "    get it",
    }


def skips(path: Path) -> list[ast.Call]:
    """The calls in a file that skip tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in SKIPS]


@pytest.mark.parametrize("path", [path for path in sorted(TESTS.rglob("*.py")) if skips(path)], ids=lambda p: p.name)
def test_every_skip_says_what_would_run_the_test(path: Path) -> None:
    for call in skips(path):
        given = call.args[:1] if ast.unparse(call.func) == "pytest.skip" else []
        (reason,) = given or [word.value for word in call.keywords if word.arg == "reason"] or [call]
        said = ast.unparse(reason)
        assert said.startswith(("lacks(", "lacks_package(")), f"{path.name}:{call.lineno}: {said}"
