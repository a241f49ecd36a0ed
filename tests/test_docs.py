"""What the pages of docs/ tell a reader to type works: their commands and programs run, in order, in a copy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import suites
from benchmark.cli import main as arguments
from benchmark.records import metrics, record
from benchmark.scores import published
from benchmark.suites import own

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: In the order in which a reader needs what earlier ones leave behind.
PAGES = [
    "README.md",
    "tutorial.md",
    "concepts.md",
    "suites.md",
    "records.md",
    "statistics.md",
    "faq.md",
    "cluster.md",
    "merging.md",
    "own-suite.md",
]
FENCE = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, rest of the fence's line, text) of each block."""
    return [(kind, rest.strip(), text) for kind, rest, text in FENCE.findall((DOCS / page).read_text())]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with an environment that is this one."""
    root = tmp_path_factory.mktemp("docs") / "symerge bench"
    ignored = shutil.ignore_patterns("__pycache__", "local", ".*")
    for name in ("benchmark", "methods", "results"):
        shutil.copytree(ROOT / name, root / name, copy_function=_link, ignore=ignored)
    for name in ("run_all.sh", "pyproject.toml", "symerge_bench.py"):
        shutil.copy2(ROOT / name, root / name)
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    with open(root / "pyproject.toml", "rb") as file:
        sum_of = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True).stdout.strip()
    (root / ".venv" / ".symerge-complete").write_text(f"{sum_of} {root.resolve()}\n")
    return root


def run(command: list[str], root: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_to_type_works(page: str, checkout: Path) -> None:
    for kind, rest, text in blocks(page):
        if kind == "sh" and rest != "parsed":
            run(["bash", "-euo", "pipefail", "-c", text], checkout)
        elif kind in ("python", "yaml") and rest:
            (checkout / rest).write_text(text)
        elif kind == "yaml":
            (checkout / "suite.yaml").write_text(text)
            own.read(checkout / "suite.yaml")
        elif kind == "python":
            run([sys.executable, "-P", "-c", text], checkout)
    if page == "tutorial.md":
        board = (checkout / "results" / "local" / "boards" / "vision-mini-8--ViT-mini--mini.md").read_text()
        assert "| mine " in board and "| ties " in board
        assert (checkout / "results" / "local" / "leaderboard.html").stat().st_size > 400_000


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_not_executed_are_commands(page: str) -> None:
    for kind, rest, text in blocks(page):
        if kind == "sh" and rest == "parsed":
            for line in text.strip().splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "./run_all.sh"
                if words[0] not in ("--setup", "--bench"):
                    arguments.parser().parse_args(words if words[0] in arguments.VERBS else ["run", *words])


def test_every_fenced_block_is_of_a_kind_that_is_checked() -> None:
    for page in PAGES:
        assert (DOCS / page).read_text().count("```") == 2 * len(blocks(page))
        assert {kind for kind, _, _ in blocks(page)} <= {"sh", "python", "yaml"}


def test_links_and_names_in_the_pages_exist() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (DOCS / target).exists(), f"{page}: {target}"
        for name in re.findall(r"`((?:benchmark|methods|results|tests|docs)/[\w./-]+)`", text):
            exists = (ROOT / name).exists() or name.startswith(("results/local", "results/submitted", "methods/mine"))
            assert exists, f"{page}: {name}"


def test_the_page_on_own_suites_has_every_key_of_its_yaml() -> None:
    text = (DOCS / "own-suite.md").read_text()
    keys = re.findall(r"^\| (\w+) \|", text.partition("## Every key")[2], re.M)
    fields = [*own.Own.model_fields, *own.Task.model_fields]
    assert [key for key in keys if key != "key"] == fields
    for part in (own.Pixels, own.Head, own.Splits, own.Data):
        assert {key for key in part.model_fields if f"`{key}`" not in text and f"{key}:" not in text} <= {"path"}


def test_the_pages_know_all_suites_metrics_and_labels() -> None:
    text = (DOCS / "suites.md").read_text()
    assert not [name for name in suites.names() if f"`{name}`" not in text]
    for name in ("accuracy", "mcc", "pearson_spearman", "miou", "abs_err", "mean_angle"):
        better = "higher" if metrics.get(name).higher_is_better else "lower"
        assert re.search(rf"^\| {name} \|.*\| {better} \|", text, re.M)
    records = (DOCS / "records.md").read_text()
    assert all(f"| {label} |" in records for label in record.SOURCES)
    assert published.names().traps
