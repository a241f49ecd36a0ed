"""Printed numbers stand beside measured ones: mapped to our names and units, of the same family only, with sources."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.records import make_record, make_spec
from helpers.tables import assert_same_but_for_rounding

import methods
from benchmark import suites
from benchmark.board import columns, leaderboard, rows
from benchmark.common.errors import UserError
from benchmark.records.record import Record
from benchmark.records.spec import parse_method, resolve_parameters
from benchmark.scores import published

ROOT = Path(__file__).parents[2]
VISION = ["SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "MNIST", "DTD"]


def find(**wanted) -> list[dict]:
    table = published.load()
    for key, value in wanted.items():
        table = table[table[key] == value]
    return table.to_dict("records")


def full(method: str, family: str = "tall", accuracy: float = 0.8) -> Record:
    spec = make_spec(parse_method(method)[0], suite="vision-8", backbone="ViT-B-32", family=family)
    return make_record(method, tasks=VISION, suite_tasks=VISION, accuracy=accuracy, spec=spec, variant=method)


def test_values_keep_their_print_and_gain_our_names_and_units() -> None:
    table = published.load()
    assert len(table) == sum(1 for _ in open(published.CSV, encoding="utf-8")) - 1
    where = dict(suite="vision-8", backbone="ViT-B-32", family="tall", task="average", metric="accuracy")
    (row,) = find(method="tsv_m", **where)
    assert row["value"] == 85.86 and row["printed_method"] == "TSV-M" and "TSV CVPR2025" in row["source"]
    (row,) = find(suite="glue", method="emr", task="CoLA", family="ovo")
    assert row["printed_value"] == "0.3996" and row["value"] == pytest.approx(39.96) and row["metric"] == "mcc"
    (row,) = find(suite="nyuv2", method="weight_average", metric="abs_err")
    assert row["value"] == pytest.approx(0.551) and row["printed_value"] == "55.1"
    assert "Cars" in {row["task"] for row in find(suite="vision-20", backbone="ViT-B-32", family="fusionbench")}
    percents = table[table["metric"].isin(["accuracy", "miou"])]["value"]
    assert percents.between(0.9, 100).all()


def test_every_name_of_the_map_is_a_method_with_these_keywords_and_is_printed_somewhere() -> None:
    printed = set(published.load()["printed_method"])
    for label, spelled in published.names().methods.items():
        name, given = parse_method(label)
        resolve_parameters(name, given, methods.describe(name).parameters)
        assert set(spelled) <= printed, f"{label}: {set(spelled) - printed} is printed nowhere"
    assert set(published.names().suites) <= set(published.load()["printed_suite"])


def test_tasks_and_families_are_those_of_our_suites() -> None:
    table = published.load()
    for name in published.names().suites.values():
        if name in suites.names():
            suite = suites.load(name)
            of_suite = table[(table["suite"] == name) & ~table["task"].str.endswith("Val")]
            known = {task.lower() for task in suite.tasks} | {published.AVERAGE}
            assert {task.lower() for task in of_suite["task"]} <= known
            if suite.domain == "vision":
                assert set(of_suite["family"]) - {""} <= set(suite.families), f"families of {name}"


def test_a_board_shows_only_numbers_of_its_own_family() -> None:
    names = ["individual", "ties", "iso_c", "emr"]
    for family, wanted in (("tall", {"individual": 92.83, "ties": 75.1, "iso_c": 86.3}), ("mine", {})):
        (board,) = rows.boards([full(name, family) for name in names])
        shown = {row["method"]: row["published"] for row in board.rows.to_dict("records")}
        assert {name: value for name, value in shown.items() if not np.isnan(value)} == wanted
    (board,) = rows.boards([full(name, "task-arithmetic") for name in names])
    row = next(row for row in board.rows.to_dict("records") if row["method"] == "ties")
    assert row["published"] == 72.4 and row["published_gap"] == pytest.approx(row["mean"] - 72.4)
    assert "WUDI" in row["published_source"] and "73.6 (EMR-Merging" in row["published_others"]
    text = leaderboard.markdown(board)
    assert "## Published beside measured" in text and re.search(r"\| ties +\|.*72\.4 \|", text)
    assert "published" in leaderboard.board_csv(board).splitlines()[0]


def test_a_mini_suite_is_beside_nothing_published() -> None:
    (board,) = rows.boards([make_record("ties"), make_record("individual")])
    assert board.rows["published"].isna().all() and "## Published" not in leaderboard.markdown(board)


def test_a_variant_is_not_shown_beside_the_default_of_its_method() -> None:
    (board,) = rows.boards([full("ties:keep=0.1"), full("iso_c:scale=1.5", "fusionbench")][:1])
    assert board.rows["published"].isna().all()
    (board,) = rows.boards([full("iso_c:scale=1.5", "fusionbench")])
    assert board.rows["published"].tolist() == [82.8]


def test_secondary_summaries_carry_a_star_and_yield_to_primary_sources() -> None:
    for row in published.load().to_dict("records"):
        assert published.short_source(row).removesuffix("‡").endswith("*") == row["secondary"]
        assert row["secondary"] == any(word in row["source"] for word in ("papernotes", "wizwand", " note"))
    beside = published.beside("vision-8", "ViT-B-32", "task-arithmetic", ["wemoe", "adarank"])
    assert not beside["wemoe"]["published_source"].endswith("*") and "89.5" in beside["wemoe"]["published_others"]
    assert beside["adarank"]["published_source"].endswith("*")


def test_an_average_that_nobody_prints_yields_to_a_printed_one_and_is_marked() -> None:
    beside = published.beside("vision-8", "ViT-B-32", "fusionbench", ["pretrained", "individual"])
    assert [beside[name]["published"] for name in beside] == [48.2, 90.3]
    assert not any("‡" in row["published_source"] + row["published_others"] for row in beside.values())
    only = published.beside("vision-14", "ViT-B-32", "fusionbench", ["pretrained"])
    assert only["pretrained"]["published_source"].endswith("‡")
    text = published.markdown()
    assert "‡ |" in text and "no printed number" in text


def test_tasks_are_those_of_the_source_whose_mean_is_shown() -> None:
    shown = published.beside("vision-8", "ViT-B-32", "task-arithmetic", ["ties"])["ties"]
    assert shown["published"] == 72.4
    each = published.per_task("vision-8", "ViT-B-32", "task-arithmetic", "ties")
    assert (each["SUN397"]["accuracy"], each["Cars"]["accuracy"]) == (59.8, 58.6)


def test_tasks_are_printed_beside_measured_ones_too() -> None:
    each = published.per_task("vision-8", "ViT-B-32", "tall", "tsv_m")
    assert set(VISION) <= set(each) and 0 < each["DTD"]["accuracy"] < 100
    assert published.per_task("vision-8", "ViT-B-32", "", "tsv_m") == {}


def test_the_page_holds_every_number_with_traps_and_flags_wrong_averages() -> None:
    text = published.markdown()
    for row in published.load().to_dict("records")[::40]:
        assert row["printed_method"] in text and published.short_source(row) in text
    cells = re.findall(r"\d+\.\d+", text)
    assert len(cells) >= len(published.load()), "a number is missing"
    for trap in published.names().traps:
        assert trap in text
    assert "88.9† (89.1)" in text and "93.5† (93.1)" in text, "known slips of printed averages"
    assert "/work" not in text and "shared" not in text.replace("shared bottom", "")


def test_the_committed_page_is_what_the_csv_says() -> None:
    stored = (ROOT / "results" / "published.md").read_text()
    assert_same_but_for_rounding(published.markdown(), stored, "type ./run_all.sh board --reference")


def test_a_file_with_other_columns_or_metrics_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "published.csv"
    other.write_text("suite,value\na,1\n")
    with pytest.raises(UserError, match="columns"):
        published.load(other)
    other.write_text(",".join(published.PRINTED) + "\nclip-vit-8,ViT-B/32,TA,DTD,f7,1,x,\n")
    with pytest.raises(UserError, match="line 2.*f7"):
        published.load(other)


def test_the_columns_say_what_they_mean() -> None:
    assert {"published", "gap"} <= set(columns.MEANING)
