"""Figures show the numbers of the boards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.lacking import lacks
from helpers.records import make_record

from benchmark.board import leaderboard, rows
from benchmark.records.store import Store
from benchmark.report import critical_difference, figures, labels, plots
from benchmark.report import study_figures as study_plots

ROOT = Path(__file__).parents[2]


def test_lines_are_the_means_of_the_boards(tmp_path: Path) -> None:
    boards = [b for b in leaderboard.load(ROOT / "results" / "reference") if b.suite.startswith("vision-mini-")]
    if not boards:
        pytest.skip(lacks("no reference records in this checkout", "git checkout -- results/reference"))
    figure = plots.by_number_of_tasks(boards, ["individual", "ties", "no such method"])
    (axes,) = figure.axes
    drawn = {c.get_label(): [tuple(p) for p in c.lines[0].get_xydata()] for c in axes.containers}
    assert set(drawn) == {"individual", "ties"}
    for name, points in drawn.items():
        for board in boards:
            row = board.rows[board.rows["method"] == name].iloc[0]
            assert (len(board.tasks), pytest.approx(row["mean"])) in points
    path = plots.save(figure, tmp_path / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.fixture(scope="module")
def reference() -> tuple[list, dict]:
    """The reference records of vision-mini-8, and their board."""
    records = Store(ROOT / "results" / "reference", read_only=True).all("vision-mini-8")
    if not records:
        pytest.skip(lacks("no reference records in this checkout", "git checkout -- results/reference"))
    return records, leaderboard.boards(records)[0]


def test_bars_are_the_scores_of_the_board_and_their_colours_the_access(reference: tuple) -> None:
    _, board = reference
    (axes,) = plots.bars(board).axes
    named = {label.get_text().partition("  ")[0]: round(place, 3)
             for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}  # fmt: skip
    bars = {round(bar.get_y() + bar.get_height() / 2, 3): bar for bar in axes.patches}
    assert len(bars) == len(named) == len(board.rows), "no row is dropped"
    for _, row in board.rows.iterrows():
        bar = bars[named[row["method"] + (" (oracle)" if row["row"] == "oracle" else "")]]
        assert bar.get_width() == pytest.approx(row["mean"])
    colours = {row["access"]: bars[named[row["method"]]].get_facecolor() for _, row in board.rows.iterrows()
               if row["row"] == "method" and row["method"] in named}  # fmt: skip
    assert len(set(colours.values())) == len(colours) > 1
    title = axes.figure.get_suptitle()
    assert board.suite in title and "test samples" in title and "commit" in title


def test_a_figure_that_leaves_rows_out_names_them_and_keeps_references_and_a_users_own(reference: tuple) -> None:
    _, board = reference
    ranked = board.rows[board.rows["rank"].notna()]
    last = ranked.sort_values("overall")["method"].iloc[-1]
    users = dataclasses.replace(board, own=[last])
    (axes,) = plots.bars(users, most=25).axes
    shown = {text.get_text().partition("  ")[0].removesuffix(" (oracle)") for text in axes.get_yticklabels()}
    assert len(shown) == 25 and shown >= {last, "individual", "pretrained", *ranked[ranked["rank"] == 1]["method"]}
    assert f"{len(board.rows) - 25} further rows are left out" in axes.figure.get_suptitle()
    (axes,) = plots.bars(users, most=len(board.rows) - 3).axes
    title = axes.figure.get_suptitle().replace("\n", " ")
    shown = {text.get_text().partition("  ")[0] for text in axes.get_yticklabels()}
    absent = [name for name in board.rows["method"] if name not in shown]
    assert len(absent) == 3 and title.endswith(f"left out: {', '.join(absent)}")


def test_the_diagram_of_ranks_holds_a_users_own_methods_and_says_what_it_leaves_out(reference: tuple) -> None:
    _, board = reference
    listed = critical_difference.chosen(board)
    own = next(name for name in board.rows[board.rows["row"] == "method"]["method"] if name not in listed)
    chosen = critical_difference.chosen(dataclasses.replace(board, own=[own]))
    assert set(chosen) == {*listed, own}
    axes = critical_difference.diagram(board, chosen).axes[0]
    assert any(text.get_text().startswith(own) or text.get_text().endswith(own) for text in axes.texts)
    ranked = int((board.rows["row"] == "method").sum())
    assert f"{ranked - len(chosen)} further rows are left out" in axes.get_title()


def test_own_methods_are_those_without_a_record_of_the_project() -> None:
    project = [make_record("ties"), make_record("individual")]
    mine = [
        make_record("ties"),
        make_record("mine"),
        make_record("ties", changed={"keep": 0.5}, variant="ties:keep=0.5"),
    ]
    (board,) = rows.boards(mine, project)
    assert set(board.own) == {"mine", "ties:keep=0.5"}
    assert rows.boards(mine)[0].own == [], "those are the project's"
    assert set(rows.boards(mine, [])[0].own) == {"ties", "mine", "ties:keep=0.5"}


def test_the_title_of_coefficients_is_the_run_that_it_shows(reference: tuple) -> None:
    records, board = reference
    figure = figures.OF_BOARD["coefficients"](board, records)
    title = figure.get_suptitle().replace("\n", " ")
    groups = figures._runs(board, records)
    learned = [name for name in board.rows["method"] if groups[name] and figures._layerwise(groups[name][0])]
    assert title.startswith(f"{learned[0]}: coefficients, mean of n={len(groups[learned[0]])} ")
    assert all(name in title for name in learned[1:]) or f"{len(learned) - 1} further rows are left out" in title


def test_dots_are_shares_of_the_experts_scores(reference: tuple) -> None:
    _, board = reference
    (axes,) = plots.by_task(board, ["ties", "pretrained"]).axes
    rows = board.rows.set_index("method")
    for line, name in zip(axes.lines, ["ties", "pretrained"], strict=False):
        wanted = [100 * rows.loc[name, task] / rows.loc["individual", task] for task in board.tasks]
        assert line.get_xdata() == pytest.approx(wanted)


def test_cost_figures_name_what_no_method_beats(reference: tuple) -> None:
    _, board = reference
    (axes,) = plots.against(board, "storage_models", "storage, in models").axes
    named = {text.get_text() for text in axes.texts}
    single = board.rows[(board.rows["row"] == "method") & (board.rows["storage_models"] <= 1)]
    best = single.sort_values("overall").iloc[0]["method"]
    assert best in named and "individual" in named
    assert axes.get_xscale() == "log"


def test_coefficients_and_curves_are_means_over_seeds(reference: tuple) -> None:
    records, _ = reference
    runs = [record for record in records if record.variant == "symerge"]
    figure = plots.coefficients(runs)
    drawn = figure.axes[0].images[0].get_array()
    assert np.allclose(drawn, np.mean([run.trace_summary["coefficients"] for run in runs], axis=0))
    (axes,) = plots.adaptation({"symerge": runs}, smooth=1).axes
    curves = np.array([np.array(run.trace_summary["losses"]) for run in runs])
    assert axes.lines[0].get_ydata() == pytest.approx((100 * curves / curves[:, :1]).mean(axis=0))


def test_coefficients_that_never_left_their_start_are_counted_and_left_out(reference: tuple) -> None:
    run = next(record for record in reference[0] if record.variant == "symerge").model_copy(deep=True)
    trace = run.trace_summary
    trace["coefficients"] = [[0.3] * 8, [0.0] * 8, [0.3] * 7 + [0.4]]
    trace["coefficient_rows"] = ["still", "zero", "moved"]
    figure = plots.coefficients([run])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["zero", "moved"]
    assert "1 tensor with" in figure.get_suptitle()


def test_names_of_points_overlap_neither_each_other_nor_the_edge() -> None:
    figure, axes = plots.plt.subplots(figsize=(4, 3))
    points = [(0.0, 0.0), (0.01, 0.0), (0.02, 0.01), (1.0, 1.0), (1.0, 0.98)]
    axes.scatter(*zip(*points, strict=True))
    labels.place(axes, [(x, y, f"a rather long name {i}") for i, (x, y) in enumerate(points)], points, always=1)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= 2 and axes.texts[0].get_text().endswith("0")
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(axes.bbox.padded(1).containsx(x) for box in boxes for x in (box.x0, box.x1))


def test_heat_maps_of_transfer_hold_the_tables_numbers_and_bold_ones_are_sure() -> None:
    nan = np.nan
    frame = pd.DataFrame(
        [
            ["a", "m", 60.0, 1.5, 0.1, 2.9, -0.5, -1.0, 0.5],
            ["b", "m", 60.0, -2.0, -3.0, -1.0, nan, nan, nan],
            ["a", "n", 40.0, 3.0, -1.0, 7.0, 0.25, 0.2, 0.3],
        ],
        columns=["source", "recipient", "own", "gain", "gain_low", "gain_high", "beyond", "beyond_low", "beyond_high"],
    )
    gains, beyond = study_plots.transfer(frame, "about").axes[:2]
    assert [label.get_text() for label in gains.get_yticklabels()] == ["m (60.0)", "n (40.0)"]
    assert np.allclose(gains.images[0].get_array().filled(np.nan), [[1.5, -2.0], [3.0, np.nan]], equal_nan=True)
    assert {text.get_text() for text in beyond.texts} == {"-0.5", "+0.2"}
    bold = [{text.get_text() for text in axes.texts if text.get_fontweight() == "bold"} for axes in (gains, beyond)]
    assert bold == [{"+1.5", "-2.0"}, {"+0.2"}]


def test_every_figure_is_written_as_png_and_svg_of_modest_size(reference: tuple, tmp_path: Path) -> None:
    records, board = reference
    paths = figures.write([board], records, tmp_path)
    kinds = {path.stem.rpartition("--")[2] for path in paths}
    assert kinds >= {"scores", "by-task", "cost", "storage", "coefficients", "adaptation"}
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 300_000
        assert path.with_suffix(".svg").read_text().lstrip().startswith("<?xml")


def test_merges_that_adapt_come_before_training_on_labels(reference: tuple) -> None:
    records, board = reference
    (axes,) = figures.OF_BOARD["adaptation"](board, records).axes
    shown = [text.get_text().split(" (n=")[0] for text in axes.get_legend().get_texts()]
    rows = board.rows.set_index("method")
    assert rows.loc["joint", "mean"] > rows.loc["symerge", "mean"]
    assert "symerge" in shown and not rows.loc[shown, "access"].str.contains("labelled train").any()


def test_titles_of_a_figure_with_one_panel_lie_within_it() -> None:
    about = "vision-mini-20, 20 tasks, 13,496 test samples, 1 seed, commit 385e93fe"
    points = pd.DataFrame({"merger": "ties", "heads": "own", "size": 2, "cross_normalised": [20.0, 30.0],
                           "merge_normalised": [70.0, 80.0]})  # fmt: skip
    none = pd.DataFrame(columns=["merger", "heads", "size", "compared", "kind", "value", "low", "high"])
    figure = study_plots.correlation(points, none, about)
    figure.draw_without_rendering()
    (title,) = figure.texts[2:] or figure.texts[-1:]
    assert about in title.get_text()
    drawn, whole = title.get_window_extent(), figure.bbox
    assert drawn.x0 >= whole.x0 and drawn.x1 <= whole.x1


def test_a_title_lies_within_its_figure_beside_long_labels(reference: tuple) -> None:
    _, board = reference
    rows = board.rows.assign(method=["symerge:adapt='none',granularity=task,labels=truth" + name
                                     for name in board.rows["method"]])  # fmt: skip
    commits = [f"{number:08x}" for number in range(20)]
    figure = plots.bars(dataclasses.replace(board, rows=rows, commits=commits))
    figure.draw_without_rendering()
    drawn, whole = figure._suptitle.get_window_extent(), figure.bbox
    assert drawn.x0 >= whole.x0 and drawn.x1 <= whole.x1


def test_the_question_of_an_ablation_is_broken_to_the_width_of_its_figure() -> None:
    rows = [{"setting": "as the suite is", "variant": name, "mean": 50.0, "low": 49.0, "high": 51.0}
            for name in ("pretrained", "individual", "symerge")]  # fmt: skip
    question = "Which prior is best, and where does it matter? " * 4
    figure = study_plots.ablation(pd.DataFrame(rows), f"{question}\nsuite, seeds")
    figure.draw_without_rendering()
    drawn, whole = figure._suptitle.get_window_extent(), figure.bbox
    assert drawn.x0 >= whole.x0 and drawn.x1 <= whole.x1
