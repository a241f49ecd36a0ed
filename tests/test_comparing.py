"""The build's second run, under other kernels, takes every test that compares numbers, and no one has to mark it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOME = """
import pytest
import torch
from hypothesis import given, strategies
from helpers.support import assert_state
from helpers.tables import assert_same_but_for_rounding

def near(a, b):
    return abs(a - b) < 1e-6

def checked(a, b):
    assert near(a, b)

def test_by_itself():
    assert 0.1 + 0.2 == pytest.approx(0.3)

class TestGroup:
    def test_in_a_class(self):
        torch.testing.assert_close(torch.ones(1), torch.ones(1))

@pytest.mark.parametrize("n", [1])
def test_inside_a_function(n):
    def check():
        return torch.ones(1).equal(torch.ones(1))
    assert check()

def test_through_a_helper():
    checked(1.0, 1.0)

@given(strategies.floats(0, 1))
def test_of_many_examples(x):
    checked(x, x)

@pytest.mark.numbers
def test_that_says_so():
    assert True

def test_of_words():
    assert "a".upper() == "A"
"""


def test_what_compares_numbers_is_marked(tmp_path: Path) -> None:
    # The helpers of this file count as the tests' own.
    (tmp_path / "test_some.py").write_text(SOME)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = numbers: x\n")
    code = (
        "import pathlib, pytest; from helpers import comparing; "
        "comparing.TESTS = pathlib.Path.cwd(); raise SystemExit(pytest.main())"
    )
    words = ["-q", "-n", "0", "--collect-only", "-m", "numbers", "-p", "conftest", "-p", "no:cacheprovider", "."]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    found = {line.partition("[")[0].rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line}
    assert found == {
        "test_by_itself", "test_in_a_class", "test_inside_a_function", "test_through_a_helper", "test_of_many_examples",
        "test_that_says_so",
    }, done.stdout + done.stderr  # fmt: skip
