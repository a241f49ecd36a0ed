"""The committed tables of studies are what the committed records say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmark.studies import command

ROOT = Path(__file__).parents[1]
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
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    which = [name] if kind == "ablations" else ["--suite", name.partition("--")[0]]
    verb = {"ablations": "ablate"}.get(kind, kind)
    assert command.main([verb, "--reference", "--tables", *which]) == 0
    made = sorted((tmp_path / "studies" / kind).glob(f"{name}*"))
    assert made and {path.name for path in made} == {path.name for path in (STUDIES / kind).glob(f"{name}*")}
    for path in made:
        assert path.read_text() == (STUDIES / kind / path.name).read_text(), f"type ./run_all.sh study {verb} --tables"


def test_every_report_shows_its_tables_as_they_are() -> None:
    for report, kind in (("transfer", "transfer"), ("pilot", "pilot"), ("ablations", "ablations")):
        text = (ROOT / "results" / f"{report}.md").read_text()
        for path in STUDIES.glob(f"{kind}/*.md"):
            rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
            assert rows and all(row in text for row in rows), f"{path.name} is not in results/{report}.md as it is"
