"""The table beside the peers, and what is said where they are missing; needs no peer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import peers
from helpers.peers import Row, Run
from safetensors.torch import save_file


def row(*, ours: list[Run], theirs: list[Run], apart: float | None = None) -> Row:
    return Row("ties", "mergekit", "its own threshold", ours, theirs, apart)


def test_a_row_holds_the_least_of_each_round_and_the_ratios_ours_over_theirs() -> None:
    done = row(
        ours=[Run(9.0, 3.0, 1.0), Run(6.0, 4.0, 2.0)],
        theirs=[Run(12.0, 6.0, 0.5), Run(15.0, 2.0, 0.8)],
        apart=2.5e-7,
    )
    text = peers.table([done], {"fusion-bench": "0.2", "torch": "2.9"})
    assert text.splitlines()[0] == "fusion-bench 0.2, torch 2.9."
    numbers = "6.0 / 12.0 | 0.50 | 3.0 / 2.0 | **1.50** | 1.00 / 0.50 | **2.00** | 2e-07"
    assert text.splitlines()[-1] == f"| `ties` | mergekit | {numbers} | its own threshold |"
    heads, rule, line = (len(part.split(" | ")) for part in text.replace("|---", "|--- | ").splitlines()[2:5])
    assert heads == line


def test_a_peer_that_fails_shows_its_own_error_and_our_time() -> None:
    failed = row(ours=[Run(6.0, 3.0, 1.0)], theirs=[Run(1.0, 1.0, 0.1, "ImportError: no name 'a|b'")])
    line = peers.table([failed], {}).splitlines()[-1]
    assert "| 6.0 |" in line and line.endswith("| mergekit: ImportError: no name 'a\\|b' |")
    assert "symerge-bench: KeyError" in peers.table([row(ours=[Run(error="KeyError")], theirs=[])], {})


def test_a_process_is_measured_and_its_last_words_are_kept() -> None:
    code = "import time; x = bytearray(64 << 20); time.sleep(0.3)"
    run = peers.measured([sys.executable, "-c", code], "", 60)
    assert not run.error and run.anonymous > 0.06 and run.wall > 0.3 and run.cpu > 0
    failed = peers.measured([sys.executable, "-c", "print('x'); raise ValueError('no such pool')"], "", 60)
    assert failed.error == "ValueError: no such pool"
    assert peers.last_words("Traceback\n  x\npkg.OddError: of two\nlines\n") == "pkg.OddError: of two lines"
    assert (peers.last_words("Killed\n"), peers.last_words("")) == ("Killed", "ended without a word")
    assert peers.measured([sys.executable, "-c", "import time; time.sleep(60)"], "", 0.2).error == "not done within 0 s"
    large = [sys.executable, "-c", "b = bytearray(2 * 2**30)"]
    assert "MemoryError" in peers.measured(large, "", 60, memory=1.0).error
    assert not peers.measured(large, "", 60).error


def test_without_the_peers_the_command_says_what_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--peers", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said and "./run_all.sh --setup-peers" in said


def test_results_are_compared_entry_by_entry(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3), "b": torch.ones(2)}, one)
    save_file({"a": torch.tensor([0.0, -0.25, 0.1]), "b": torch.ones(2)}, other)
    assert peers.difference(one, other) == 0.25


def test_every_row_is_a_method_of_this_project() -> None:
    import methods

    assert set(peers.METHODS) <= set(methods.names())
    assert {peer for about in peers.METHODS.values() for peer in about} == {"fusionbench", "mergekit"}
