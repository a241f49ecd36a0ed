"""The command that makes a row again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from benchmark import suites
from benchmark.records.record import Record
from benchmark.records.spec import variant_label
from benchmark.suites.own import is_own


def repeat(records: Sequence[Record]) -> str:
    """What to type for the runs of one row: suite, method with its keywords, seeds, precision, place.

    Of a user's own suite, whose file the records do not name, the command that was typed then.
    """
    first = records[0]
    spec = first.spec
    if is_own(spec.suite):
        return shlex.join(first.provenance.argv)
    words = ["./run_all.sh", "--suite", spec.suite, "--methods", variant_label(spec.method, first.changed)]
    if seeds := sorted(record.spec.seed for record in records if record.spec.seed is not None):
        words += ["--seeds", *map(str, seeds)]
    if spec.suite in suites.names():
        suite = suites.load(spec.suite)
        words += [] if spec.backbone == suite.backbones[0] else ["--backbone", spec.backbone]
        words += [] if spec.family == suite.families[0] else ["--family", spec.family]
    for option, value, usual in (
        ("--dtype", spec.dtype, "float32"), ("--autocast", spec.autocast, None), ("--vectors", spec.vectors, "float32"),
    ):  # fmt: skip
        words += [] if value == usual else [option, str(value)]
    return shlex.join(words)
