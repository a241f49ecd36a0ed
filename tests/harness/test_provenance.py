"""What a record says of the code that made it: the commit, and whether anything beside a new method's file differs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmark.harness import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one method, committed."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    for folder in ("methods/tools", "benchmark", "results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "methods/ties.py").write_text("one = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    # Without the cache, which a process keeps for its whole life.
    monkeypatch.setattr(provenance, "git_state", provenance.git_state.__wrapped__)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("methods/mine.py", False),  # its version in the record tells it
        ("results/local.json", False),
        ("methods/tools/more.py", True),
        ("benchmark/more.py", True),
        ("methods/ties.py", True),
    ],
)
def test_a_new_methods_own_file_is_no_local_change(file: str, dirty: bool, checkout: Path) -> None:
    commit, changed = provenance.git_state()
    assert commit and len(commit) == 40 and changed is False
    (checkout / file).write_text("two = 2\n")
    assert provenance.git_state() == (commit, dirty)


def test_a_commit_holds_a_file_as_it_is_now(checkout: Path) -> None:
    commit, _ = provenance.git_state()
    assert commit and provenance.holds(commit, "methods/ties.py") is True
    (checkout / "methods/ties.py").write_text("two = 2\n")
    (checkout / "methods/mine.py").write_text("two = 2\n")
    assert provenance.holds(commit, "methods/ties.py") is False and provenance.holds(commit, "methods/mine.py") is False
    assert provenance.holds("0" * 40, "methods/ties.py") is None
