"""Records on disk: written atomically, read back whole, one writer per run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.common.errors import UserError
from benchmark.common.files import cannot_write, is_at, read_regular, remove_left, write_atomic
from benchmark.records.claims import untrue
from benchmark.records.migrations import migrate
from benchmark.records.record import RECORD_VERSION, SOURCES, Record, distrust
from benchmark.records.record import CorrectBits as CorrectBits
from benchmark.records.record import Cost as Cost
from benchmark.records.record import Error as Error
from benchmark.records.record import MethodInfo as MethodInfo
from benchmark.records.record import Provenance as Provenance
from benchmark.records.record import Sums as Sums
from benchmark.records.record import TaskResult as TaskResult
from benchmark.records.record import Values as Values
from benchmark.records.record import pack_bits as pack_bits
from benchmark.records.record import unpack_bits as unpack_bits
from benchmark.records.spec import RunSpec

RECORD = "record.json"
#: The version of the schema in which records carried no sha256 yet.
_WITHOUT_DIGEST = 1


class DamagedRecord(ValueError):
    """A record file that does not hold a valid record; the message says why."""


def read_record(path: Path, *, claims: bool = True) -> Record:
    """The record in the file at `path`; without `claims` its scores are not held against its statistics.

    Raises FileNotFoundError or NotADirectoryError; UserError for a record of a later version or a file that may not be
    read; DamagedRecord for everything that is no valid record.
    """
    try:
        data = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Mend its permissions, or move it away.") from error
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"not JSON: {error}") from None
    version = _version(fields)
    if version is not None and version > RECORD_VERSION:
        raise UserError(
            f"{path} is a record of version {version}; this program reads up to {RECORD_VERSION}",
            "Update the program (git pull), or use another results folder.",
        )
    check_digest(fields, required=version != _WITHOUT_DIGEST)
    try:
        if version is not None and version < RECORD_VERSION:
            record = Record.model_validate(migrate(fields))
        else:
            record = Record.model_validate_json(data)
    except (ValueError, TypeError) as error:
        raise DamagedRecord(reason(error)) from None
    if claims:
        _check_claims(record)
    return record.model_copy(update={"sha256": None})


def former_id(path: Path) -> str | None:
    """The id under which an earlier version of the program wrote the record at ``path``; None for one of this."""
    fields = json.loads(read_regular(path))
    version = _version(fields)
    return fields.get("run_id") if version is not None and version < RECORD_VERSION else None


def digest(fields: Mapping[str, Any]) -> str:
    """sha256 of a record's fields as JSON with sorted keys and no spaces, `sha256` itself left out."""
    kept = {key: value for key, value in fields.items() if key != "sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_digest(fields: Any, *, required: bool) -> None:
    """Raise DamagedRecord where a record's fields are not those of its sha256, or, `required`, where it has none."""
    noted = fields.get("sha256") if isinstance(fields, dict) else None
    if noted is None and required:
        raise DamagedRecord("it carries no sha256, which every record that a program wrote does")
    if noted is not None and digest(fields) != noted:
        raise DamagedRecord("its content is not what was written: its sha256 differs")


def _check_claims(record: Record) -> None:
    """Raise DamagedRecord where a score is not what the record's own statistics give."""
    if said := untrue(record):
        more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
        raise DamagedRecord(f"{said[0]}{more}")


def _version(fields: Any) -> int | None:
    version = fields.get("version") if isinstance(fields, dict) else None
    return version if isinstance(version, int) else None


def reason(error: Exception) -> str:
    """The first thing that is wrong with a record's fields, and where."""
    return reasons(error)[0]


def reasons(error: Exception) -> list[str]:
    """Everything that is wrong with the fields, and where."""
    if not isinstance(error, ValidationError):
        return [str(error)]
    wrong = error.errors(include_url=False, include_input=False)
    places = [".".join(str(part) for part in each["loc"]) for each in wrong]
    return [f"{where}: {each['msg']}" if where else each["msg"] for where, each in zip(places, wrong, strict=True)]


class Store:
    """The records below one results folder, as `<suite>/<backbone>/<run_id>/record.json` with artifacts beside them."""

    def __init__(self, root: str | Path, *, read_only: bool = False) -> None:
        """`read_only`: nothing is written, also no damaged record moved aside (for committed references)."""
        self.root = Path(root)
        self.read_only = read_only
        self._held: set[Path] = set()

    def folder(self, spec: RunSpec) -> Path:
        """The run's folder, for its record and artifacts such as merged.safetensors; not created here."""
        return self.root / safe_name(spec.suite) / safe_name(spec.backbone) / spec.run_id

    def save(self, record: Record) -> Path:
        """Write the record atomically (see `write_atomic`) and return its path.

        Of the same run from two sources (`SOURCES`) the more trusted one is `record.json`, and the other is kept beside
        it under the name of its source (`beside`), which a warning says; nothing reads it from there.
        Raises UserError where it cannot be written, ValueError for a record that `load` would refuse.
        """
        if self.read_only:
            raise UserError(f"{self.root} was opened for reading only", "Choose another folder with --results DIR.")
        path = self.folder(record.spec) / RECORD
        fields = json.loads(record.model_dump_json(exclude={"sha256"}))
        text = json.dumps({**fields, "sha256": digest(fields)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        _check_claims(Record.model_validate_json(text))
        there = self._read(path)
        source = record.provenance.source
        if there is not None and (former := there.provenance.source) != source:
            name = beside(max(source, former, key=distrust))
            if distrust(former) < distrust(source):
                warnings.warn(
                    f"{path} is {former} and stays; what was {source} lies beside it, in {name}", stacklevel=2
                )
                path = path.with_name(name)
            else:
                warnings.warn(f"{path} is now {source}; what was {former} lies beside it, in {name}", stacklevel=2)
                write_atomic(path.with_name(name), path.read_text(encoding="utf-8"))
        write_atomic(path, text)
        return path

    def load(self, spec: RunSpec) -> Record | None:
        """The record of a run that was measured here, or None where there is none.

        One that others sent stands for no run of a plan. A damaged one is moved aside with a warning. Raises UserError
        for one that cannot be read or is of a later version: it is not to be written over.
        """
        record = self._read(self.folder(spec) / RECORD)
        return record if record is not None and record.provenance.source == SOURCES[0] else None

    def all(self, suite: str | None = None, *, trials: bool = False) -> list[Record]:
        """Every readable record, or those of one suite, sorted by path; damaged ones are moved aside with a warning.

        Those of earlier versions of the program are among them, brought to the present one; trials (``spec.limit``),
        which are no results, only where they are asked for.
        """
        pattern = f"{safe_name(suite) if suite else '*'}/*/*/{RECORD}"
        records = []
        for path in sorted(self.root.glob(pattern)):
            try:
                record = self._read(path)
            except UserError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            if record is not None and (trials or not record.trial):
                records.append((path.parent.name != record.run_id, record))
        # A run that was brought over and then done again counts once, as it was done again.
        again = {record.run_id for earlier, record in records if not earlier}
        return [record for earlier, record in records if not (earlier and record.run_id in again)]

    @contextlib.contextmanager
    def try_lock(self, spec: RunSpec) -> Iterator[bool]:
        """Hold the run against other processes; yields False at once where another one holds it.

        The system frees the lock when its holder ends, however it ends. Unfinished temporary files of an earlier holder
        are removed. Raises UserError where the folder cannot be written.
        """
        folder = self.folder(spec)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            # A run that is removed takes its lock with it.
            if not _flock(handle) or not is_at(handle, folder / ".lock"):
                yield False
                return
            remove_left(folder)
            self._held.add(folder)
            try:
                yield True
            finally:
                self._held.discard(folder)
        finally:
            os.close(handle)

    def remove(self, record: Record) -> bool:
        """Delete a run's folder; False where another process holds it, or the record is no longer this one.

        The record goes first, so that what is left of an interrupted removal is no run.
        Raises UserError where the folder cannot be written.
        """
        if self.read_only:
            raise UserError(f"{self.root} was opened for reading only", "Choose another folder with --results DIR.")
        folder = self.folder(record.spec)
        with self.try_lock(record.spec) as mine:
            if not mine or self._read(folder / RECORD) != record:
                return False
            try:
                (folder / RECORD).unlink()
                for path in folder.iterdir():
                    if path.name != ".lock":
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                (folder / ".lock").unlink()
                folder.rmdir()
            except OSError as error:
                raise cannot_write(folder, error) from error
        return True

    def _read(self, path: Path) -> Record | None:
        try:
            record = read_record(path)
            if path.parent.name != record.run_id and path.parent.name != former_id(path):
                raise DamagedRecord(f"it belongs to run {record.run_id}")
            return record
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedRecord as error:
            self._set_aside(path, str(error))
        return None

    def _set_aside(self, path: Path, reason: str) -> None:
        if self.read_only:
            warnings.warn(f"{path} is damaged and left out: {reason}", stacklevel=4)
            return
        if path.parent in self._held:
            moved = _move_aside(path)
        else:
            handle = os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o644) if _writable(path) else None
            if handle is None:
                warnings.warn(f"{path} is damaged and left out: {reason}", stacklevel=4)
                return
            try:
                # Another process may be about to replace the damaged file with a good one.
                moved = _move_aside(path) if _flock(handle) else None
            finally:
                os.close(handle)
        where = f"; moved to {moved.name}, its run is done again" if moved else ""
        warnings.warn(f"{path} is damaged ({reason}){where}", stacklevel=4)


def _flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        warnings.warn("this file system has no locks: do not run two processes on one results folder", stacklevel=4)
    return True


def _writable(path: Path) -> bool:
    return os.access(path.parent, os.W_OK | os.X_OK)


def _move_aside(path: Path) -> Path | None:
    for number in range(1, 1000):
        target = path.with_name(f"{path.name}.damaged-{number}")
        if not target.exists():
            try:
                os.replace(path, target)
            except OSError:
                return None
            return target
    return None


def beside(source: str) -> str:
    """The file of a record for which a more trusted one of the same run stands.

    >>> beside("submitted")
    'record.submitted.json'
    """
    return f"record.{safe_name(source.replace(', ', '-').replace(' ', '-'))}.json"


def safe_name(name: str) -> str:
    """`name` as one folder name: a spec may come from elsewhere and must not lead out of the store."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".") or "_"
