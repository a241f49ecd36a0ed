"""A folder is what its name says, however it is named: relative, linked, with brackets or colons, without a home."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dense import SHAPE
from helpers.glue_files import small as small_glue
from helpers.glue_files import write_rte
from helpers.hub_data import image_folder, parquet, web_dataset
from helpers.lacking import lacks
from helpers.nyuv2_files import COUNTS, write_root
from helpers.public import open_clip_family
from helpers.public_sets import small as small
from helpers.towers import tiny

from benchmark import suites
from benchmark.checkpoints.families import checkpoint_folder
from benchmark.cli import main as cli
from benchmark.common import cache
from benchmark.common.errors import UserError
from benchmark.common.paths import resolved
from benchmark.domains.dense import nyuv2
from benchmark.domains.text import glue
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import BACKBONES
from benchmark.domains.vision.local import Copy
from benchmark.executors import nodes
from methods.api import Experts
from methods.tools import spectral

ROOT = Path(__file__).resolve().parents[2]
SETS = {"MNIST": parquet, "STL10": image_folder, "FER2013": web_dataset}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, which is also home; the cache lies elsewhere."""
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SYMERGE_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set of each layout, GLUE's RTE, and NYUv2."""
    root = tmp_path_factory.mktemp("data")
    for task, write in SETS.items():
        classes = full.info(task).classes
        splits = {"train": 2 * len(classes), "test": len(classes)}
        write(root / full.info(task).folder, splits, len(classes) if write is web_dataset else classes)
    write_rte(root / "glue")
    write_root(root / "nyuv2")
    return root


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def copied(data: Path, to: Path) -> Path:
    shutil.copytree(data, to)
    return to


def relative(data: Path, here: Path) -> str:
    copied(data, here / "data")
    return "data"


def dotted(data: Path, here: Path) -> str:
    copied(data, here / "data")
    (here / "other").mkdir()
    return "./other/../data/"


def above(data: Path, here: Path) -> str:
    copied(data, here.parent / "beside")
    return "../beside"


def linked(data: Path, here: Path) -> str:
    (here / "link").symlink_to(data)
    return str(here / "link")


def linked_sets(data: Path, here: Path) -> str:
    (here / "sets").mkdir()
    for folder in data.iterdir():
        (here / "sets" / folder.name).symlink_to(folder)
    return "sets"


def at_home(data: Path, here: Path) -> str:
    copied(data, here / "data")
    return "~/data"


def beside_another(name: str) -> Callable[[Path, Path], str]:
    """A name that is a pattern too, or an address, beside a folder that the pattern matches."""

    def make(data: Path, here: Path) -> str:
        copied(data, here / "a1")
        for path in [*(here / "a1").rglob("*test*"), *(here / "a1").rglob("validation*")]:
            if path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
        return str(copied(data, here / name))

    return make


FORMS = [relative, dotted, above, linked, linked_sets, at_home] + [
    pytest.param(beside_another(name), id=name)
    for name in ("a[1]", "a[0-9]", "a*", "a?", "a::b", "zip::a1", "~", "mit Leerzeichen, ä", "a%31", "{a1,b}")
]


@pytest.mark.parametrize("make", FORMS)
def test_images_are_read_from_the_folder_that_is_named(
    make: Callable[[Path, Path], str], data: Path, place: Path, small: Callable[..., None]
) -> None:
    small(**{task: len(full.info(task).classes) for task in SETS})
    named = make(data, place)
    assert run("assets", "data", "check", *SETS, "--root", named) == 0
    for task in SETS:
        assert full.sha256(task, "test", resolved(named)) == full.sha256(task, "test", data)
        for split in ("train", "test"):
            here = full.load_split(task, split, root=resolved(named), image_size=8)
            there = full.load_split(task, split, root=data, image_size=8)
            assert np.array_equal(here.images, there.images) and np.array_equal(here.labels, there.labels)


