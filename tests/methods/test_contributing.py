"""A method is one new file: what ``new`` writes runs as it stands and passes what every method is put through."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cli.main import main
from benchmark.common.project import ROOT

FORGETFUL = """
import torch

from methods.api import Experts, Merged, method


@method(title="Forgetful", paper="none")
def forgetful(experts: Experts) -> Merged:
    '''Draws from no seed.'''
    return Merged(experts, {n: torch.randn(experts.base_tensor(n).shape) for n in experts.names})
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the methods and of the tests, beside which a file can be put; the benchmark is this one."""
    root = tmp_path_factory.mktemp("contributing")
    for folder in ("methods", "tests/helpers", "tests/golden"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for file in ("tests/conftest.py", "tests/methods/test_every_method.py", "pyproject.toml"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    (root / "benchmark").symlink_to(ROOT / "benchmark")
    return root


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [root, root / "tests"]))}
    return subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_what_new_writes_passes_and_what_keeps_no_promise_fails(copied: Path) -> None:
    for data in ("none", "unlabelled"):
        name = f"mine_{data}"
        made = run(copied, "-P", "-m", "benchmark", "new", name, "--data", data, "--title", 'A "quoted" one')
        assert made.returncode == 0 and f"--test --method {name}" in made.stdout, made.stderr
    files = ["methods/mine_none.py", "methods/mine_unlabelled.py"]
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--follow-imports=silent"]):
        checked = run(copied, "-m", *tool, *files)
        assert checked.returncode == 0, checked.stdout
    (copied / "methods/forgetful.py").write_text(FORGETFUL)
    names = [word for name in ("mine_none", "mine_unlabelled", "forgetful") for word in ("--method", name)]
    tests = run(copied, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/methods", *names)
    failed = [line for line in tests.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 2 and all("[forgetful]" in line for line in failed), tests.stdout
    assert "7 passed" in tests.stdout
    assert "no docstring: what it does" in tests.stdout and "other tensors the second time" in tests.stdout


@pytest.mark.parametrize(
    ("name", "said"), [("ties", "there is a method ties already"), ("My-Method", "new my_method"), ("class", "no name")]
)
def test_a_name_that_cannot_be_one_is_refused(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert said in capsys.readouterr().err
