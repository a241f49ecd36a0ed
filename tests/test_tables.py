"""The comparison of committed tables sees every change but that of rounding."""

from __future__ import annotations

import pytest
from helpers.tables import assert_same_but_for_rounding

ROW = '| ties | 55.2 ±1.3 | -0.5 | 12 | 0.25 s |\nties,0.7277628057632817,1e-05\n{"mean": 63.84, "sha": "3e10f5"}\n'


@pytest.mark.parametrize(("was", "now"), [
    ("55.2", "55.3"), ("±1.3", "±1.2"), ("-0.5", "\u22120.4"), ("0.25", "0.26"),
    ("0.7277628057632817", "0.72776280576"), ("1e-05", "1.0000000001e-05"), ("| ties |", "| ties   |"),
])  # fmt: skip
def test_the_last_digit_and_the_padding_may_differ(was: str, now: str) -> None:
    assert_same_but_for_rounding(ROW.replace(was, now), ROW, "")


@pytest.mark.parametrize(("was", "now"), [
    ("55.2", "55.4"), ("55.2", "55"), ("±1.3", "1.3"), ("-0.5", "0.5"), (" 12 ", " 13 "), ("0.25", "0.27"),
    ("0.7277628057632817", "0.7277628157632817"), ("1e-05", "2e-05"), ("| ties |", "| tie |"), ("3e10f5", "4e10f5"),
    ("63.84", "63.86"), (ROW, ROW + "ties,1.0\n"),
])  # fmt: skip
def test_everything_else_may_not(was: str, now: str) -> None:
    with pytest.raises(AssertionError, match="is not .*type this"):
        assert_same_but_for_rounding(ROW.replace(was, now), ROW, "type this")
