"""Methods are ranked within the game that they play; the game follows from what their records say."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest
from helpers.records import make_record

from benchmark.board import leaderboard, rows, tracks
from benchmark.records.record import Record
from benchmark.report import page_board

MORE = make_record("x").cost.model_copy(update={"storage_bytes": 9_000_000})
LITTLE = make_record("x").cost.model_copy(update={"storage_bytes": 9_000})


def every_kind() -> list[Record]:
    """Records of every track, those who need most scoring best."""
    return [
        make_record("pretrained", accuracy=0.3),
        make_record("individual", accuracy=0.95),
        make_record("ties", accuracy=0.5),
        make_record("wudi", accuracy=0.6, cost=LITTLE),
        make_record("symerge", 0, accuracy=0.7, access=["unlabelled test"]),
        make_record("adamerging", 0, accuracy=0.6, access=["unlabelled test"]),
        make_record("regmean", accuracy=0.65, access=["unlabelled train"]),
        make_record("pcb", accuracy=0.62, access=["labelled val"]),
        make_record("emr", accuracy=0.8, cost=MORE),
        make_record("surgery", 0, accuracy=0.75, access=["unlabelled test"], needs_task_id=True),
        make_record("joint", 0, accuracy=0.9, access=["labelled train"]),
        make_record("dare", 0, accuracy=0.97, access=["labelled test"]),
    ]


@pytest.mark.parametrize(
    ("fields", "track"),
    [
        ({}, tracks.DATA_FREE),
        ({"cost": LITTLE}, tracks.DATA_FREE),
        ({"access": ["unlabelled train (statistics)"]}, tracks.DATA_FREE),
        ({"access": ["unlabelled test", "unlabelled train (statistics)"]}, tracks.TEST_TIME),
        ({"access": ["unlabelled val"]}, tracks.HELD_OUT),
        ({"access": ["labelled val"]}, tracks.HELD_OUT),
        ({"access": ["labelled val"], "cost": MORE}, tracks.MORE),
        ({"needs_task_id": True}, tracks.MORE),
        ({"access": ["labelled train"], "cost": MORE}, tracks.TRAINING),
        ({"access": ["labelled test"]}, tracks.REFERENCE),
    ],
)
def test_a_track_follows_from_access_storage_and_task_id(fields: dict[str, Any], track: tracks.Track) -> None:
    assert tracks.track_of([make_record("ties", **fields)]) == track


def test_one_seed_that_stores_more_makes_its_row_one_of_more_than_one_model() -> None:
    assert tracks.track_of([make_record("twin", 0), make_record("twin", 1, cost=MORE)]) == tracks.MORE


def test_ranks_are_within_the_track_and_tracks_stand_in_their_order() -> None:
    (board,) = rows.boards(every_kind())
    of = {track: part["method"].tolist() for track, part in board.rows.groupby("track", sort=False)}
    assert of == {
        "data-free": ["wudi", "ties"],
        "test-time": ["symerge", "adamerging"],
        "held-out": ["regmean", "pcb"],
        "more": ["emr", "surgery"],
        "training": ["joint"],
        "reference": ["dare", "individual", "pretrained"],
    }
    ranked = board.rows[board.rows["row"] == "method"]
    assert ranked["rank"].tolist() == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    assert sorted(ranked["overall"]) == list(range(1, 10))
    assert ranked.set_index("method")["overall"]["joint"] == 1
    assert ranked["rank_high"].max() <= 2 and ranked["mean_rank"].max() <= 2
    # The best of a track is compared with nothing of another.
    assert ranked.set_index("method")["above"].isna().to_dict() == {
        name: rank == 1 for name, rank in zip(ranked["method"], ranked["rank"], strict=True)
    }


def test_the_best_of_a_track_and_what_is_tied_with_it_are_marked() -> None:
    records = [make_record("ties", accuracy=0.9, n=2000), make_record("wudi", accuracy=0.5, n=2000)]
    same = make_record("copy", n=2000).model_copy(update={"tasks": records[0].tasks})
    (board,) = rows.boards([*records, same])
    assert dict(zip(board.rows["method"], board.rows["best"], strict=True)) == {
        "copy": "best", "ties": "tied", "wudi": "",
    }  # fmt: skip


def test_every_output_shows_the_tracks() -> None:
    (board,) = rows.boards(every_kind())
    out = io.StringIO()
    leaderboard.print_board(board, out, 100)
    texts = [out.getvalue(), leaderboard.markdown(board), leaderboard.overview_markdown([board])]
    for text in texts:
        text = text.rpartition("stand as they are published.")[2]  # a warning above the table names tracks, too
        places = [text.index(track.title) for track in tracks.TRACKS]
        assert places == sorted(places)
        assert text.index(tracks.TEST_TIME.title) < text.index("adamerging") < text.index(tracks.HELD_OUT.title)
    for frame in (pd.read_csv(io.StringIO(leaderboard.board_csv(board))), leaderboard.overview([board])):
        assert list(dict.fromkeys(frame["track"])) == [track.name for track in tracks.TRACKS]
    assert [row["track"] for row in page_board.board_data(board, {})["rows"]] == board.rows["track"].tolist()
