"""Before a full suite runs, one table says of every data set and checkpoint what a run would say, and what mends it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.dense import SHAPE
from helpers.hub_data import parquet
from helpers.lacking import lacks_package
from helpers.nyuv2_files import COUNTS, SIZE, write_root
from helpers.towers import tiny, write_family
from safetensors.torch import load_file, save_file

from benchmark import suites
from benchmark.budget import dry_run, estimate, readiness
from benchmark.checkpoints.families import FamilyError
from benchmark.cli import main as cli
from benchmark.common.errors import UserError
from benchmark.domains.dense import model as models
from benchmark.domains.dense import nyuv2
from benchmark.domains.vision import public as full
from benchmark.domains.vision.backbones import BACKBONES
from benchmark.harness import runner
from benchmark.suites.parts import Finding

TASKS = suites.load("vision-8").tasks
FAMILY = "task-arithmetic"
IMAGES, TRAIN = 12, 20
ROOM = estimate.Machine(device=0, host=1e12, disk=1e12, cache=1e12)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny ViT-B-32 and no folder of data or checkpoints but those that are named."""
    monkeypatch.setitem(BACKBONES, "ViT-B-32", tiny("ViT-B-32"))
    monkeypatch.setenv("SYMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SYMERGE_CHECKPOINTS", str(tmp_path / "none"))
    monkeypatch.delenv("SYMERGE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    real = full.info

    def expecting(task: str, family: str | None = None) -> full.SetInfo:
        about = real(task, family)
        return about.model_copy(update={"test": about.test.model_copy(update={"n": IMAGES, "verified": True})})

    monkeypatch.setattr(full, "info", expecting)
    return tmp_path


@pytest.fixture
def whole(place: Path) -> Path:
    """All that vision-8 needs, under ``data`` and ``own``."""
    for task in TASKS:
        about = full.info(task)
        splits = {about.splits["train"]: TRAIN, about.splits["test"]: IMAGES}
        parquet(place / "data" / about.folder, splits, about.classes, label=about.label)
    classes = {task: full.info(task).classes for task in TASKS}
    write_family(place / "own" / FAMILY / "ViT-B-32", BACKBONES["ViT-B-32"], classes, FAMILY)
    return place


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def unbroken(text: str) -> str:
    """Commands in one line each."""
    return re.sub(r" \\\n +", " ", text)


def rows_of(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the table's rows by kind and task."""
    lines = re.findall(r"^  (data|base|expert|head) +(\S+)? +(there|missing|wrong) +(.*)$", text, re.MULTILINE)
    return {(kind, task): [state, *rest.split()] for kind, task, state, rest in lines}


def found(place: Path, methods: list[str]) -> dict[tuple[str, str], Finding]:
    bench = dry_run.Planned(suites.load("vision-8"), "ViT-B-32", FAMILY)
    jobs = runner.plan(bench, methods, seeds=[0])  # type: ignore[arg-type]
    ready = readiness.inspect(bench, jobs, data_root=place / "data", checkpoints=place / "own")
    text = readiness.show(ready, ROOM)
    assert max(map(len, text.splitlines())) <= readiness.WIDTH
    return {(finding.part.kind, finding.part.name): finding for finding in ready.findings}


def test_with_nothing_there_every_part_is_listed_with_what_mends_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--suite", "vision-8", "--family", FAMILY, "--methods", "symerge", "ties") == 2
    said = capsys.readouterr()
    rows = rows_of(said.out)
    names = [
        *(("data", t) for t in TASKS),
        ("base", ""),
        *(("expert", t) for t in TASKS),
        *(("head", t) for t in TASKS),
    ]
    assert list(rows) == names and {row[0] for row in rows.values()} == {"missing"}
    assert max(map(len, said.out.splitlines())) <= 100
    assert rows["data", "Cars"] == ["missing", "~1.82", "~1.82", "(2)"] and rows["expert", "DTD"][-1] == "(9)"
    assert "(2) ./run_all.sh assets data fetch Cars --root DIR --revision Cars=main --download" in said.out
    command = f"./run_all.sh assets checkpoints import {FAMILY} PATH --backbone ViT-B-32 --suite vision-8"
    assert f"(9) {command}\n" in unbroken(said.out)
    assert re.search(
        r"4 runs on a GPU .*: about \d+\.\d+ GPU hours\n  memory: \d+\.\d GiB of the GPU \(symerge\)", said.out
    )
    assert "of 25 data sets and checkpoints 25 missing" in said.err and not (place / "results").exists()


def test_a_folder_that_is_not_there_is_made_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--suite", "vision-8", "--data-root", place / "new", "--methods", "ties") == 2
    assert "mkdir -p new && ./run_all.sh assets data fetch SUN397 --root new" in capsys.readouterr().out


def test_with_all_there_it_runs_and_the_table_is_not_shown(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--data-root", whole / "data", "--checkpoints", whole / "own", "--results", whole / "results"]
    assert run("run", "--suite", "vision-8", "--family", FAMILY, "--methods", "ties", *folders) == 0
    said = capsys.readouterr()
    assert "all 25 data sets and checkpoints are there" in said.err and "to mend" not in said.out
    assert (whole / f"results/boards/vision-8--ViT-B-32--{FAMILY}.csv").is_file()


def _reorder(data: Path, own: Path) -> None:
    about = full.info("DTD")
    parquet(data / "DTD", {"train": TRAIN, "test": IMAGES}, about.classes[::-1], label=about.label)


def _cut(data: Path, own: Path) -> None:
    path = own / "SVHN.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def _spoil(data: Path, own: Path) -> None:
    path = own / "heads/MNIST.safetensors"
    save_file({name: torch.full_like(value, torch.nan) for name, value in load_file(path).items()}, path)


def _fewer(data: Path, own: Path) -> None:
    about = full.info("GTSRB")
    parquet(data / "GTSRB", {"train": TRAIN, "test": IMAGES - 1}, about.classes, label=about.label)


FAULTS: dict[str, tuple[Callable[[Path, Path], object], tuple[str, str], str, str]] = {
    "an order of classes": (_reorder, ("data", "DTD"), "wrong", "another class order"),
    "a number of images": (_fewer, ("data", "GTSRB"), "wrong", "11 test images, expected 12"),
    "a data set": (lambda d, o: (d / "Cars").rename(d / "elsewhere"), ("data", "Cars"), "missing", "does not exist"),
    "a cut expert": (_cut, ("expert", "SVHN"), "wrong", "truncated"),
    "a head with NaN": (_spoil, ("head", "MNIST"), "wrong", "sha256"),
    "a base": (lambda d, o: (o / "base.safetensors").unlink(), ("base", ""), "missing", "is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_said_of_a_part_is_what_the_run_says_of_it(whole: Path, fault: str) -> None:
    data, own = whole / "data", whole / "own" / FAMILY / "ViT-B-32"
    harm, where, state, reason = FAULTS[fault]
    harm(data, own)
    findings = found(whole, ["ties"])
    assert [place for place, finding in findings.items() if finding.state != "there"] == [where]
    assert findings[where].state == state and reason in findings[where].why
    with pytest.raises((UserError, FamilyError)) as error:
        bench = suites.open_bench(
            suites.load("vision-8"), family=FAMILY, data_root=data, checkpoints=whole / "own", backbone="ViT-B-32"
        )
        for task in TASKS:
            bench.source(task, "test")
    assert findings[where].why.rstrip(". ") in str(error.value)


def test_what_only_some_methods_read_is_checked_for_them_alone(whole: Path) -> None:
    about = full.info("DTD")
    parquet(whole / "data" / "DTD", {"train": 5, "test": IMAGES}, about.classes, label=about.label)
    assert found(whole, ["ties"])["data", "DTD"].state == "there"
    finding = found(whole, ["task_arithmetic:scale=val"])["data", "DTD"]
    assert finding.state == "wrong" and "ten or more are needed" in finding.why
    assert finding.part.mend.startswith("mv data/DTD data/DTD.before && ./run_all.sh assets data fetch DTD")


def test_a_data_set_that_only_one_family_means_is_fetched_for_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--suite", "vision-20", "--family", "fusionbench", "--methods", "ties") == 2
    said = unbroken(capsys.readouterr().out)
    letters = "assets data fetch EMNIST --root DIR --family fusionbench --revision EMNIST=main --download\n"
    assert letters in said and "fetch MNIST --root DIR --download\n" in said
    assert run("run", "--suite", "vision-20", "--family", "tall", "--methods", "ties") == 2
    assert "assets data convert EMNIST FROM DIR\n" in unbroken(capsys.readouterr().out)


def test_a_families_missing_heads_are_made_from_prompts_where_it_has_none(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--suite", "vision-8", "--family", "fusionbench", "--methods", "ties") == 2
    said = unbroken(capsys.readouterr().out)
    more = "--backbone ViT-B-32 --suite vision-8"
    assert f"assets checkpoints import fusionbench --download --revision main {more}\n" in said
    assert f"assets checkpoints heads fusionbench {more} --text CLIP\n" in said


def test_nyuv2_and_glue_are_looked_at_alike(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nyuv2, "COUNTS", COUNTS)
    monkeypatch.setattr(nyuv2, "SIZE", SIZE)
    monkeypatch.setitem(models.BACKBONES, "ResNet-50", dataclasses.replace(SHAPE, name="ResNet-50"))
    command = ["run", "--suite", "nyuv2", "--methods", "ties"]
    assert run(*command) == 2
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 8 and {row[0] for row in rows.values()} == {"missing"}
    write_root(place / "data" / "nyuv2")
    assert run(*command, "--data-root", place / "data") == 2
    assert rows_of(capsys.readouterr().out)["data", "nyuv2"][0] == "there"
    (place / "data/nyuv2/train/depth/3.npy").unlink()
    assert run(*command, "--data-root", place / "data") == 2
    said = capsys.readouterr().out
    assert rows_of(said)["data", "nyuv2"][0] == "wrong" and "3.npy" in said
    pytest.importorskip("transformers", reason=lacks_package("transformers", "glue"))
    assert run("run", "--suite", "glue", "--methods", "ties") == 2
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 25 and {row[0] for row in rows.values()} == {"missing"}
