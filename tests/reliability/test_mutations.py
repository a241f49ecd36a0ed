"""Each protection of ``mutations.yaml`` is removed from a copy of the project; a test of the suite must then fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class Mutation(NamedTuple):
    """`kept` of `file` becomes `removed`; `test` must notice."""

    fault: str
    file: str
    kept: str
    removed: str
    test: str


MUTATIONS = [Mutation(**entry) for entry in yaml.safe_load((Path(__file__).parent / "mutations.yaml").read_text())]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, in which every test named here passes."""
    copy = tmp_path_factory.mktemp("project")
    for part in (
        "benchmark",
        "methods",
        "tests",
        "docs",
        "results",
        "pyproject.toml",
        "run_all.sh",
        "symerge_bench.py",
    ):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "local"))
        elif source.is_file():
            shutil.copy2(source, copy / part)
    done = pytest_in(copy, *sorted({mutation.test for mutation in MUTATIONS}))
    assert done.returncode == 0, done.stdout[-3000:]
    return copy


def pytest_in(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    # The thread method ends the process with status 1 even where a removed time limit leaves nothing else that could.
    limit = ("--timeout", "120", "--timeout-method", "thread")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *limit, *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.fault)
def test_without_its_protection_a_test_fails(mutation: Mutation, project: Path, count: Any) -> None:
    path = project / mutation.file
    whole = path.read_text(encoding="utf-8")
    assert whole.count(mutation.kept) >= 1, f"{mutation.file} no longer holds {mutation.kept!r}: say here what does"
    path.write_text(whole.replace(mutation.kept, mutation.removed), encoding="utf-8")
    try:
        done = pytest_in(project, mutation.test)
    finally:
        path.write_text(whole, encoding="utf-8")
    assert done.returncode == 1, f"status {done.returncode}: {done.stdout[-2000:]}"
    count("caught by", mutation.test.rpartition("::")[2].partition("[")[0])
