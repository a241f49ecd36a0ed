"""The committed tables of studies are what the committed records say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.tables import assert_same_but_for_rounding

from benchmark.cli import main as cli
from benchmark.cli import options
from benchmark.common.errors import UserError
from benchmark.studies import pages

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "results" / "studies"


def committed() -> list[tuple[str, str]]:
    """``(kind, name)`` of every committed page."""
    return [(path.parent.name, path.stem) for path in sorted(STUDIES.glob("*/*.md"))]


@pytest.mark.parametrize(("kind", "name"), committed())
def test_the_tables_are_what_the_records_say(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("reference", "studies/records"):
        shutil.copytree(ROOT / "results" / folder, tmp_path / folder)
    monkeypatch.setattr(options, "RESULTS", tmp_path)
    # An ablation's page is of the suite that its file names, or says of which.
    first, _, suite = name.partition("--")
    which = [first, *(["--suite", suite] if suite else [])] if kind == "ablations" else ["--suite", first]
    verb = {"ablations": "ablate"}.get(kind, kind)
    assert cli.do(["study", verb, "--reference", "--tables", *which]) == 0
    made = sorted((tmp_path / "studies" / kind).glob(f"{name}.*"))
    assert made and {path.name for path in made} == {path.name for path in (STUDIES / kind).glob(f"{name}.*")}
    for path in made:
        stored = (STUDIES / kind / path.name).read_text()
        assert_same_but_for_rounding(path.read_text(), stored, f"type ./run_all.sh study {verb} --tables")


def test_every_report_shows_its_tables_as_they_are() -> None:
    for report, kind in (("transfer", "transfer"), ("pilot", "pilot"), ("ablations", "ablations")):
        text = (ROOT / "results" / f"{report}.md").read_text()
        for path in STUDIES.glob(f"{kind}/*.md"):
            rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
            assert rows and all(row in text for row in rows), f"{path.name} is not in results/{report}.md as it is"


def test_a_report_takes_over_a_changed_table_and_keeps_its_prose(tmp_path: Path) -> None:
    page, report = tmp_path / "studies/ablations/parts.md", tmp_path / "report.md"
    page.parent.mkdir(parents=True)
    page.write_text("# Q\n\n| a |\n| - |\n| 1 |\n\nwords\n\n| b |\n| - |\n| 3 |\n| 4 |\n\nend\n")
    before, after = "# Found\n\nBefore | all.\n", "\nAfter it.\n\n| own |\n| --- |\n| kept |\n"
    marker = "<!-- studies/ablations/parts.md, table 2 -->\n"
    report.write_text(f"{before}{marker}\n| b |\n| - |\n| 2 |\n{after}")
    assert pages.refresh(tmp_path) == [report]
    assert report.read_text() == f"{before}{marker}\n| b |\n| - |\n| 3 |\n| 4 |\n{after}"
    assert pages.refresh(tmp_path) == []
    report.write_text(f"{before}{marker}{after}")
    pages.refresh(tmp_path)
    assert report.read_text() == f"{before}{marker}\n| b |\n| - |\n| 3 |\n| 4 |\n{after}"


@pytest.mark.parametrize(("wanted", "said"), [("parts.md, table 3", "which has 1"), ("other.md, table 1", "not there")])
def test_a_marker_without_its_table_is_refused_and_nothing_is_written(wanted: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/parts.md").write_text("| a |\n| - |\n| 1 |\n")
    texts = {"a.md": "<!-- studies/parts.md, table 1 -->\n", "b.md": f"<!-- studies/{wanted} -->\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        pages.refresh(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in texts} == texts


def test_tables_under_markers_are_the_committed_ones() -> None:
    marked = [path for path in (ROOT / "results").glob("*.md") if "<!-- studies/" in path.read_text()]
    assert {path.stem for path in marked} >= {"transfer", "pilot", "ablations"}
    for path in marked:
        assert pages.refreshed(path.read_text(), path) == path.read_text(), "type ./run_all.sh study KIND --tables"
