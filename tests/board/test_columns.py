"""What a row says beside its score: the value that was chosen, the project's own number, each seed, wins, LaTeX."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.lacking import lacks
from helpers.records import make_record, make_spec

from benchmark.board import comparison, latex, leaderboard, rows, searches, versus
from benchmark.board.repeat import repeat
from benchmark.cli import main as cli
from benchmark.common.project import REFERENCE
from benchmark.records.record import Cost, Record
from benchmark.records.spec import parse_method
from benchmark.records.store import Store
from benchmark.report import page, page_board


def searched(value: float, tried: list[float], seed: int | None = None) -> Record:
    chosen = {"scale": value, "validation": {f"{each:g}": 0.5 for each in tried}}
    return make_record("pcb", seed, access=["labelled val"], trace_summary={"chosen": chosen})


def texts(board: rows.Board) -> list[str]:
    """Terminal, Markdown and page."""
    out = io.StringIO()
    leaderboard.print_board(board, out, 200)
    return [out.getvalue(), leaderboard.markdown(board), page.html([board], {})]


def cost(images: int) -> Cost:
    return make_record("ties").cost.model_copy(update={"images_drawn": images})


@pytest.mark.parametrize(
    ("value", "edge"), [(0.05, "lowest"), (0.1, ""), (0.3, "highest"), (0.30000000000000004, "highest")]
)
def test_a_chosen_value_is_shown_with_its_grid_and_a_mark_at_its_edge(value: float, edge: str) -> None:
    row = searches.search([searched(value, [0.05, 0.3, 0.1, 0.2])])
    assert row == {"chosen": f"scale={value:g}", "grid": "0.05 to 0.3 (4 values)", "at_edge": edge}
    (board,) = rows.boards([searched(value, [0.05, 0.1, 0.2, 0.3]), make_record("ties")])
    for text in texts(board):
        assert f"scale={value:g}" in text and (not edge or f"{edge} of 0.05 to 0.3 (4 values)" in text or edge in text)


def test_seeds_that_chose_differently_are_all_named() -> None:
    row = searches.search([searched(0.1, [0.1, 0.2, 0.3], 0), searched(0.3, [0.1, 0.2, 0.3], 1)])
    assert row["chosen"] == "scale=0.1, 0.3" and row["at_edge"] == "lowest and highest"


@pytest.mark.parametrize("chosen", [None, [], {"scale": 1}, {"scale": "x", "validation": {"a": 1}}, {"validation": {}}])
def test_a_record_that_does_not_say_what_was_tried_says_nothing(chosen: Any) -> None:
    assert searches.search([make_record("pcb", trace_summary={"chosen": chosen})]) == searches.NONE


def test_the_projects_number_and_the_difference_stand_in_terminal_markdown_and_page_alike() -> None:
    mine, project = make_record("ties", accuracy=0.7), make_record("ties", accuracy=0.9)
    (board,) = rows.boards([mine], [project])
    (row,) = board.rows.to_dict("records")
    assert row["reference_gap"] == pytest.approx(row["mean"] - row["reference"]) and row["reference_gap"] < 0
    terminal, markdown, html = texts(board)
    for text in (terminal, markdown):
        assert "reference" in text and f"{row['reference']:.1f}" in text and f"{row['reference_gap']:+.1f}" in text
    shown = {column["field"]: column["visible"] for column in page_board._columns(board)}
    assert shown["reference"] and shown["reference_gap"]
    (alone,) = rows.boards([mine])
    assert "to reference" not in leaderboard.markdown(alone).split("## Columns")[0]


def test_a_row_whose_scores_are_anothers_or_that_drew_beyond_the_budget_has_a_remark() -> None:
    first = make_record("pretrained", accuracy=0.5)
    budget = {"access": ["unlabelled test"]}
    records = [
        first, make_record("ram").model_copy(update={"tasks": first.tasks}), make_record("ties", accuracy=0.6),
        make_record("adamerging", 0, cost=cost(12_800), accuracy=0.7, **budget),
        make_record("adamerging", 0, cost=cost(128_000), accuracy=0.8, variant="adamerging:steps=500",
                    changed={"steps": 500}, **budget),
        make_record("surgery", 0, cost=cost(640_000), accuracy=0.9, **budget),
    ]  # fmt: skip
    (board,) = rows.boards(records)
    said = board.rows.set_index("method")["remark"]
    assert said["ram"] == "the same score as pretrained on every task"
    assert said["adamerging:steps=500"] == "128,000 samples, where the suite's budget gives the method 12,800"
    assert set(said[["ties", "adamerging", "surgery"]]) == {""}
    for text in texts(board):
        assert "ram †" in text or '"remark": "the same score' in text, text
        assert "the same score as pretrained on every task" in text
    assert "ties †" not in texts(board)[1]


def test_each_seed_is_shown_with_its_own_score() -> None:
    records = [make_record("symerge", seed, accuracy=0.6 + 0.1 * seed) for seed in range(3)]
    (board,) = rows.boards([*records, make_record("ties")])
    row = board.rows.set_index("method").loc["symerge"]
    wanted = [np.mean([result.value for result in record.tasks.values()]) for record in records]
    assert [float(text) for text in row["seed_scores"].split()] == pytest.approx(wanted)
    assert ", ".join(f"{value:.1f}" for value in wanted) in leaderboard.markdown(board)
    assert board.rows.set_index("method").loc["ties"]["seed_scores"] == ""


def test_adaptation_seconds_that_no_record_holds_are_blank_and_not_zero() -> None:
    cost = make_record("x").cost
    drew = make_record("mine", cost=cost.model_copy(update={"images_drawn": 100, "adapt_seconds": 0.0}))
    told = make_record("told", cost=cost.model_copy(update={"images_drawn": 100, "adapt_seconds": 4.5}))
    (board,) = rows.boards([drew, told, make_record("ties")])
    seconds = board.rows.set_index("method")["adapt_seconds"]
    assert np.isnan(seconds["mine"]) and seconds["told"] == 4.5 and seconds["ties"] == 0
    assert "100" in texts(board)[0]


def test_wins_are_the_signs_of_paired_differences() -> None:
    records = [make_record(name, accuracy=level, n=400) for name, level in (("a", 0.9), ("b", 0.6), ("c", 0.598))]
    records.append(make_record("twin", n=400).model_copy(update={"tasks": records[1].tasks}))
    (board,) = rows.boards(records)
    names, against = board.rows["method"].tolist(), board.versus
    assert against is not None
    verdict = {(a, b): against.verdict(i, j) for i, a in enumerate(names) for j, b in enumerate(names)}
    assert verdict["a", "b"] == "+" and verdict["b", "a"] == "−" and verdict["b", "twin"] == "="
    assert verdict["a", "a"] == ""
    assert np.allclose(against.value, -against.value.T) and (against.half == against.half.T).all()
    values = board.rows["mean"].to_numpy()
    assert against.value == pytest.approx(values[:, None] - values[None], abs=1e-4)
    assert against.won[names.index("a"), names.index("b")] == 3 and against.won[names.index("b")][names.index("a")] == 0
    table = versus.pairs(board.rows, against)
    assert len(table) == 12 and set(table["verdict"]) == {"better", "worse", "tied"}
    assert "surely better" in leaderboard.markdown(board)


def test_a_comparison_says_where_numbers_of_seeds_differ_and_pairs_those_shared() -> None:
    def seeds(method: str, given: list[int | None], accuracy: float) -> list[Record]:
        return [make_record(method, seed, accuracy=accuracy) for seed in given]

    def said(a: list[int | None], b: list[int | None]) -> str:
        records = [*seeds("symerge", a, 0.8), *seeds("adamerging", b, 0.7)]
        return comparison.compare(records, "symerge", "adamerging", "vision-mini-8")

    assert "seed" not in said([0, 1, 2], [0, 1, 2])
    partly = said([0, 1, 2, 3], [0, 1])
    assert "(n=2) minus adamerging (n=2)" in partly and "symerge has 4, adamerging has 2" in partly
    assert "numbers of seeds differ (3 and 1)" in said([0, 1, 2], [0])
    assert "adamerging is deterministic" in said([0, 1], [None])


def test_latex_has_booktabs_and_the_best_of_each_track_and_its_ties_in_bold(tmp_path: Path) -> None:
    records = [
        make_record("best_one", accuracy=0.9, n=2000), make_record("far", accuracy=0.3, n=2000),
        make_record("symerge", 0, accuracy=0.5, access=["unlabelled test"], n=2000),
        make_record("odd", accuracy=0.31, n=2000, variant="odd:note='50% & $x_1$ \\input{a}'", changed={"a": 1}),
    ]  # fmt: skip
    records.append(make_record("tied", n=2000).model_copy(update={"tasks": records[0].tasks}))
    (board,) = rows.boards(records)
    text = latex.latex(board)
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    lines = {line.split(" & ")[0]: line.split(" & ")[1] for line in text.splitlines() if " & " in line}
    bold = {name for name, score in lines.items() if score.startswith(r"\textbf")}
    assert bold == {r"best\_one", "tied", "symerge"}
    assert r"50\% \& \$x\_1\$ \textbackslash{}input\{a\}" in text and r"\input{" not in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_board_latex_writes_a_file_for_each_board(tmp_path: Path) -> None:
    Store(tmp_path).save(make_record("ties"))
    assert cli.main(["board", "--results", str(tmp_path), "--latex"]) == 0
    (path,) = (tmp_path / "boards").glob("*.tex")
    assert "ties & \\textbf{" in path.read_text()


def test_latex_is_taken_by_a_real_latex(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip(lacks("no pdflatex on this machine", "apt-get install texlive-latex-recommended"))
    (board,) = rows.boards([make_record("ties"), make_record("a_b", variant="a_b:x='50%'")])
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs,textcomp}\begin{document}"
        + "\n" + latex.latex(board) + r"\end{document}"
    )  # fmt: skip
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_command_that_repeats_a_row_names_its_keywords_seeds_and_precision() -> None:
    records = [
        make_record(
            spec=make_spec("ties", seed, parameters={"keep": 0.5}, dtype="bfloat16", backbone="ViT-L"),
            changed={"keep": 0.5, "kind": "none"}, variant="ties:keep=0.5",
        )
        for seed in (2, 0)
    ]  # fmt: skip
    words = shlex.split(repeat(records))
    assert words[:3] == ["./run_all.sh", "--suite", "vision-mini-8"]
    given = dict(zip(words[1::2], words[2::2], strict=False))
    assert parse_method(given["--methods"]) == ("ties", {"keep": 0.5, "kind": "none"})
    text = " ".join(words)
    assert "--seeds 0 2" in text and "--dtype bfloat16" in text and "--backbone ViT-L" in text
    assert "--autocast" not in text and "--vectors" not in text


def test_every_committed_row_has_a_command_that_the_program_reads() -> None:
    found = Store(REFERENCE, read_only=True).all("vision-mini-8-disjoint")
    if not found:
        pytest.skip(lacks("no reference records in this checkout", "git checkout -- results/reference"))
    for record in found:
        words = shlex.split(repeat([record]))
        assert parse_method(words[words.index("--methods") + 1]) == (record.spec.method, record.changed)
        assert words[0] == "./run_all.sh" and words[1:3] == ["--suite", record.spec.suite]
