"""``list`` and ``show`` fit a terminal, and say what a method declares, what was measured and what papers print."""

from __future__ import annotations

import csv
import re

import pytest

import methods
from benchmark.cli.main import main
from benchmark.common.project import DEFAULT_SUITE, RESULTS
from benchmark.scores import published
from benchmark.suites import load


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_the_list_has_every_method_once_under_what_it_sees(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "list", "methods")
    heading, below = "", {}
    for line in text.splitlines()[1:]:
        if line.startswith("    "):
            below[line.split()[0]] = heading
        else:
            heading = line.strip().replace("no data", "none")
    assert below == {name: methods.describe(name).access.describe() for name in methods.names()}
    assert text.startswith(f"{len(below)} methods")
    labelled = [heading.startswith("labelled") for heading in dict.fromkeys(below.values())]
    assert labelled == sorted(labelled)


def too_long(text: str) -> list[str]:
    """Lines above 80 columns. A word that cannot be broken, such as the name of a source, may stand out."""
    return [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()]


def test_show_fits_and_tells_every_keyword_and_the_default_of_the_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert not too_long(shown(capsys, "list"))
    for name in methods.names():
        about, text = methods.describe(name), shown(capsys, "show", name)
        own = load(DEFAULT_SUITE).defaults(name, about.parameters)
        assert not too_long(text)
        for key, value in about.parameters.items():
            line = next(line for line in text.splitlines() if line.startswith(f"    {key}="))
            assert (f"[{DEFAULT_SUITE}: " in line) == (own[key] != value)
    assert "[vision-small-8: 50]" in shown(capsys, "show", "symerge") == shown(capsys, "list", "symerge")
    assert "[vision-8" not in shown(capsys, "show", "symerge", "--suite", "vision-8")


def test_show_tells_the_row_of_the_board_and_the_printed_means(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "show", "tsv_m").split())
    (board,) = (RESULTS / "boards").glob(f"{DEFAULT_SUITE}--*.csv")
    with board.open(encoding="utf-8", newline="") as lines:
        mean = next(float(row["mean"]) for row in csv.DictReader(lines) if row["method"] == "tsv_m")
    assert f"tsv_m on {DEFAULT_SUITE}, ViT-S-14: mean {mean:.1f} %" in text
    printed = published.beside("vision-8", "ViT-B-32", "tall", ["tsv_m"])["tsv_m"]["published"]
    assert re.search(rf"vision-8, ViT-B-32: .*{printed:.1f} \(tall", text)


def test_an_unknown_method_or_suite_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    for words, answer in (
        (["show", "tis"], "Did you mean ties"),
        (["show", "ties", "--suite", "vision-smal-8"], "small-8"),
    ):
        assert main(words) == 2
        assert answer in capsys.readouterr().err
