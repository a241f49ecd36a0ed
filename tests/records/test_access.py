"""What a record says of its data has one reading: levels and splits are words of their own, never parts of others."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmark.board import tracks
from benchmark.records import access as accesses
from benchmark.report import figures, page_board
from methods.api import LABELLED, UNLABELLED, Access, MergingError


@pytest.mark.parametrize(
    "access", [Access(), Access(test=UNLABELLED), Access(train=LABELLED, val=UNLABELLED), Access(val=LABELLED)]
)
def test_what_is_written_is_read_back(access: Access) -> None:
    said = accesses.parts(access, {}, ("unlabelled train (statistics)",))
    assert accesses.read(said) == accesses.read(accesses.text(said)) == access
    assert accesses.own(said) == [part for part in access.describe().split(" + ") if part != "none"]
    assert accesses.protocol(accesses.text(said)) == ["unlabelled train (statistics)"]
    assert accesses.text([]) == "none" and accesses.read("none") == Access()


def test_unlabelled_is_not_labelled_and_a_share_of_a_split_is_data_of_it() -> None:
    assert not accesses.read(["unlabelled train"]).labelled("train")
    assert accesses.read(["labelled train"]) == Access(train=LABELLED)
    assert Access(train=LABELLED).labelled("train") and not Access(train=LABELLED).labelled("test")
    few = accesses.parts(Access(test=UNLABELLED), {"test": "10 % of test"})
    assert few == ["unlabelled 10 % of test"] and accesses.read(few) == Access(test=UNLABELLED)
    assert accesses.read("labelled 1 % of test").labelled("test")
    with pytest.raises(MergingError, match="access to test is 'seen'"):
        Access(test="seen")


@pytest.mark.parametrize(
    "cell, level",
    [
        ("none", "none"), ("unlabelled test", "unlabelled"), ("labelled val + unlabelled test", "labelled"),
        ("unlabelled train (statistics)", "none"), ("unlabelled test + unlabelled train (statistics)", "unlabelled"),
    ],
)  # fmt: skip
def test_the_page_filters_by_the_strongest_data_of_the_method(cell: str, level: str) -> None:
    assert page_board._level(cell) == level


def test_only_training_on_labels_is_drawn_after_adaptation(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["joint", "fisher", "symerge"]
    cells = ["labelled train", "unlabelled train", "unlabelled test"]

    class Board:
        rows = pd.DataFrame({"method": names, "access": cells, "runs": names})
        own: list[str] = []

    monkeypatch.setattr(figures, "_runs", lambda board, records: {name: [name] for name in names})
    monkeypatch.setattr(figures, "_losses", lambda record: [0.0] * 30)
    monkeypatch.setattr(figures.plots, "adaptation", lambda curves, others: list(curves))
    assert figures._adaptation(Board, []) == ["fisher", "symerge", "joint"]  # type: ignore[arg-type, comparison-overlap]


def test_a_run_on_labels_of_test_images_is_an_oracle() -> None:
    class Spec:
        method = "symerge"

    class Run:
        spec, access = Spec, ["labelled 10 % of test"]

    assert tracks.kind(Run) == "oracle"  # type: ignore[arg-type]
    Run.access = ["unlabelled test", "labelled val"]
    assert tracks.kind(Run) == "method"  # type: ignore[arg-type]
