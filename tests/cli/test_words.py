"""Words that a person types almost right are answered with what was meant, in the project's words."""

from __future__ import annotations

import pytest

from benchmark.cli.main import main, parser


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "usage:" not in text and "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["run", "--methds", "ties"], "did you mean --methods"),
        (["board", "--reslts", "x"], "did you mean --results"),
        (["lst"], "unknown command 'lst'; did you mean list?"),
        (["study", "transfr"], "unknown command 'transfr'; did you mean transfer?"),
        (["study", "transfer", "--sed", "3"], "did you mean --seeds"),
        (["assets", "data", "chek"], "did you mean check?"),
        (["run", "--autocast", "bfloat"], "unknown value of --autocast 'bfloat'; did you mean bfloat16"),
        (["run", "--methods", "ties,symerge"], "--methods ties symerge"),
        (["run", "--methods", "tis"], "Did you mean ties"),
        (["--methods", "tis"], "Did you mean ties"),  # options without a verb are those of run
        (["run", "--methods", "ties:kep=0.1"], "did you mean keep?"),
        (["run", "--suite", "vision-smal-8"], "did you mean vision-small-8"),
        (["run", "--suite", "vision-8", "--backbone", "ViT-B32"], "did you mean ViT-B-32"),
        (["run", "--seeds", "four"], "--seeds 0-4"),
        (["run", "--seeds", "4-0"], "--seeds 0-4"),
        (["run", "--seeds", "0-999999999"], "different whole numbers from 0"),
        (["run", "ties"], "takes no word 'ties' there"),
        ([], "the following arguments are required"),
    ],
)
def test_a_wrong_word_is_answered_with_what_was_meant(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer in said(capsys, *words)


@pytest.mark.parametrize("verb", [["run"], ["schedule"], ["study", "transfer"]])
def test_seeds_are_numbers_or_ranges(verb: list[str]) -> None:
    for words, seeds in ((["0-4"], [0, 1, 2, 3, 4]), (["3", "7"], [3, 7]), (["0,2", "5-6"], [0, 2, 5, 6])):
        assert parser().parse_args([*verb, "--seeds", *words]).seeds == seeds


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    line = capsys.readouterr().out
    assert line.startswith("symerge-bench ") and "Python 3." in line and "torch 2." in line and line.count("\n") == 1
