"""Which methods play the same game: ranks are given within a track, and a track follows from what a record says.

The first question of most readers is which merge to take without any data, so that track comes first; references, which
are what merges are measured by, come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmark.records import access as accesses
from benchmark.records.record import Record
from benchmark.records.spec import REFERENCE_ROWS


class Track(NamedTuple):
    """`name` in files and addresses, `title` above its rows, `about` what all of its rows have in common."""

    name: str
    title: str
    about: str


DATA_FREE = Track("data-free", "Data-free", "one merged model, from the experts' weights alone")
TEST_TIME = Track("test-time", "Test-time adaptation", "one merged model, adapted on the unlabelled test samples")
HELD_OUT = Track("held-out", "With training or validation data", "one merged model, samples besides those of the test")
MORE = Track("more", "More than one model", "masks, adapters or routers are stored, or the task must be told")
TRAINING = Track("training", "Training", "trained on the tasks' labelled training data, which merging does without")
REFERENCE = Track("reference", "References", "not ranked: base and experts, and what saw test labels")

#: All of them, in the order of boards.
TRACKS = (DATA_FREE, TEST_TIME, HELD_OUT, MORE, TRAINING, REFERENCE)
ORDER = {track.name: place for place, track in enumerate(TRACKS)}
#: Bytes beyond one model, as a part of it, above which a method counts as storing more than one model.
SPARE = 0.01


def needs_more(record: Record) -> bool:
    """Whether a run keeps more than one model, or must be told the task beyond its head."""
    extra, model = record.cost.storage_bytes or 0, record.cost.model_bytes or 0
    return record.needs_task_id or extra > SPARE * model


def kind(record: Record) -> str:
    """What `rows.row` says: "reference", "oracle" for what saw test labels, or "method"."""
    if record.spec.method in REFERENCE_ROWS:
        return "reference"
    return "oracle" if accesses.read(record.access).labelled("test") else "method"


def track_of(records: Sequence[Record]) -> Track:
    """The track of a row, from the access, the storage and the need of a task id that its runs have."""
    first = records[0]
    if kind(first) != "method":
        return REFERENCE
    access = accesses.read(first.access)
    if access.labelled("train"):
        return TRAINING
    if any(map(needs_more, records)):
        return MORE
    if access.test is not None:
        return TEST_TIME
    return HELD_OUT if access.items() else DATA_FREE


def titled(track: str) -> Track:
    """The track of this name."""
    return TRACKS[ORDER[track]]
