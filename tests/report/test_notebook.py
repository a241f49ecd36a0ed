"""The notebook draws every kind of figure from records; its committed outputs are of the committed records."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.records import make_record

from benchmark.board import rows
from benchmark.cli import main as cli
from benchmark.common.project import DEFAULT_SUITE
from benchmark.records.store import Store
from benchmark.report import captions, figures, notebook

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
BOOK = RESULTS / notebook.NAME
METHODS = {"pretrained", "individual", "symerge", "weight_average", "ties"}


def outputs(path: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Source and outputs of each cell of code."""
    cells = json.loads(path.read_text())["cells"]
    return [("".join(cell["source"]), cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]


def pictures(found: list[dict[str, Any]]) -> int:
    return sum(bool({"image/png", "image/jpeg"} & output.get("data", {}).keys()) for output in found)


def printed(found: list[dict[str, Any]]) -> str:
    return "".join(line for output in found for line in output.get("text", []))


def shown(found: list[dict[str, Any]]) -> list[str]:
    """The lines above the pictures."""
    kept = [output.get("data", {}).get("text/markdown") for output in found]
    return ["".join(each) for each in kept if each]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[dict[str, Any]]]]:
    """The committed notebook, run by ``board --notebook`` on a folder of a few of the project's records."""
    results = tmp_path_factory.mktemp("results")
    store = Store(RESULTS / "reference", read_only=True)
    for record in [*store.all("vision-mini-8"), *store.all("vision-mini-14")]:
        if record.variant in METHODS and record.spec.seed in (None, 0):
            folder = store.folder(record.spec)
            shutil.copytree(folder, results / folder.relative_to(store.root))
    shutil.copytree(RESULTS / "studies", results / "studies")
    (results / "plots").mkdir()
    panels = "dense-mini--ResNet-mini--mini--panels.png"
    shutil.copy(RESULTS / "plots" / panels, results / "plots" / panels)
    assert cli.main(["board", "--results", str(results), "--notebook"]) == 0
    return outputs(results / notebook.NAME)


@pytest.mark.slow
def test_every_kind_of_figure_is_drawn_and_no_torch_is_imported(executed: list) -> None:
    drawn = {source: pictures(found) for source, found in executed}
    drawn = {kind: drawn.get(f'draw("{kind}")', 0) for kind in figures.KINDS}
    assert all(drawn.values()), drawn
    source, found = executed[-1]
    assert 'assert "torch" not in sys.modules' in source and pictures(found) == 1


def test_it_opens_with_a_board_and_every_figure_says_what_it_shows(executed: list) -> None:
    source, found = executed[0]
    assert "notebook.first" in source
    assert "Data-free" in printed(found) and "symerge" in printed(found) and "weight_average" in printed(found)
    for source, found in executed:
        if source.startswith("draw("):
            for line in shown(found):
                name, _, about = line.partition("` ")
                assert name.startswith("`plots/") and len(about) > 30 and about.endswith("."), line


def test_the_committed_notebook_opens_with_the_default_suites_board() -> None:
    _, found = outputs(BOOK)[0]
    assert printed(found).startswith(f"{DEFAULT_SUITE} · ")


def test_every_kind_of_figure_has_its_sentence_and_it_names_the_board() -> None:
    assert {*captions.OF_BOARD, *captions.OF_STUDIES} == set(figures.KINDS)
    more = make_record("x").cost.model_copy(update={"storage_bytes": 9_000_000})
    (board,) = rows.boards(
        [make_record("ties"), make_record("individual"), make_record("emr", accuracy=0.9, cost=more)]
    )
    for kind in captions.OF_BOARD:
        text = captions.caption(kind, board)
        assert board.suite in text and text.count(". ") == 0 and text.endswith(".")
    said = captions.caption("scores", board)
    best = board.rows.set_index("method")["mean"]
    assert f"data-free ties {best['ties']:.1f}" in said and f"more than one model emr {best['emr']:.1f}" in said
    assert captions.caption("storage", board).endswith("1 rows keep more than one model.")


def test_every_figure_function_is_used_by_some_kind() -> None:
    trees = {name: ast.parse((ROOT / "benchmark" / "report" / f"{name}.py").read_text())
             for name in ("plots", "study_figures", "figures")}  # fmt: skip
    made = {f.name for name in ("plots", "study_figures") for f in trees[name].body
            if isinstance(f, ast.FunctionDef) and f.returns and ast.unparse(f.returns) == "Figure"}  # fmt: skip
    made = {name for name in made if not name.startswith("_")}
    used = {
        node.attr
        for name in ("figures", "study_figures")
        for node in ast.walk(trees[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "plots"
    } | {
        n.func.id for n in ast.walk(trees["study_figures"]) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert len(made) >= 10 and made <= used, made - used


def test_the_committed_outputs_are_of_the_committed_records() -> None:
    _, (_, found), *rest = outputs(BOOK)
    text = printed(found)
    assert text.strip() == notebook.contents(*notebook.read(RESULTS)).strip(), (
        "type ./run_all.sh board --reference --plots --notebook"
    )
    assert all(pictures(found) for _, found in rest)


def test_the_committed_notebook_is_small_and_names_no_machine() -> None:
    text = BOOK.read_text()
    assert len(text) < 2_500_000
    assert "/home/" not in text and "/tmp/" not in text and str(ROOT) not in text
