"""Records of earlier versions of the schema, brought to the present one when they are read. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmark.records.record import RECORD_VERSION, SOURCES

#: What lifts a record (as JSON values) from this version to the next.
Step = Callable[[dict[str, Any]], dict[str, Any]]


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Version 2 names each run's files in `artifacts`, and `provenance.source` is one of SOURCES.

    Version 1 allowed any text there; what is not one of the labels was never checked, and is "submitted".
    """
    provenance = dict(record.get("provenance") or {})
    if provenance.get("source", SOURCES[0]) not in SOURCES:
        provenance["source"] = SOURCES[2]
    return {**record, "artifacts": record.get("artifacts", {}), "provenance": provenance}


STEPS: dict[int, Step] = {1: _from_1}


def migrate(record: dict[str, Any]) -> dict[str, Any]:
    """The record in the present version. Raises ValueError for a version that no step starts from."""
    while (version := record.get("version", RECORD_VERSION)) < RECORD_VERSION:
        if version not in STEPS:
            raise ValueError(f"records of version {version} are not read; read are 1 to {RECORD_VERSION}")
        record = {**STEPS[version](record), "version": version + 1}
    return record
