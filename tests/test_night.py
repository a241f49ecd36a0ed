"""What boards took, from their records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from helpers import night

from benchmark.common.project import ROOT


def made(variant: str, seconds: float) -> Any:
    cost = SimpleNamespace(merge_seconds=seconds / 2, adapt_seconds=None, evaluate_seconds=seconds / 4)
    minutes, rest = divmod(int(seconds), 60)
    return SimpleNamespace(
        variant=variant,
        cost=cost,
        started="2026-01-01T00:00:00.000+00:00",
        finished=f"2026-01-01T{minutes // 60:02}:{minutes % 60:02}:{rest:02}.000+00:00",
    )


def test_a_row_counts_by_its_quickest_seed_and_the_list_without_the_other_rows() -> None:
    records = [made("ties", 3600), made("symerge", 7200), made("symerge", 3600)]
    *_, own, one, every = night.table(records, ["ties"]).splitlines()
    assert own == "| the suite's list, one seed | 1 | 1 | 30 min | 0 min | 15 min | 1.0 h |"
    assert one == "| every row, one seed | 2 | 2 | 60 min | 0 min | 30 min | 2.0 h |"
    assert every == "| every row, every seed | 2 | 3 | 120 min | 0 min | 60 min | 4.0 h |"


def test_the_reference_records_of_the_first_board_are_counted(capsys: Any) -> None:
    assert night.main([]) == 0
    assert "| the suite's list, one seed | 8 | 8 |" in capsys.readouterr().out


def test_the_page_of_performance_says_what_the_records_say(capsys: Any) -> None:
    assert night.main([]) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), (
        "copy what ./run_all.sh --bench night prints into docs/performance.md"
    )
