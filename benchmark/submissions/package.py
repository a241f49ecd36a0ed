"""Records of a third party as one file: packed, read, and described by a JSON Schema. No torch.

A submission is JSON: who sends it, and whole records with their sufficient statistics. Nothing in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from benchmark.common.errors import UserError
from benchmark.common.files import check_regular, read_regular, write_atomic
from benchmark.records.migrations import migrate
from benchmark.records.record import SOURCES, Record
from benchmark.records.spec import REFERENCE_ROWS
from benchmark.records.store import RECORD, DamagedRecord, Store, check_digest, digest, read_record, reason, reasons

SUFFIX = ".submission.json"
#: Bytes of one file; a board of large suites with many seeds takes a tenth of it.
_LARGEST_FILE = 1 << 28
#: Wrong fields that a message names.
_MOST = 20


class Submission(BaseModel):
    """Records of a third party with what a board must say of them."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = Field(default=1, description="version of this schema")
    title: str = Field(min_length=1, description="what is submitted, in one line")
    authors: list[str] = Field(min_length=1, description="who stands behind the numbers")
    link: str = Field(default="", description="paper or code, as a URL or arXiv:NUMBER")
    note: str = Field(default="", description="what a reader must know, e.g. changes to the protocol")
    records: list[Record] = Field(min_length=1, description="complete records, whole")


def schema(kind: str) -> str:
    """The JSON Schema of `"record"` or `"submission"`, as docs/schema publishes it."""
    models: dict[str, type[BaseModel]] = {"record": Record, "submission": Submission}
    model = models[kind]
    return json.dumps(model.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def pack(
    records: Iterable[Record], *, title: str, authors: Sequence[str], link: str = "", note: str = ""
) -> Submission:
    """The complete records as a submission, without the reference rows, labelled "submitted".

    Raises UserError where there is none.
    """
    chosen = [
        labelled(record, SOURCES[2])
        for record in records
        if record.status == "done"
        and not record.missing
        and not record.trial
        and record.spec.method not in REFERENCE_ROWS
    ]
    if not chosen:
        raise UserError("no complete record to submit", "Run the suite first: ./run_all.sh --methods NAME")
    return Submission(title=title, authors=list(authors), link=link, note=note, records=chosen)


def labelled(record: Record, source: str) -> Record:
    """The record with another label of where its numbers come from."""
    return record.model_copy(update={"provenance": record.provenance.model_copy(update={"source": source})})


def accepted(folder: Path) -> list[Record]:
    """Records of third parties as they were filed: whatever they say, none was measured here."""
    records = Store(folder, read_only=True).all()
    return [labelled(each, SOURCES[2]) if each.provenance.source == SOURCES[0] else each for each in records]


def save(submission: Submission, path: Path) -> None:
    """Write the submission whole or not at all, each record with its hash."""
    fields = json.loads(submission.model_dump_json())
    for record in fields["records"]:
        record["sha256"] = digest(record)
    write_atomic(path, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> list[Record]:
    """The records of a submission, of a record file, or of a folder of either.

    Records of earlier versions are migrated; whether scores are those of the statistics is left to `validation`.
    Raises UserError for what is none of them, naming the fields that are wrong.
    """
    if path.is_dir():
        files = sorted({*path.rglob(f"*{SUFFIX}"), *path.rglob(RECORD)})
        if not files:
            raise UserError(f"{path} holds no {RECORD} and no *{SUFFIX}", "Name a results folder or a submission.")
        return [record for file in files for record in load(file)]
    try:
        check_regular(path, _LARGEST_FILE)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Name a submission, a record.json, or a folder of them.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "Name a submission or a record.json.") from None
    if path.name == RECORD:
        try:
            return [read_record(path, claims=False)]
        except DamagedRecord as error:
            hint = "Its schema: docs/schema/record.schema.json"
            raise UserError(f"{path} is no valid record: {error}", hint) from None
    try:
        fields = json.loads(read_regular(path, _LARGEST_FILE))
        if isinstance(fields, dict) and isinstance(fields.get("records"), list):
            fields["records"] = [_present(number, each) for number, each in enumerate(fields["records"])]
        return Submission.model_validate(fields).records
    except (ValueError, TypeError, RecursionError) as error:
        hint = "Its schema: docs/schema/submission.schema.json"
        said = reasons(error)
        more = [f"and {len(said) - _MOST} more"] if len(said) > _MOST else []
        raise UserError(f"{path} is no valid submission: {'; '.join([*said[:_MOST], *more])}", hint) from None


def _present(number: int, fields: object) -> object:
    """A submitted record in the present version. Raises ValueError, naming its place, where it is none or damaged."""
    if not isinstance(fields, dict):
        return fields
    try:
        check_digest(fields, required=False)
        return migrate({key: value for key, value in fields.items() if key != "sha256"})
    except ValueError as error:
        raise ValueError(f"records.{number}: {reason(error)}") from None
