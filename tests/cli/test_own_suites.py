"""A suite of a user's own goes through every verb as the project's do: run, board, compare, list, plan, clean."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.own_suites import write_suite, write_yaml

from benchmark import suites
from benchmark.cli import main as cli
from benchmark.records.store import Store

BOARD = "own_tiny--ViTForImageClassification--own"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite and the records and boards of one run."""
    root = tmp_path_factory.mktemp("own")
    patch = pytest.MonkeyPatch()
    with patch.context() as here:
        here.setenv("SYMERGE_CACHE", str(root / "cache"))
        here.chdir(root)
        write_suite(root, notes="Photographs of a Sunday.")
        words = ["run", "--suite", "./suite.yaml", "--methods", "weight_average", "--results", "results"]
        assert cli.main(words) == 0
    return root


@pytest.fixture
def here(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the present folder."""
    root = Path(shutil.copytree(ran, tmp_path / "own"))
    monkeypatch.setenv("SYMERGE_CACHE", str(root / "cache"))
    monkeypatch.chdir(root)
    return root


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_run_leaves_records_boards_and_a_page(ran: Path) -> None:
    records = Store(ran / "results", read_only=True).all("own:tiny")
    assert {record.variant: record.status for record in records} == {
        "pretrained": "done", "individual": "done", "weight_average": "done",
    }  # fmt: skip
    for record in records:
        assert set(record.spec.checkpoints) == {
            "encoder", "base", *(f"{kind}/{task}" for kind in ("experts", "heads") for task in record.suite_tasks)
        }  # fmt: skip
        assert all(len(sha256) == 64 for sha256 in record.spec.checkpoints.values())
        assert set(record.spec.data) == {"test"} and set(record.spec.data["test"]) == set(record.suite_tasks)
        assert record.provenance.argv[-3:] == ["weight_average", "--results", "results"]
    board = (ran / "results" / "boards" / f"{BOARD}.md").read_text()
    assert "A suite of a user's own: its numbers hold for its own images and experts" in board
    assert "pets: val are 3 of 30 training images, drawn within each class by seed 0." in board
    page = (ran / "results" / "leaderboard.html").read_text()
    assert '"domain": "own"' in page and '"tab": "own:tiny"' in page


def test_the_same_command_again_runs_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (here / "results").rglob("record.json")}
    words = ("run", "--suite", "suite.yaml", "--methods", "weight_average", "--results", "results")
    assert said(capsys, *words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (here / "results").rglob("record.json")} == before


def test_a_plan_says_what_each_run_takes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(
        capsys, "run", "--suite", "suite.yaml", "--methods", "weight_average", "symerge", "--dry-run",
        "--results", "results",
    )  # fmt: skip
    assert status == 0 and out.startswith("own:tiny on ViTForImageClassification, family own: 4 runs")
    lines = {line.split()[1]: line.split() for line in out.splitlines() if line.startswith("  ") and "none" in line}
    assert lines["weight_average"][4] == "done" and "?" not in lines["weight_average"]
    assert "unlabelled test" in out and "not counted" not in out


def test_boards_are_written_again_from_records_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("data", "base", "pets", "suite.yaml"):
        path = here / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    before = (here / "results" / "boards" / f"{BOARD}.md").read_text()
    (here / "results" / "boards" / f"{BOARD}.md").unlink()
    assert said(capsys, "board", "--results", "results")[0] == 0
    assert (here / "results" / "boards" / f"{BOARD}.md").read_text() == before


def test_methods_are_compared_by_the_file_or_by_the_name_of_records(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suite in ("suite.yaml", "own:tiny"):
        status, out, _ = said(
            capsys, "compare", "individual", "weight_average", "--suite", suite, "--results", "results"
        )
        assert status == 0 and "individual (n=1) minus weight_average (n=1) on own:tiny" in out
    status, _, err = said(capsys, "compare", "individual", "ties", "--suite", "suite.yaml", "--results", "results")
    assert status == 2 and "Run it: ./run_all.sh --suite suite.yaml --methods ties" in err


def test_list_opens_the_suite_and_says_what_it_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "list", "./suite.yaml")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and lines[0] == ["own:tiny:", "three", "tiny", "tasks"]
    assert ["pets", "3", "27", "3", "18"] in lines and ["food", "4", "36", "4", "24"] in lines
    assert "ViTForImageClassification" in out and "brought to 28, bilinear" in out
    assert "pets: val are 3 of 30 training images" in out


def test_list_names_every_picture_that_cannot_be_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0.png", "1.png"):
        (here / "data" / "food" / "train" / "rice" / name).write_bytes(b"no picture")
    status, _, err = said(capsys, "list", "./suite.yaml")
    assert status == 2 and "food, " in err and "rice/0.png: Pillow sees no image in it" in err and "rice/1.png: " in err


def test_clean_keeps_what_is_done_of_a_suite_whose_file_it_does_not_know(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ((), ("stale",)):
        assert said(capsys, "clean", *kind, "--yes", "--results", "results")[0] == 0
        assert len(list((here / "results").rglob("record.json"))) == 3


def test_records_of_changed_images_stay_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(here / "data/pets/test/dog/0.png", here / "data/pets/test/cat/0.png")
    status, out, err = said(
        capsys, "run", "--suite", "suite.yaml", "--methods", "weight_average", "--dry-run", "--results", "results"
    )
    assert status == 0 and "done" not in out and "3 records of own:tiny in results were made on other data: pets" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--suite", "nowhere.yaml"], "error: there is no nowhere.yaml\n  "),
        (["list", "./nowhere.yaml"], "error: there is no nowhere.yaml\n  "),
        (["run", "--suite", "own:tiny"], "error: own:tiny is a suite of a user's own, which goes by its file\n  "),
        (["run", "--suite", "suite.yaml", "--rehearse"], "error: suite.yaml has nothing to rehearse"),
        (["run", "--suite", "suite.yaml", "--data-root", "."], "error: suite.yaml says itself where its files are"),
        (["run", "--suite", "suite.yaml", "--backbone", "x"], "error: unknown backbone of own:tiny 'x'"),
        (["validity", "suite.yaml"], "error: suite.yaml is held against no published ranking"),
    ],
)
def test_what_makes_no_sense_is_an_error_of_a_line(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(capsys, *words)
    assert status == 2 and message in err and "Traceback" not in err


def test_an_unknown_method_or_keyword_in_the_file_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yaml(here, methods=["tiess"])
    status, _, err = said(capsys, "run", "--suite", "suite.yaml", "--dry-run")
    assert status == 2 and "tiess" in err and "ties" in err
    write_yaml(here, methods=["ties"], overrides={"ties": {"keeep": 0.1}})
    status, _, err = said(capsys, "run", "--suite", "suite.yaml", "--dry-run")
    assert status == 2 and "unknown keyword of ties in suite.yaml 'keeep'; did you mean keep?" in err


def test_a_worker_of_another_process_opens_the_suite_by_its_file(here: Path) -> None:
    from benchmark.executors.worker import Opening
    from benchmark.harness.runner import check_same, plan

    bench = suites.open_bench(suites.load("suite.yaml"))
    (job, *_) = plan(bench, ["ties"], seeds=[0])
    opening = Opening.of(job, data_root=None, checkpoints=None, file=bench.suite.file)
    check_same(job, opening.open())


@pytest.mark.parametrize(
    ("study", "table"),
    [
        (["transfer", "--from", "symerge", "--to", "weight_average"], f"transfer/{BOARD}.md"),
        (["ablate", "parts"], "ablations/parts--own_tiny.md"),
    ],
)
def test_studies_are_made_of_it(study: list[str], table: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yaml(here, overrides={"symerge": {"steps": 2}})
    status, _, err = said(capsys, "study", *study, "--suite", "./suite.yaml", "--seeds", "0", "--results", "results")
    assert status == 0, err
    assert (here / "results/studies" / table).is_file()
    assert not any(":" in path.name for path in (here / "results").rglob("*"))
