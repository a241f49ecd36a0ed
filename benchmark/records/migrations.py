"""Records of earlier versions of the schema, brought to the present one when they are read. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from benchmark.common.canonical import canonical_json
from benchmark.records.record import RECORD_VERSION, SOURCES
from benchmark.records.spec import RunSpec

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


def _from_2(record: dict[str, Any]) -> dict[str, Any]:
    """Version 3 has the hashes of the data in a run's identity, which is a new one.

    Version 2 noted those of the test split in `provenance`; of other splits that a run read it knew nothing, so that
    it then stands for no run of a plan. Raises ValueError where `run_id` is not the hash of the spec.
    """
    provenance = dict(record.get("provenance") or {})
    data = {"test": provenance.pop("data", {})}
    spec = RunSpec.model_validate({**record["spec"], "data": data})
    if record["run_id"] != (wanted := _id_of_2(spec)):
        raise ValueError(f"run_id {record['run_id']} is not the hash of its spec, {wanted}")
    return {**record, "spec": spec.model_dump(), "provenance": provenance, "run_id": spec.run_id}


def _id_of_2(spec: RunSpec) -> str:
    """The run's id in versions 1 and 2: without data, and without the dtype of task vectors where it was float32."""
    decides = spec.model_dump(exclude={"data"} | ({"vectors"} if spec.vectors == "float32" else set()))
    return hashlib.sha256(canonical_json(decides).encode()).hexdigest()[:16]


STEPS: dict[int, Step] = {1: _from_1, 2: _from_2}


def migrate(record: dict[str, Any]) -> dict[str, Any]:
    """The record in the present version.

    Raises ValueError for a version that no step starts from, and for what is no record of its version.
    """
    while (version := record.get("version", RECORD_VERSION)) < RECORD_VERSION:
        if version not in STEPS:
            raise ValueError(f"records of version {version} are not read; read are 1 to {RECORD_VERSION}")
        try:
            record = {**STEPS[version](record), "version": version + 1}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of version {version}: {error!r}") from None
    return record