@pytest.mark.parametrize("make", FORMS)
def test_texts_and_rooms_are_read_from_the_folder_that_is_named(
    make: Callable[[Path, Path], str], data: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_glue(monkeypatch)
    monkeypatch.setattr(glue, "TASKS", {"RTE": glue.TASKS["RTE"]})
    monkeypatch.setattr(nyuv2, "COUNTS", COUNTS)
    monkeypatch.setattr(nyuv2, "SIZE", SHAPE.size)
    named = make(data, place)
    assert run("assets", "data", "check", "glue", "--root", named) == 0
    assert run("assets", "data", "check", "nyuv2", "--root", named) == 0
    there, found = glue.folder(data), glue.folder(full.data_root(named))
    assert glue.fingerprint(found, "RTE", "test") == glue.fingerprint(there, "RTE", "test")
    assert glue.load(found, "RTE", "test").sha256() == glue.load(there, "RTE", "test").sha256()
    rooms = nyuv2.open_root(nyuv2.folder(full.data_root(named)))
    assert nyuv2.fingerprint(rooms, "test", "depth") == nyuv2.fingerprint(
        nyuv2.open_root(data / "nyuv2"), "test", "depth"
    )


def test_the_rows_of_a_copy_are_read_where_they_lie_and_not_from_a_namesake(data: Path, place: Path) -> None:
    """As a caller of the library gives them, without the command line."""
    for name in ("a[1]", "a::b"):
        folder = copied(data / "STL10", place / name)
        rows = list(Copy(folder).rows("test"))
        assert len(rows) == len(full.info("STL10").classes)
        assert all(Path(row["image"]["path"]).resolve().is_relative_to(folder) for row in rows)


@pytest.mark.parametrize("named", ["sub/../data", "../here/data", "data", "~/data"])
def test_variables_are_settled_for_all_processes_that_follow(
    named: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SYMERGE_DATA", "SYMERGE_CACHE", "SYMERGE_CHECKPOINTS"):
        monkeypatch.setenv(name, named)
    (place / "sub").mkdir()
    (place / "data").mkdir()
    assert run("list", "suites") == 0
    found = str(place / "data")
    assert [os.environ[n] for n in ("SYMERGE_DATA", "SYMERGE_CACHE", "SYMERGE_CHECKPOINTS")] == [found] * 3
    assert {v for k, v in nodes.environment(True, 1)["env_vars"].items() if k.startswith("SYMERGE_")} == {found}
    monkeypatch.chdir("/")
    assert full.data_root() == cache.cache_dir() == place / "data"
    assert checkpoint_folder("tall", "ViT-B-32") == place / "data" / "tall" / "ViT-B-32"


def test_a_tilde_in_the_caches_variable_is_the_home_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMERGE_CACHE", "~/kept")
    cache.load("entry", (1, 2), lambda: iter([(np.zeros((1, 2), np.uint8), np.zeros(1, np.int64))]))
    experts = Experts.from_state_dicts({"w": torch.zeros(3, 3)}, {"a": {"w": torch.eye(3)}})
    spectral.task_svd(experts, "w", "a")
    assert {p.name for p in (place / "kept").iterdir()} == {"vision", "locks", "svd"}
    assert [p.name for p in place.iterdir()] == ["kept"]


@pytest.mark.parametrize("named", ["", "~nobody-of-this-name/data", "circle/data"])
def test_a_name_that_leads_nowhere_is_an_error_and_no_trace(
    named: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "circle").symlink_to("circle")
    if named == "circle/data" and sys.version_info >= (3, 13):
        pytest.skip(lacks("a Python that refuses circles of links", "SYMERGE_PYTHON=python3.12 ./run_all.sh --test"))
    assert run("run", "--suite", "vision-8", "--data-root", named) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and ("leads nowhere" in said or "empty name" in said)


def test_every_argument_that_is_a_path_is_resolved_where_it_is_read() -> None:
    for file in (ROOT / "benchmark").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "type":
                assert ast.unparse(node.value) not in ("Path", "pathlib.Path"), f"{file.name}:{node.value.lineno}"


def test_a_home_that_cannot_be_written_is_no_fault_of_the_data(
    data: Path, place: Path, small: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small(**{task: len(full.info(task).classes) for task in SETS})
    (place / "file").write_text("")
    monkeypatch.setenv("HOME", str(place / "file" / "below"))
    # `datasets` reads HOME when it is imported.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "file" / "below")
    full.open_copy.cache_clear()
    assert full.load_split("STL10", "test", root=data, image_size=8)
    monkeypatch.delenv("SYMERGE_CACHE")
    full.open_copy.cache_clear()
    assert run("assets", "data", "check", *SETS, "--root", data) == 0
    for task in SETS:
        with pytest.raises(UserError, match=r"the cache .*/below/.* cannot be written.*set SYMERGE_CACHE"):
            full.load_split(task, "test", root=data, image_size=8)


def test_tokens_that_cannot_be_kept_name_the_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.glue_files import made, tokenizer_file

    from benchmark.domains.text.encoder import load_tokenizer
    from benchmark.domains.text.tokens import cached

    (place / "file").write_text("")
    monkeypatch.setenv("SYMERGE_CACHE", str(place / "file" / "below"))
    tokenizer_file(place / "tokenizer")
    with pytest.raises(UserError, match="the cache .*/below cannot be written.*set SYMERGE_CACHE"):
        cached("t", {}, lambda: made(load_tokenizer(place / "tokenizer")))


HOMELESS = """
import pwd, sys
def nobody(*_): raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
import benchmark.cli.main, benchmark.assets.vision.build, benchmark.checkpoints.families
import benchmark.harness.provenance, benchmark.domains.vision.public
from benchmark.domains.vision import public as full
real = full.info
def few(*names):
    about = real(*names)
    return about.model_copy(update={"test": about.test.model_copy(update={"n": len(about.classes)})})
full.info = few
benchmark.harness.provenance.relative("/nowhere")
root, *sets = sys.argv[1:]
statuses = [benchmark.cli.main.main(["assets", "data", "check", *sets, "--root", root])]
statuses.append(benchmark.cli.main.main(["run", "--suite", "vision-mini-8", "--methods", "ties", "--dry-run"]))
print("statuses", *statuses)
"""


@pytest.mark.parametrize("kept", [True, False])
def test_a_user_without_home_and_entry_needs_only_the_variables(data: Path, place: Path, kept: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "SYMERGE_CACHE", "MPLCONFIGDIR")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    if kept:
        environment["SYMERGE_CACHE"] = str(place.parent / "cache")
    command = [sys.executable, "-c", HOMELESS, str(data), *SETS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert f"statuses 0 {0 if kept else 2}" in done.stdout, done.stdout + done.stderr
    assert kept or ("no home folder is known" in done.stderr and "Set SYMERGE_CACHE" in done.stderr)
    assert "Traceback" not in done.stderr and not list(place.iterdir())


@pytest.mark.parametrize("name", ["plain", "a[1]::b"])
def test_the_commands_of_the_readme_run_with_relative_paths(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = place / name
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    monkeypatch.delenv("SYMERGE_CACHE")
    tasks, real = suites.load("vision-8").tasks, full.info

    def few(task: str, family: str | None = None) -> full.SetInfo:
        about = real(task, family)
        return about.model_copy(update={"test": about.test.model_copy(update={"n": 12})})

    monkeypatch.setattr(full, "info", few)
    for task in tasks:
        about = real(task)
        parquet(Path("DATA") / about.folder, {"train": 20, "test": 12}, about.classes, label=about.label)
    open_clip_family(Path("DOWNLOADS/checkpoints"), "task-arithmetic", BACKBONES["ViT-B-32"], tasks)
    commands = [line.split() for line in readme() if "task-arithmetic" in line or "vision-8 --root DATA" in line]
    assert [command[0] for command in commands] == ["assets", "assets", "run"]
    for command in commands:
        command = [{"cuda": "cpu", "symerge": "symerge:steps=1"}.get(word, word) for word in command]
        assert run(*command, *(("--results", "results") if command[0] == "run" else ())) == 0
    assert len(list(Path("results/vision-8/ViT-B-32").glob("*/record.json"))) == 4
    assert "boards: results/leaderboard.md" in capsys.readouterr().err
    assert {p.name for p in home.iterdir()} == {".cache", "DATA", "DOWNLOADS", "results"}


def readme() -> list[str]:
    """The commands of README.md, as words for the command line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.partition("  #")[0] for line in text.splitlines() if line.startswith("./run_all.sh ")]
    words = [line.removeprefix("./run_all.sh ") for line in lines]
    return [f"run {line}" if line.startswith("--suite") else line for line in words]
